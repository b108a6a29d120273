"""Score estimators: ``∇ log q`` of a density known by its samples alone."""

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from mige_ext import _checks, ops
from mige_ext._precision import at_least_float32, in_units, positive, saturated, unit_of
from mige_ext.kernels import Bandwidth, bandwidth_rule, bandwidth_tensor


@runtime_checkable
class ScoreEstimator(Protocol):
    """What the information functions ask of an estimator."""

    def score(self, samples: Tensor) -> Tensor:
        """Scores at the samples themselves: (..., M, d) -> (..., M, d), without a gradient."""
        ...


def require_estimator(estimator: object) -> None:
    """Anything with a method ``score``."""
    if isinstance(estimator, type) or not isinstance(estimator, ScoreEstimator):
        raise TypeError(f"estimator must have a method score(samples), got {estimator!r}")


@dataclass(frozen=True, eq=False)
class Diagnostics:
    """What an estimate says about itself, one value for each group of samples, (...).

    Attributes:
        rank: J, the number of eigenvalues kept; 0 where all samples are equal and σ is not given.
        bandwidth: σ, in the units of the samples.
        energy: share of trace(K) that the kept eigenvalues hold.
        calibration: ``−mean(Σ s·(z − m)) / d`` of the estimate before any correction. Stein's
            identity makes it 1 for the true score; kernel estimates are shrunk and stay below, the
            more so the fewer samples there are for the dimension.
    """

    rank: Tensor
    bandwidth: Tensor
    energy: Tensor
    calibration: Tensor


