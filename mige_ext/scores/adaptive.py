"""A score estimator without settings: it chooses its own regularisation by Stein's identity."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mige_ext import _checks, ops
from mige_ext._precision import about_origin, no_autocast, saturated
from mige_ext.scores.base import (
    Fitted,
    calibrated,
    prepared,
    prepared_query,
    require_calibrate,
    stein_calibration,
)
from mige_ext.scores.gaussian import FittedGaussian, GaussianScore


@dataclass(frozen=True, eq=False)
class AdaptiveDiagnostics:
    """What an adaptive estimate says about itself, one value for each group of samples, (...).

    Attributes:
        lam: λ of Tikhonov's filter; infinite where the Gaussian score is taken as it is.
        base: 1 where the filter corrects the Gaussian score, 0 where it starts from nothing.
        risk: estimate of ``E‖ŝ − s‖²/2`` less that of the Gaussian score, in whitened units:
            negative, by how much better the choice is than that; 0 for that itself. The Gaussian
            score is the one with the weak ridge, also where ``gaussian`` puts another in its place.
        standard_error: of the risk.
        bandwidth: σ of the IMQ kernel, in whitened units.
        calibration: ``−mean(Σ s·(z − m)) / d`` before any correction, 1 for the true score.
    """

    lam: Tensor
    base: Tensor
    risk: Tensor
    standard_error: Tensor
    bandwidth: Tensor
    calibration: Tensor


@dataclass(frozen=True, kw_only=True)
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

    Args:
        gaussian: covariance of the Gaussian part. "qis" makes the best scores, far better where
            d/M is not small, but its shrinkage biases gradients of information; "ridge", a weak
            one, biases them less and is what :func:`entropy` and its like take by default; "mle"
            not at all, for poor scores. See :class:`GaussianScore`.
        calibrate: "stein" divides the scores of each group by
            :attr:`AdaptiveDiagnostics.calibration`; None leaves them.
    """

    gaussian: Literal["ridge", "qis", "mle"] = "qis"
    calibrate: Literal["stein"] | None = None

    def __post_init__(self) -> None:
        """Checks the arguments."""
        if self.gaussian not in ("ridge", "qis", "mle"):
            raise ValueError(f'gaussian must be "ridge", "qis" or "mle", got {self.gaussian!r}')
        require_calibrate(self.calibrate)

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
            3 to 5 times M³ + 10M²r flop with r = min(M, d), and an eigendecomposition of r × r;
            memory 4M² + O(Md) for each group. "qis" and "mle" add two eigendecompositions of d × d,
            which are most of it where d > M.
        """
        samples = prepared(samples)
        scores, diagnostics = self._estimate(samples)
        if self.calibrate is None:
            return scores
        return calibrated(scores, diagnostics.calibration)

    def fit(self, samples: Tensor) -> "FittedAdaptive":
        """Fits a score that can be evaluated anywhere, in float64.

        Away from the samples the filter is ``(1/λ)`` times a difference that is as small as λ:
        float32 would lose all but two digits of it. Near a tie a fit may therefore choose another λ
        than :meth:`score`.

        Args:
            samples: (..., M, d) with M >= 2, floating point.

        Returns:
            The fitted score; it keeps its own samples and coefficients.

        Raises:
            ValueError, TypeError: samples that are not such a tensor or not finite.

        Cost:
            That of :meth:`score`, in float64.
        """
        samples = prepared(samples)
        x = samples.double()
        scores, lam, base, risk, error, sigma = _adaptive_score(x)
        mean, whitening, _ = ops.ridge_whitening(x)
        gaussian = self._gaussian(x)
        whole = self._with_gaussian(x, scores, base, gaussian)
        calibration = stein_calibration(x, whole)
        diagnostics = AdaptiveDiagnostics(lam, base, risk, error, sigma, calibration)
        factor = calibrated(torch.ones_like(scores.narrow(-1, 0, 1).narrow(-2, 0, 1)), calibration)
        if self.calibrate is None:
            factor = torch.ones_like(factor)
        return FittedAdaptive(
            samples, scores, mean.unsqueeze(-2), whitening, factor, gaussian, diagnostics
        )

    def diagnose(self, samples: Tensor) -> AdaptiveDiagnostics:
        """What :meth:`score` chooses, and how sure it is; same arguments."""
        return self._estimate(prepared(samples))[1]

    def _estimate(self, x: Tensor) -> tuple[Tensor, AdaptiveDiagnostics]:
        scores, lam, base, risk, error, sigma = _adaptive_score(x)
        scores = self._with_gaussian(x, scores, base, self._gaussian(x))
        calibration = stein_calibration(x, scores)
        return scores, AdaptiveDiagnostics(lam, base, risk, error, sigma, calibration)

    def _gaussian(self, x: Tensor) -> FittedGaussian | None:
        return None if self.gaussian == "ridge" else GaussianScore(self.gaussian).fit(x)

    def _with_gaussian(
        self, x: Tensor, scores: Tensor, base: Tensor, gaussian: FittedGaussian | None
    ) -> Tensor:
        """The scores with another Gaussian part, where there is one."""
        if gaussian is None:
            return scores
        z, _, unit = about_origin(x)
        mean, whitening, _ = ops.ridge_whitening(z)
        with no_autocast(x):
            ridge = -((z - mean.unsqueeze(-2)) @ whitening) @ whitening.mT / unit
        # Finite, also where tiny samples take the scores to the end of the range.
        change = saturated(gaussian.score() - ridge)
        return saturated(scores + base.unsqueeze(-1).unsqueeze(-1) * change)


@dataclass(frozen=True, eq=False)
class FittedAdaptive(Fitted):
    """An adaptive score anywhere: ``s₀(q) − (k(q, Z) S + H(q) Wᵀ) / λM``, ``s₀ = −base z(q) Wᵀ``.

    Attributes:
        samples: (..., M, d); Z = (samples − mean) W.
        scores: S, at the samples, (..., M, d), float64.
        mean: (..., 1, d), float64.
        whitening: W, (..., d, d), float64.
        factor: of the calibration, (..., 1, 1).
        gaussian: the Gaussian part, if it is not ``−z Wᵀ``.
        diagnostics: λ, base, risk, its standard error, σ and calibration.
    """

    samples: Tensor
    scores: Tensor
    mean: Tensor
    whitening: Tensor
    factor: Tensor
    gaussian: FittedGaussian | None
    diagnostics: AdaptiveDiagnostics

    def score(self, query: Tensor | None = None) -> Tensor:
        """Scores at other points.

        Args:
            query: (..., Q, d), leading dimensions and device as the samples; the samples themselves
                if not given.

        Returns:
            (..., Q, d), without a gradient, in the dtype of the samples.

        Raises:
            ValueError, TypeError: a query that is not such a tensor or not finite.

        Cost:
            7QMd flop in float64, memory 2QM for each group.
        """
        points = self.samples if query is None else prepared_query(query, self.samples)
        limit = torch.finfo(self.samples.dtype).max
        with no_autocast(self.samples):
            scores = self._score(points.double()).clamp(-limit, limit)
        return scores.to(self.samples.dtype)

    def _score(self, points: Tensor) -> Tensor:
        z = (self.samples.double() - self.mean) @ self.whitening
        q = (points - self.mean) @ self.whitening
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
        correction = saturated(k @ self.scores + h @ back) / (lam * self.samples.shape[-2])
        start = -q @ back if self.gaussian is None else self.gaussian.score(points)
        return (base * start - correction) * self.factor


def _adaptive_score(
    samples: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    with _checks.naming(samples=samples):
        return ops.adaptive_score(samples)
