"""The information of the Student copula that is fitted to the ranks of the samples.

The Student copula is the dependence structure of Student's t distribution. Its coordinates are
dependent even without a correlation, because all are large in the same samples.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mige_ext.values.candidates import Candidate
from mige_ext.values.gaussian import information_bias
from mige_ext.values.ranks import student_quantile

#: Degrees of freedom, tried in this order as long as the likelihood rises.
DEGREES = (32.0, 16.0, 10.0, 6.0, 4.0, 3.0, 2.0, 1.5, 1.0)
_STEPS = 12  # number of steps of the EM algorithm


@dataclass(frozen=True, eq=False)
class StudentCopula:
    """The most likely Student copula, and its likelihood relative to the Gaussian copula."""

    candidate: Candidate
    nu: float
    gain: Tensor  #: log-density minus the log-density of the Gaussian copula at the samples, (M,)


def student_copula(u: Tensor, d_x: int) -> StudentCopula:
    """Fit ν and the scatter to uniform scores of (x, z), (M, d_x + d_z), of full rank."""
    m, d = u.shape
    t, scatter = _fit(u, math.inf)
    gaussian = _log_density(t, scatter, math.inf)
    best, nu = gaussian, math.inf
    for degrees in DEGREES:
        tried, tried_scatter = _fit(u, degrees)
        density = _log_density(tried, tried_scatter, degrees)
        if not density.mean() > best.mean():  # also NaN, of a singular scatter
            break
        t, scatter, best, nu = tried, tried_scatter, density, degrees
    of_x = _log_density(t[:, :d_x], scatter[:d_x, :d_x], nu)
    of_z = _log_density(t[:, d_x:], scatter[d_x:, d_x:], nu)
    terms = best - of_x - of_z
    # The scatter has as many parameters as a Gaussian covariance.
    value = terms.mean() - information_bias(m, d_x, d - d_x)
    return StudentCopula(Candidate("student", value, terms), nu, best - gaussian)


def _fit(u: Tensor, nu: float) -> tuple[Tensor, Tensor]:
    """Quantiles t of the scores, (M, d), and their scatter with a unit diagonal, by EM."""
    t = student_quantile(u, nu)
    m, d = t.shape
    scatter = _unit_diagonal(torch.corrcoef(torch.special.ndtri(u).mT).reshape(d, d))
    for _ in range(0 if math.isinf(nu) else _STEPS):
        weights = (nu + d) / (nu + _mahalanobis(t, scatter))
        scatter = _unit_diagonal((t * weights.unsqueeze(1)).mT @ t / m)
    return t, scatter


def _root(scatter: Tensor) -> Tensor:
    """The Cholesky factor of a scatter, or NaN if the scatter is singular up to rounding."""
    root, info = torch.linalg.cholesky_ex(scatter)
    return torch.where(info == 0, root, torch.nan)


def _unit_diagonal(scatter: Tensor) -> Tensor:
    root = scatter.diagonal().sqrt()
    return scatter / torch.outer(root, root)


def _mahalanobis(t: Tensor, scatter: Tensor) -> Tensor:
    root = _root(scatter)
    return torch.linalg.solve_triangular(root, t.mT, upper=False).square().sum(0)


def _log_density(t: Tensor, scatter: Tensor, nu: float) -> Tensor:
    """Log-density of the copula at the samples, (M,), by their quantiles t."""
    d = t.shape[1]
    squares, half_log = _mahalanobis(t, scatter), _root(scatter).diagonal().log()
    if math.isinf(nu):
        return -half_log.sum() - (squares - t.square().sum(1)) / 2
    constant = (
        math.lgamma((nu + d) / 2)
        + (d - 1) * math.lgamma(nu / 2)
        - d * math.lgamma((nu + 1) / 2)
        - half_log.sum()
    )
    margins = (nu + 1) / 2 * torch.log1p(t.square() / nu).sum(1)
    return constant - (nu + d) / 2 * torch.log1p(squares / nu) + margins
