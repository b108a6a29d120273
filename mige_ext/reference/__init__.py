"""The operators of :mod:`mige_ext.ops` in plain torch, in any dtype, for the tests.

Tests compare the operators with these functions in float64. The functions follow the formulas of
the papers with every intermediate, and use no code of the operators. Only tests and benchmarks
import these functions, which are slow.
"""

from mige_ext.reference.adaptive import (
    LAMBDA_GRID,
    adaptive_divergence,
    adaptive_kept,
    adaptive_residual,
    adaptive_risk,
    adaptive_score,
    adaptive_start,
    imq,
)
from mige_ext.reference.kernel import (
    distance_quantile,
    eigh,
    rbf_gradient_sum,
    rbf_gram,
    rbf_product,
    squared_distances,
    ssge,
)
from mige_ext.reference.student import (
    STUDENT_NU,
    STUDENT_STEPS,
    adaptive_student_score,
    student_departure,
    student_score,
    student_weight,
)
from mige_ext.reference.whitening import RIDGE_GRID, ridge_whitening

__all__ = [
    "LAMBDA_GRID",
    "RIDGE_GRID",
    "STUDENT_NU",
    "STUDENT_STEPS",
    "adaptive_divergence",
    "adaptive_kept",
    "adaptive_residual",
    "adaptive_risk",
    "adaptive_score",
    "adaptive_start",
    "adaptive_student_score",
    "distance_quantile",
    "eigh",
    "imq",
    "rbf_gradient_sum",
    "rbf_gram",
    "rbf_product",
    "ridge_whitening",
    "squared_distances",
    "ssge",
    "student_departure",
    "student_score",
    "student_weight",
]
