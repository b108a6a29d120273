"""The compiled operators, one function each.

==========================  =============================================  ==============
operator                    result                                         differentiable
==========================  =============================================  ==============
:func:`squared_distances`   ``‖x_i − y_j‖²``                               yes
:func:`distance_quantile`   a quantile of the distances ``‖x_i − x_j‖``    no
:func:`rbf_gram`            ``k_ij = exp(−‖x_i − y_j‖² / 2σ²)``            yes
:func:`rbf_gradient_sum`    ``H_j = Σ_i ∇_{x_i} k(x_i, x_j)``              no
:func:`rbf_product`         ``k(q, X) W``, the Nyström extension           no
:func:`eigh`                ``K = U diag(λ) Uᵀ``                           no
:func:`ssge`                the Spectral Stein Gradient Estimator          no
:func:`ridge_whitening`     mean, whitening matrix and ridge τ             no
:func:`adaptive_score`      a score that chooses its own regularization    no
==========================  =============================================  ==============

Every operator takes leading batch dimensions, whose groups are independent of each other, float32
or float64, and any strides, on the CPU and on CUDA. Results are bitwise the same from run to run,
and for a group alone and in a batch. On the CPU, with the MKL of torch for x86-64, they are also
the same for any number of threads.

NaN, infinity, and bandwidths that are not positive raise an error on the CPU. On CUDA a check of
values would stall the stream; there they make all results of their group NaN, and J is 0.
``reference.py`` contains the same operators in plain torch.
"""

from mige_ext.ops._call import OPERATORS
from mige_ext.ops.kernels import (
    distance_quantile,
    rbf_gradient_sum,
    rbf_gram,
    rbf_product,
    squared_distances,
)
from mige_ext.ops.scores import adaptive_score, eigh, ridge_whitening, ssge

__all__ = [
    "OPERATORS",
    "adaptive_score",
    "distance_quantile",
    "eigh",
    "rbf_gradient_sum",
    "rbf_gram",
    "rbf_product",
    "ridge_whitening",
    "squared_distances",
    "ssge",
]
