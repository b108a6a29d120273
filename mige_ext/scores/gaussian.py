"""The Gaussian score, ``∇ log q(z) = −Σ^{−1}(z − m)``, with a covariance that is shrunk.

It costs O(Md² + d³), no M×M, and is what an estimator has to beat: on data that are Gaussian to
second order no kernel does.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mige_ext import _checks, ops
from mige_ext._precision import (
    about_origin,
    in_units,
    no_autocast,
    power_of_two,
    saturated,
    standardised,
)
from mige_ext.scores.base import (
    Fitted,
    prepared,
    prepared_query,
    require_calibrate,
    stein_calibration,
)


@dataclass(frozen=True, eq=False)
class GaussianDiagnostics:
    """What a Gaussian estimate says about itself, one value for each group of samples, (...).

    Attributes:
        calibration: ``−mean(Σ s·(z − m)) / d`` before any correction; 1 for "mle" where the
            covariance is regular, and less the more it is shrunk.
    """

    calibration: Tensor


@dataclass(frozen=True, eq=False)
class FittedGaussian(Fitted):
    """A fitted Gaussian score, ``g(q) = −(q − m) W Wᵀ``.

    All but the diagnostics is in units of length that are powers of two, and about an origin, so
    that neither the size nor the offset of the samples costs accuracy.

    Attributes:
        samples: (..., M, d).
        mean: m, (..., 1, d).
        whitening: W, (..., d, d), with ``W Wᵀ`` the precision.
        origin: (..., 1, d).
        unit: of each column, (..., 1, d).
        diagnostics: about the estimate.
    """

    samples: Tensor
    mean: Tensor
    whitening: Tensor
    origin: Tensor
    unit: Tensor
    diagnostics: GaussianDiagnostics

    def score(self, query: Tensor | None = None) -> Tensor:
        """Scores at other points, 4Qd² flop.

        Args:
            query: (..., Q, d), leading dimensions and device as the samples; the samples themselves
                if not given.

        Returns:
            (..., Q, d), without a gradient, in the dtype of the fit.

        Raises:
            ValueError, TypeError: a query that is not such a tensor or not finite.
        """
        with no_autocast(self.samples):
            return saturated(saturated(-self._whitened(query) @ self.whitening.mT) / self.unit)

    def energy(self, query: Tensor | None = None) -> Tensor:
        """``−‖(q − m) W‖²/2``, the log-density up to a constant for each group: (..., Q)."""
        with no_autocast(self.samples):
            return saturated(self._whitened(query).square().sum(-1) / -2)

    def _whitened(self, query: Tensor | None) -> Tensor:
        if query is None:
            points = self.samples
        else:
            points = in_units(prepared_query(query, self.samples), self.unit) - self.origin
        # Within the root of the largest number no product with W, which is at most 1/ε, overflows.
        limit = torch.finfo(points.dtype).max ** 0.5
        return (points - self.mean).clamp(-limit, limit) @ self.whitening


@dataclass(frozen=True)
class GaussianScore:
    """Score of the Gaussian with the mean and a shrunk covariance of the samples.

        >>> import torch, mige_ext as mige
        >>> x = torch.randn(100, 20)
        >>> s = mige.GaussianScore("qis").score(x)       # near −x
        >>> mige.GaussianScore().fit(x).energy(torch.zeros(5, 20)).shape
        torch.Size([5])

    Computed on detached inputs, in float32 at least, for any leading batch dimensions.

    Args:
        shrinkage: of the covariance.

            - "ridge": ``R + τI`` for the correlation matrix R, τ by leaving one out
              (:func:`ridge_whitening`). Equivariant to shifts and to scales of each column.
            - "qis": quadratic-inverse shrinkage of the eigenvalues, for any M and d
              (:func:`qis_whitening`). Equivariant to shifts, rotations and one scale.
            - "mle": the covariance over M, by the pseudo-inverse of R where that is singular, as it
              is where M <= d. Equivariant to affine maps where it is regular.
        calibrate: "stein" divides the scores of each group by
            :attr:`GaussianDiagnostics.calibration`; None leaves them.
    """

    shrinkage: Literal["ridge", "qis", "mle"] = "ridge"
    calibrate: Literal["stein"] | None = None

    def __post_init__(self) -> None:
        """Checks the arguments."""
        if self.shrinkage not in ("ridge", "qis", "mle"):
            raise ValueError(f'shrinkage must be "ridge", "qis" or "mle", got {self.shrinkage!r}')
        require_calibrate(self.calibrate)

    def score(self, samples: Tensor) -> Tensor:
        """Scores at the samples.

        Args:
            samples: (..., M, d) with M >= 2, floating point.

        Returns:
            (..., M, d), without a gradient; float64 for float64 samples, else float32. Zero in a
            column whose values are all equal.

        Raises:
            ValueError, TypeError: samples that are not such a tensor or not finite.

        Cost:
            O(Md² + d³) time, O(Md + d²) memory for each group.
        """
        return self.fit(samples).score()

    def fit(self, samples: Tensor) -> FittedGaussian:
        """Fits the score anywhere; takes and raises what :meth:`score` does."""
        samples = prepared(samples)
        if _checks.looking_is_free(samples):
            _checks.require_finite(samples=samples)
        x, origin, unit = about_origin(samples)
        with no_autocast(x):
            if self.shrinkage == "ridge":
                mean, whitening = ridge_whitening(x)
            elif self.shrinkage == "mle":
                mean, whitening = mle_whitening(x)
            else:  # one unit of length for all columns
                widths = saturated(x.abs().amax(-2, keepdim=True) * unit)
                ratio = in_units(unit, power_of_two(widths.amax(-1, keepdim=True)))
                mean, whitening = standardised(x)[0], ratio.mT * qis_whitening(x * ratio)[1]
            scores = -((x - mean) @ whitening) @ whitening.mT
        diagnostics = GaussianDiagnostics(stein_calibration(x, scores))
        if self.calibrate is not None:
            calibration = torch.where(diagnostics.calibration > 0, diagnostics.calibration, 1.0)
            whitening = whitening / calibration.sqrt().unsqueeze(-1).unsqueeze(-1)
        return FittedGaussian(x, mean, whitening, origin, unit, diagnostics)

    def diagnose(self, samples: Tensor) -> GaussianDiagnostics:
        """The calibration of :meth:`score`; same arguments."""
        return self.fit(samples).diagnostics


# --- whitening ------------------------------------------------------------------------------------
#
# Of samples (..., M, d), float32 or float64, near 1 in size: the mean m, (..., 1, d), and W,
# (..., d, d), with W Wᵀ the precision, so that (x − m) W is white. Rows of W for constant columns
# are 0.


def ridge_whitening(x: Tensor) -> tuple[Tensor, Tensor]:
    """``W = D^{−1} (R + τ)^{−1/2}``, τ by leaving one out: :func:`mige_ext.ops.ridge_whitening`."""
    mean, whitening, _ = ops.ridge_whitening(x, factor=1.0)
    return mean.unsqueeze(-2), whitening


def mle_whitening(x: Tensor) -> tuple[Tensor, Tensor]:
    """``W = D^{−1} U Λ^{−1/2}`` without the eigenvalues of R that are rounding errors of 0."""
    mean, v, deviation = standardised(x)
    values, vectors = _spectrum(v)
    scales = torch.where(values > _noise(v, values), values, torch.inf).rsqrt()
    return mean, _rows(deviation) * vectors * scales.unsqueeze(-2)


def qis_whitening(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and whitening ``W = U δ^{−1/2}``, δ the eigenvalues λ after quadratic-inverse shrinkage.

    Ledoit and Wolf, "Quadratic shrinkage for large covariance matrices" (Bernoulli 28(3), 2022).
    With n = M − 1, c = d/n, the means over the min(n, d) positive eigenvalues, ``l = 1/λ``,
    ``h = min(c, 1/c)^{0.7} d^{−0.35}``, and the smoothed Stein shrinker with its conjugate,

    ``θ_i = mean_j l_j(l_j − l_i)/((l_j − l_i)² + h²l_j²)``, ``ϑ_i = mean_j h l_j²/(same)``:

    ``1/δ_i = l_i((1 − c)² + 2c(1 − c)θ_i + c²(θ_i² + ϑ_i²))`` for d <= n; for d > n
    ``1/δ_i = l_i(θ_i² + ϑ_i²)`` and ``1/δ = (c − 1) mean l`` for the d − n eigenvalues that are 0.
    δ is then scaled to the trace of λ. Directions without variance where d <= n are left out.

    Args:
        x: (..., M, d) with M >= 2, float32 or float64.

    Returns:
        m, (..., 1, d), and W, (..., d, d): see above.

    Cost:
        4Md² + 9d³ flop, and a few min(n, d)² values.
    """
    mean, v, deviation = standardised(x)
    # In float64, because columns may differ in size: what is below ε of the largest eigenvalue is
    # lost.
    v = (v * deviation).double()
    m, d = v.shape[-2:]
    n, c, positive = m - 1, d / (m - 1), min(m - 1, d)
    values, vectors = _spectrum(v)
    values = values * (m / n)  # the unbiased covariance
    largest = values.narrow(-1, d - 1, 1)
    largest = torch.where(largest > 0, largest, 1.0)
    noise = _noise(v, values)
    known = values.narrow(-1, d - positive, positive)
    left_out = known <= noise
    inverse = largest / torch.maximum(known, torch.where(noise > 0, noise, 1.0))  # λ_1 l_i
    shrunk = inverse * _quadratic(inverse, min(c, 1 / c) ** 0.7 * d**-0.35, c)
    if d > n:
        null = (c - 1) * inverse.mean(-1, keepdim=True)
        shrunk = torch.cat((null.expand(*null.shape[:-1], d - n), shrunk), -1)
        left_out = torch.nn.functional.pad(left_out, (d - n, 0), value=False)
    trace = (values / largest).sum(-1, keepdim=True)
    precision = shrunk * ((1 / shrunk).sum(-1, keepdim=True) / torch.where(trace > 0, trace, 1.0))
    scales = torch.where(left_out, 0.0, (precision / largest).sqrt())
    whitening = (deviation > 0).mT * vectors * scales.unsqueeze(-2)
    return mean, whitening.to(x.dtype)


def _quadratic(inverse: Tensor, h: float, c: float) -> Tensor:
    """``(1 − c)² + 2c(1 − c)θ + c²(θ² + ϑ²)``, with c = 1 where it is more."""
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


def _noise(v: Tensor, values: Tensor) -> Tensor:
    """What rounding leaves of an eigenvalue that is 0, (..., 1)."""
    m, d = v.shape[-2:]
    return max(m, d) * torch.finfo(v.dtype).eps * values.narrow(-1, d - 1, 1)


def _rows(deviation: Tensor) -> Tensor:
    """``D^{−1}`` as a column, 0 for constant columns: (..., 1, d) -> (..., d, 1)."""
    return torch.where(deviation > 0, 1 / deviation, 0.0).mT
