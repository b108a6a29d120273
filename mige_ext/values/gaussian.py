"""The Gaussian part of the information, and white coordinates of a block of columns."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mige_ext.values.candidates import Candidate

#: Least variance of a direction of normal scores, relative to the largest variance.
NO_VARIANCE = 1e-6
#: If the smallest eigenvalue of the covariance is below this number, x and z count as dependent.
DEPENDENT = 1e-9


@dataclass(frozen=True, eq=False)
class GaussianPart:
    """The information of the Gaussian with the covariance of the samples."""

    candidate: Candidate
    x: Tensor  #: white coordinates of x, (M, d_x)
    z: Tensor  #: white coordinates of z, (M, d_z)
    root: Tensor  #: Cholesky factor of the covariance of the white (x, z)


def white(y: Tensor, least: float = NO_VARIANCE) -> Tensor:
    """Coordinates with covariance I, (M, d) -> (M, r), without directions that have no variance.

    Directions with a smaller fraction of the largest variance than ``least`` are left out.
    """
    y = y - y.mean(0)
    variances, directions = torch.linalg.eigh(y.mT @ y / y.shape[0])
    kept = variances > least * variances[-1]
    return y @ directions[:, kept] / variances[kept].sqrt()


def dimensions(y: Tensor, z: Tensor) -> int:
    """Number of columns that count in the least number of samples: those of ``z = white(y)``.

    With too few samples, z has M − 1 columns whatever y is. Then all columns of y count.
    """
    return z.shape[1] if z.shape[1] < z.shape[0] - 1 else y.shape[1]


def log_determinant_bias(m: int, d: int) -> float:
    """``E log|S| − log|Σ|`` for the covariance S (divisor M − 1) of M Gaussian samples."""
    index = torch.arange(d, dtype=torch.float64)
    half = torch.tensor((m - 1) / 2, dtype=torch.float64)
    return float((torch.digamma(half - index / 2) - half.log()).sum())


def information_bias(m: int, d_x: int, d_z: int) -> float:
    """Bias of ``½ (log|S_x| + log|S_z| − log|S_xz|)`` for M Gaussian samples."""
    bias = log_determinant_bias
    return (bias(m, d_x) + bias(m, d_z) - bias(m, d_x + d_z)) / 2


def gaussian_part(x: Tensor, z: Tensor) -> GaussianPart:
    """The Gaussian part from normal scores (normal quantiles of ranks), (M, d_x) and (M, d_z).

    Raises:
        ValueError: x and z are linearly dependent, or M is too small.
    """
    white_x, white_z = white(x), white(z)
    m, d = x.shape[0], dimensions(x, white_x) + dimensions(z, white_z)
    if m < d + 2:
        raise ValueError(
            f"x and z must have at least {d + 2} samples (the number of their directions with "
            f"variance, plus 2), got {m}: use more samples, or project x to fewer columns"
        )
    pairs = torch.cat((white_x, white_z), 1)
    covariance = pairs.mT @ pairs / m
    if float(torch.linalg.eigvalsh(covariance)[0]) < DEPENDENT:
        raise ValueError(
            "x and z must not determine each other, got a linear combination of the columns of x "
            "that equals a linear combination of the columns of z: I(x; z) is infinite. Add noise "
            "to z"
        )
    root = torch.linalg.cholesky(covariance)
    value = -root.diagonal().log().sum() - information_bias(m, white_x.shape[1], white_z.shape[1])
    mahalanobis = torch.linalg.solve_triangular(root, pairs.mT, upper=False).square().sum(0)
    terms = (pairs.square().sum(1) - mahalanobis) / 2
    return GaussianPart(Candidate("gaussian", value, terms), white_x, white_z, root)