@dataclass(frozen=True, kw_only=True)
class SSGE:
    """Spectral Stein Gradient Estimator with the RBF kernel (Shi, Sun, Zhu, ICML 2018).

    ``∇ log q(z) ≈ −Σ_{j≤J} β_j ψ_j(z)``, with ψ_j the Nyström eigenfunctions of the kernel under q
    and β_j by Stein's identity. At the samples: ``−U_J Λ_J^{−1} U_Jᵀ H``; elsewhere:
    ``k(z, X) W``, ``W = −U_J Λ_J^{−2} U_Jᵀ H``.

        >>> import torch, mige_ext as mige
        >>> x = torch.randn(256, 8)
        >>> s = mige.SSGE(threshold=0.99).score(x)       # near −x, the score of a standard normal
        >>> fitted = mige.SSGE(rank=20).fit(x)
        >>> fitted.score(torch.zeros(5, 8)).shape
        torch.Size([5, 8])

    Scores are computed on detached inputs, in float32 at least, for any leading batch dimensions:
    each group has its own bandwidth and rank.

    Args:
        threshold: J is the smallest number of leading eigenvalues whose share of the trace reaches
            it, in (0, 1].
        rank: J itself, instead of ``threshold``.
        bandwidth: "median", a number, or a :class:`Bandwidth` rule.
        calibrate: "stein" divides the scores of each group by :attr:`Diagnostics.calibration`,
            one scalar that undoes the shrinkage; None leaves them.
    """

    threshold: float = 0.99
    rank: int | None = None
    bandwidth: str | float | Bandwidth = "median"
    calibrate: Literal["stein"] | None = None

    def __post_init__(self) -> None:
        """Checks the arguments."""
        _checks.require_share("threshold", self.threshold)
        _checks.require_count("rank", self.rank, or_none=True)
        bandwidth_rule(self.bandwidth)
        if self.calibrate not in (None, "stein"):
            raise ValueError(f'calibrate must be "stein" or None, got {self.calibrate!r}')

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
            O(M³ + M²d) time, O(M² + Md) memory for each group.
        """
        samples = _prepare(samples)
        scores, *_ = self._estimate(samples, 1, bandwidth_rule(self.bandwidth))
        if self.calibrate is None:
            return scores
        return _calibrated(scores, stein_calibration(samples, scores))

    def fit(self, samples: Tensor) -> "FittedSSGE":
        """Fits the Nyström extension, which gives scores anywhere.

        Args:
            samples: (..., M, d) with M >= 2, floating point.

        Returns:
            The fitted score; it keeps its own samples and coefficients, 2Md values a group.

        Raises:
            ValueError, TypeError: samples that are not such a tensor or not finite.

        Cost:
            O(M³ + M²d) time, O(M² + Md) memory for each group.
        """
        samples = _prepare(samples)
        unit = unit_of(samples)
        rule: Bandwidth | Tensor | float = bandwidth_rule(self.bandwidth)
        given = None if isinstance(rule, Bandwidth) else bandwidth_tensor(rule, samples)
        if given is not None:
            rule = positive(given / unit.squeeze((-2, -1)))
        samples = samples / unit
        coefficients, values, bandwidth, rank = self._estimate(samples, 2, rule)
        # A group of equal samples has bandwidth and coefficients 0; any positive σ keeps k defined.
        sigma = torch.where(bandwidth > 0, bandwidth, 1.0)
        scores = ops.rbf_product(samples, samples, coefficients, bandwidth=sigma)
        if given is None:
            absolute = torch.where(bandwidth > 0, positive(bandwidth * unit.squeeze((-2, -1))), 0.0)
        else:
            absolute = given
        diagnostics = _diagnostics(samples, scores, values, absolute, rank)
        if self.calibrate is not None:
            coefficients = _calibrated(coefficients, diagnostics.calibration)
        return FittedSSGE(samples, coefficients, sigma, unit, diagnostics)

    def diagnose(self, samples: Tensor) -> Diagnostics:
        """Rank, bandwidth, captured energy and calibration of :meth:`score`; same arguments."""
        samples = _prepare(samples)
        rule = bandwidth_rule(self.bandwidth)
        scores, values, bandwidth, rank = self._estimate(samples, 1, rule)
        return _diagnostics(samples, scores, values, bandwidth, rank)

    def _estimate(
        self, samples: Tensor, power: int, rule: Bandwidth | float | Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        fixed = None if isinstance(rule, Bandwidth) else bandwidth_tensor(rule, samples)
        chosen = rule if isinstance(rule, Bandwidth) else Bandwidth()
        try:
            return ops.ssge(
                samples,
                fixed,
                quantile=chosen.quantile,
                multiplier=chosen.multiplier,
                threshold=self.threshold,
                rank=self.rank,
                power=power,
            )
        except RuntimeError:
            if _checks.looking_is_free(samples):  # a GPU's error is another, and not to be hidden
                _checks.require_finite(samples=samples)
            raise


@dataclass(frozen=True, eq=False)
class FittedSSGE:
    """The Nyström extension of an :class:`SSGE` fit, ``∇ log q(z) ≈ k(z, X) W``.

    All but the diagnostics is in units of a power of two near the size of the samples, so that
    samples of any size have coefficients in range.

    Attributes:
        samples: X, (..., M, d).
        coefficients: W, (..., M, d).
        bandwidth: σ, (...); 1 for a group of equal samples, whose coefficients are 0.
        unit: what the others are in units of, (..., 1, 1).
        diagnostics: rank, bandwidth, energy and calibration, in the units of the caller.
    """

    samples: Tensor
    coefficients: Tensor
    bandwidth: Tensor
    unit: Tensor
    diagnostics: Diagnostics

    def score(self, query: Tensor | None = None) -> Tensor:
        """Scores at other points.

        Args:
            query: (..., Q, d), leading dimensions and device as the samples; the samples themselves
                if not given.

        Returns:
            (..., Q, d), without a gradient, in the dtype of the fit.

        Raises:
            ValueError, TypeError: a query that is not such a tensor or not finite.

        Cost:
            O(QMd) time, O(Md) memory: the Q×M kernel matrix is never formed.
        """
        if query is None:
            points = self.samples
        else:
            _checks.require_query("query", query, self.samples)
            if _checks.looking_is_free(query):
                _checks.require_finite(query=query)
            points = in_units(query.detach().to(self.samples.dtype), self.unit)
        scores = ops.rbf_product(points, self.samples, self.coefficients, bandwidth=self.bandwidth)
        return saturated(scores / self.unit)


def stein_calibration(samples: Tensor, scores: Tensor) -> Tensor:
    """``−mean(Σ s·(z − m)) / d`` for each group: 1 for the true score, by Stein's identity.

    Args:
        samples: (..., M, d).
        scores: (..., M, d), at the samples.

    Returns:
        (...).
    """
    return -stein_sum(samples, scores) / samples.shape[-2] / samples.shape[-1]


def stein_sum(samples: Tensor, scores: Tensor) -> Tensor:
    """``Σ s·(z − m)`` over the samples and dimensions of each group, (..., M, d) twice -> (...).

    z − m is halved, and s doubled, because a difference of finite numbers need not be finite.
    """
    half_mean = (samples / (2 * samples.shape[-2])).sum(-2, keepdim=True)
    return ((samples / 2 - half_mean) * scores * 2).sum((-2, -1))


def _prepare(samples: Tensor) -> Tensor:
    """Checked, detached, in float32 or float64."""
    _checks.require_samples("samples", samples)
    return at_least_float32(samples.detach())


def _calibrated(values: Tensor, calibration: Tensor) -> Tensor:
    # Not positive where there is nothing to calibrate: equal samples, whose score is 0.
    factor = torch.where(calibration > 0, calibration, 1.0)
    return saturated(values / factor.unsqueeze(-1).unsqueeze(-1))


def _diagnostics(
    samples: Tensor, scores: Tensor, values: Tensor, bandwidth: Tensor, rank: Tensor
) -> Diagnostics:
    m = samples.shape[-2]
    kept = torch.arange(m, device=samples.device) >= m - rank.unsqueeze(-1)
    energy = torch.where(kept, values, 0.0).sum(-1) / m
    return Diagnostics(rank, bandwidth, energy, stein_calibration(samples, scores))
