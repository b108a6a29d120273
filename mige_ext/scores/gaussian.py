"""The Gaussian score, ``∇ log q(z) = −Σ^{−1}(z − m)``, with a regularized covariance.

This score is the control for every other estimator: on Gaussian data few estimators have a smaller
error. The Gaussian score needs no M×M matrix.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mige_ext import ops
from mige_ext._checks import require_choice, require_finite, setting
from mige_ext._precision import (
    about_origin,
    in_units,
    no_autocast,
    power_of_two,
    rounding,
    saturated,
    standardized,
)
from mige_ext.scores.base import (
    Calibrate,
    FittableEstimator,
    FittedGradient,
    calibration_factor,
    stein_calibration,
)

Covariance = Literal["ridge", "qis", "mle"]


@dataclass(frozen=True, eq=False)
class GaussianDiagnostics:
    """Diagnostics of a Gaussian estimate, one value for each group of samples, (...)."""

    #: ``−mean(Σ s·(z − m)) / d`` before any correction, with m the mean of the samples. It is 1 for
    #: "mle" with a regular covariance, and smaller for a stronger shrinkage.
    calibration: Tensor


@dataclass(frozen=True, eq=False, repr=False)
class FittedGaussian(FittedGradient):
    """A fitted Gaussian score, ``g(q) = −(q − m) W Wᵀ``, with the energy ``−‖(q − m) W‖²/2``.

    Cost:
        A score takes 4Qd² flop, an energy 2Qd².
    """

    samples: Tensor  #: (..., M, d)
    mean: Tensor  #: m, (..., 1, d)
    whitening: Tensor  #: W, (..., d, d), with ``W Wᵀ`` the precision
    origin: Tensor  #: (..., 1, d)
    unit: Tensor  #: of each column, (..., 1, d)
    diagnostics: GaussianDiagnostics  #: of the estimate

    def _energy(self, points: Tensor) -> Tensor:
        return self._whitened(points).square().sum(-1) / -2

    def _in_units(self, query: Tensor) -> Tensor:
        return in_units(query, self.unit) - self.origin

    def _score(self, points: Tensor) -> Tensor:
        return in_units(saturated(-self._whitened(points) @ self.whitening.mT), self.unit)

    def _whitened(self, points: Tensor) -> Tensor:
        # W is at most 1/ε. Products with it do not overflow for points within this limit.
        limit = torch.finfo(points.dtype).max ** 0.5
        return (points - self.mean).clamp(-limit, limit) @ self.whitening


@dataclass(frozen=True, kw_only=True)
class GaussianScore(FittableEstimator[FittedGaussian]):
    """Score of the Gaussian with the mean and a regularized covariance of the samples.

        >>> import torch, mige_ext as mige
        >>> x = torch.randn(100, 20)
        >>> s = mige.GaussianScore(covariance="qis").score(x)       # near −x
        >>> mige.GaussianScore().fit(x).energy(torch.zeros(5, 20)).shape
        torch.Size([5])

    The score is zero in a column whose values are all equal.

    Args:
        covariance: the estimate of the covariance.

            - "ridge": ``R + τI`` for the correlation matrix R, with τ chosen by leave-one-out
              (:func:`ridge_whitening`). The score is equivariant to shifts and to scales of each
              column.
            - "qis": quadratic-inverse shrinkage of the eigenvalues, for any M and d
              (:func:`qis_whitening`). The score is equivariant to shifts, rotations and one scale.
            - "mle": maximum likelihood, the covariance over M. If it is singular, as for M <= d,
              its pseudo-inverse is used. If it is regular, the score is equivariant to affine maps.
        calibrate: "stein" divides the scores of each group by
            :attr:`GaussianDiagnostics.calibration`; None does not.

    Cost:
        O(Md² + d³) time, O(Md + d²) memory for each group.
    """

    covariance: Covariance = setting("ridge", require_choice, "ridge", "qis", "mle")
    calibrate: Calibrate = None

    def _fit(self, samples: Tensor) -> FittedGaussian:
        require_finite(samples=samples)
        x, origin, unit = about_origin(samples)
        with no_autocast(x):
            if self.covariance == "ridge":
                mean, whitening = ridge_whitening(x)
            elif self.covariance == "mle":
                mean, whitening = mle_whitening(x)
            else:  # one unit of length for all columns
                widths = saturated(x.abs().amax(-2, keepdim=True) * unit)
                ratio = in_units(unit, power_of_two(widths.amax(-1, keepdim=True)))
                mean, whitening = standardized(x)[0], ratio.mT * qis_whitening(x * ratio)[1]
            scores = -((x - mean) @ whitening) @ whitening.mT
        diagnostics = GaussianDiagnostics(stein_calibration(x, scores))
        if self.calibrate is not None:
            whitening = whitening / calibration_factor(diagnostics.calibration).sqrt()
        return FittedGaussian(x, mean, whitening, origin, unit, diagnostics)


# --- whitening ------------------------------------------------------------------------------------
#
# Each function takes samples (..., M, d) near 1 in size and returns the mean m, (..., 1, d), and W,
# (..., d, d), with the precision W Wᵀ. Then (x − m) W is white. Rows of constant columns are 0.


def ridge_whitening(x: Tensor) -> tuple[Tensor, Tensor]:
    """``W = D^{−1} (R + τI)^{−1/2}`` with τ by leave-one-out: :func:`.ops.ridge_whitening`."""
    mean, whitening, _ = ops.ridge_whitening(x, factor=1.0)
    return mean.unsqueeze(-2), whitening


def mle_whitening(x: Tensor) -> tuple[Tensor, Tensor]:
    """``W = D^{−1} U Λ^{−1/2}`` without the eigenvalues of R that are zero up to rounding."""
    mean, v, deviation = standardized(x)
    values, vectors = _spectrum(v)
    noise = rounding(values, max(v.shape[-2:]))
    scales = torch.where(values > noise, values, torch.inf).rsqrt()
    rows = torch.where(deviation > 0, 1 / deviation, 0.0).mT  # of D^{−1}, 0 for constant columns
    return mean, rows * vectors * scales.unsqueeze(-2)


def qis_whitening(x: Tensor) -> tuple[Tensor, Tensor]:
    """``W = U δ^{−1/2}`` with δ the eigenvalues λ after quadratic-inverse shrinkage.

    Let n = M − 1, c = d/n, ``l = 1/λ``, ``h = min(c, 1/c)^{0.7} d^{−0.35}``, and let means run over
    the min(n, d) positive eigenvalues. The smoothed Stein shrinker and its conjugate are

    ``θ_i = mean_j l_j(l_j − l_i)/((l_j − l_i)² + h²l_j²)``,
    ``ϑ_i = mean_j h l_j²/((l_j − l_i)² + h²l_j²)``.

    For d <= n, ``1/δ_i = l_i((1 − c)² + 2c(1 − c)θ_i + c²(θ_i² + ϑ_i²))``, and directions without
    variance are excluded. For d > n, ``1/δ_i = l_i(θ_i² + ϑ_i²)``, and ``1/δ = (c − 1) mean l`` for
    the d − n eigenvalues that are 0. δ is then scaled to the trace of λ.
    The cost is 4Md² + 9d³ flop, in float64, and memory for a few min(n, d)².

    Ledoit and Wolf, "Quadratic shrinkage for large covariance matrices" (Bernoulli 28(3), 2022).
    """
    mean, v, deviation = standardized(x)
    # In float64, because columns may differ in size, and eigenvalues below ε times the largest one
    # are rounding errors.
    v = (v * deviation).double()
    m, d = v.shape[-2:]
    n, c, positive = m - 1, d / (m - 1), min(m - 1, d)
    values, vectors = _spectrum(v)
    values = values * (m / n)  # the unbiased covariance
    largest = values.narrow(-1, d - 1, 1)
    largest = torch.where(largest > 0, largest, 1.0)
    noise = rounding(values, max(m, d))
    known = values.narrow(-1, d - positive, positive)
    excluded = known <= noise
    inverse = largest / torch.maximum(known, torch.where(noise > 0, noise, 1.0))  # λ_1 l_i
    shrunk = inverse * _quadratic(inverse, min(c, 1 / c) ** 0.7 * d**-0.35, c)
    if d > n:
        null = (c - 1) * inverse.mean(-1, keepdim=True)
        shrunk = torch.cat((null.expand(*null.shape[:-1], d - n), shrunk), -1)
        excluded = torch.nn.functional.pad(excluded, (d - n, 0), value=False)
    trace = (values / largest).sum(-1, keepdim=True)
    precision = shrunk * ((1 / shrunk).sum(-1, keepdim=True) / torch.where(trace > 0, trace, 1.0))
    scales = torch.where(excluded, 0.0, (precision / largest).sqrt())
    whitening = (deviation > 0).mT * vectors * scales.unsqueeze(-2)
    return mean, whitening.to(x.dtype)


def _quadratic(inverse: Tensor, h: float, c: float) -> Tensor:
    """``(1 − c)² + 2c(1 − c)θ + c²(θ² + ϑ²)`` with c at most 1."""
    c = min(c, 1.0)
    others = inverse.unsqueeze(-2)
    apart = others - inverse.unsqueeze(-1)
    weights = others / (apart.square() + (h * others).square())
    theta, conjugate = (weights * apart).mean(-1), h * (weights * others).mean(-1)
    return (1 - c) ** 2 + 2 * c * (1 - c) * theta + c**2 * (theta.square() + conjugate.square())


def _spectrum(v: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, ascending and not negative, and eigenvectors of ``VᵀV/M``."""
    values, vectors = ops.eigh(v.mT @ v / v.shape[-2])
    return values.clamp(min=0), vectors
