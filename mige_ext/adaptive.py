"""A score estimator without settings: it chooses its own regularisation by Stein's identity."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mige_ext import _checks, ops
from mige_ext._precision import at_least_float32, saturated
from mige_ext.score import stein_calibration


@dataclass(frozen=True, eq=False)
class AdaptiveDiagnostics:
    """What an adaptive estimate says about itself, one value for each group of samples, (...).

    Attributes:
        lam: λ of Tikhonov's filter; infinite where the Gaussian score is taken as it is.
        base: 1 where the filter corrects the Gaussian score, 0 where it starts from nothing.
        risk: estimate of ``E‖ŝ − s‖²/2`` less that of the Gaussian score, in whitened units:
            negative, by how much better the choice is than a Gaussian fit; 0 for that itself.
        standard_error: of the risk.
        bandwidth: σ of the IMQ kernel, in whitened units.
        calibration: ``−mean(Σ s·(z − m)) / d``, 1 for the true score.
    """

    lam: Tensor
    base: Tensor
    risk: Tensor
    standard_error: Tensor
    bandwidth: Tensor
    calibration: Tensor


@dataclass(frozen=True)
class AdaptiveScore:
    """Score without a threshold, a bandwidth or a λ to set: Tikhonov's filter chooses itself.

    The samples are whitened with a ridge that minimises a leave-one-out objective; a Tikhonov
    filter with the IMQ kernel then corrects the Gaussian score, ``F = s₀ − (K + λM I)^{−1}
    (K s₀ + H)``, or starts from nothing. λ and the start are those of least risk, which Stein's
    identity gives from the same batch; where no correction is better by more than its standard
    error, the Gaussian score stays as it is. :func:`mige_ext.ops.adaptive_score` has the formulas.

        >>> import torch, mige_ext as mige
        >>> x = torch.randn(256, 8)
        >>> s = mige.AdaptiveScore().score(x)                    # near −x
        >>> bool((s + x).square().sum() < x.square().sum() / 10)
        True

    Scores are computed on detached inputs, in float32 at least, for any leading batch dimensions:
    each group chooses for itself.
    """

    def score(self, samples: Tensor) -> Tensor:
        """Scores at the samples.

        Args:
            samples: (..., M, d) with M >= 2, floating point.

        Returns:
            (..., M, d), without a gradient; float64 for float64 samples, else float32. Zero for a
            group whose samples are all equal.

        Raises:
            ValueError, TypeError: samples that are not such a tensor or not finite.

        Cost:
            3 to 5 times M³ + 10M²r flop with r = min(M, d), and an eigendecomposition of r × r:
            about half the time of an :class:`SSGE` score for M >= 256 and d <= M/4; memory
            4M² + O(Md) for each group.
        """
        return _estimate(_prepare(samples))[0]

    def fit(self, samples: Tensor) -> "FittedAdaptiveScore":
        """Fits a score that can be evaluated anywhere, in float64.

        Away from the samples the filter is ``(1/λ)`` times a difference that is as small as λ:
        float32 would lose all but two digits of it.

        Args:
            samples: (..., M, d) with M >= 2, floating point.

        Returns:
            The fitted score.

        Raises:
            ValueError, TypeError: samples that are not such a tensor or not finite.

        Cost:
            That of :meth:`score` in float64; keeps 2Md + d² values a group.
        """
        samples = _prepare(samples)
        x = samples.double()
        scores, lam, base, risk, error, sigma = _estimate(x)
        mean, whitening, _ = ops.ridge_whitening(x)
        diagnostics = AdaptiveDiagnostics(
            lam, base, risk, error, sigma, stein_calibration(x, scores)
        )
        return FittedAdaptiveScore(x, scores, mean, whitening, diagnostics, samples.dtype)

    def diagnose(self, samples: Tensor) -> AdaptiveDiagnostics:
        """What :meth:`score` chooses, and how sure it is; same arguments."""
        samples = _prepare(samples)
        scores, lam, base, risk, error, sigma = _estimate(samples)
        calibration = stein_calibration(samples, scores)
        return AdaptiveDiagnostics(lam, base, risk, error, sigma, calibration)


@dataclass(frozen=True, eq=False)
class FittedAdaptiveScore:
    """An adaptive score anywhere: ``s₀(q) − (k(q, Z) S + H(q) Wᵀ) / λM``, ``s₀ = −base z(q) Wᵀ``.

    Attributes:
        samples: (..., M, d), float64; Z = (samples − mean) W.
        scores: S, at the samples, (..., M, d).
        mean: (..., d).
        whitening: W, (..., d, d).
        diagnostics: λ, base, risk, its standard error, σ and calibration.
        dtype: of the scores that :meth:`score` gives.
    """

    samples: Tensor
    scores: Tensor
    mean: Tensor
    whitening: Tensor
    diagnostics: AdaptiveDiagnostics
    dtype: torch.dtype

    def score(self, query: Tensor | None = None) -> Tensor:
        """Scores at other points.

        Args:
            query: (..., Q, d), leading dimensions and device as the samples; the samples themselves
                if not given.

        Returns:
            (..., Q, d), without a gradient.

        Raises:
            ValueError, TypeError: a query that is not such a tensor or not finite.

        Cost:
            7QMd flop in float64, memory 2QM for each group.
        """
        if query is None:
            return self.scores.to(self.dtype)
        _checks.require_query("query", query, self.samples)
        if _checks.looking_is_free(query):
            _checks.require_finite(query=query)
        mean = self.mean.unsqueeze(-2)
        z = (self.samples - mean) @ self.whitening
        q = (query.detach().double() - mean) @ self.whitening
        lam, base, sigma = (
            getattr(self.diagnostics, name).unsqueeze(-1).unsqueeze(-1)
            for name in ("lam", "base", "bandwidth")
        )
        # Equal samples have σ = 0 and λ infinite: whatever k is, it then counts for nothing.
        inverse_variance = torch.where(sigma > 0, sigma, 1.0) ** -2
        k = (1 + inverse_variance * ops.squared_distances(q, z)).rsqrt()
        p = -inverse_variance / 2 * k**3
        h = 2 * (p @ z - p.sum(-1, keepdim=True) * q)
        back = self.whitening.mT
        correction = (k @ self.scores + h @ back) / (lam * self.samples.shape[-2])
        return saturated(-base * (q @ back) - correction).to(self.dtype)


def _prepare(samples: Tensor) -> Tensor:
    _checks.require_samples("samples", samples)
    return at_least_float32(samples.detach())


def _estimate(samples: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    try:
        return ops.adaptive_score(samples)
    except RuntimeError:
        if _checks.looking_is_free(samples):  # a GPU's error is another, and not to be hidden
            _checks.require_finite(samples=samples)
        raise
