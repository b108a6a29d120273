"""The compiled operators, one function each.

Every operator takes float32 or float64 tensors with any strides, on the CPU and on CUDA. Leading
dimensions are groups, which are independent of each other. Results are bitwise the same from run to
run, and for a group alone and in a batch. On the CPU, with torch's MKL for x86-64, results are also
the same for any number of threads.

A wrong shape, device or number raises ValueError, and a wrong type or dtype raises TypeError. NaN,
infinity, and a bandwidth that is not positive raise RuntimeError on the CPU. On CUDA, where a check
would stall the stream, all results of the group become NaN, and integers become 0.

``mige_ext.reference`` has the same operators in plain torch.
"""

from mige_ext.ops._call import OPERATORS
from mige_ext.ops.kernels import (
    distance_quantile,
    rbf_gradient_sum,
    rbf_gram,
    rbf_product,
    squared_distances,
)
from mige_ext.ops.scores import (
    adaptive_score,
    adaptive_student_score,
    eigh,
    ridge_whitening,
    ssge,
    student_score,
)

__all__ = [
    "OPERATORS",
    "adaptive_score",
    "adaptive_student_score",
    "distance_quantile",
    "eigh",
    "rbf_gradient_sum",
    "rbf_gram",
    "rbf_product",
    "ridge_whitening",
    "squared_distances",
    "ssge",
    "student_score",
]
