"""The Spectral Stein Gradient Estimator: the spectral cut-off."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mige_ext import _checks, _recording, ops
from mige_ext._precision import gram_rounding, positive, unit_of
from mige_ext.scores.base import Diagnostics, calibrated, stein_calibration
from mige_ext.scores.kernel.gram import Gram, has_native_product
from mige_ext.scores.kernel.kernels import Bandwidth, bandwidth_rule, bandwidth_tensor
from mige_ext.scores.kernel.spectral import FittedFilter, Solution, SpectralFilter, leading


@dataclass(frozen=True, eq=False, repr=False)
class FittedSSGE(FittedFilter):
    """The fit of an :class:`SSGE` estimator, ``∇ log q(z) ≈ K(z, X) W``."""


@dataclass(frozen=True, kw_only=True)
class SSGE(SpectralFilter):
    """Spectral Stein Gradient Estimator (Shi, Sun, Zhu, ICML 2018).

    Let Λ_J and U_J be the J largest eigenvalues of the Gram matrix K and their eigenvectors, and H
    the gradient sum. The score is ``−U_J Λ_J^{−1} U_Jᵀ H`` at the samples, and ``k(z, X) W`` with
    ``W = −U_J Λ_J^{−2} U_Jᵀ H`` at other points z (the Nyström extension).

        >>> import torch, mige_ext as mige
        >>> x = torch.randn(256, 8)
        >>> s = mige.SSGE(threshold=0.99).score(x)       # near −x, the score of a standard normal
        >>> fitted = mige.SSGE(rank=20).fit(x)
        >>> fitted.score(torch.zeros(5, 8)).shape
        torch.Size([5, 8])

    :func:`mige_ext.ops.ssge` computes the score of the default kernel. K is M×M, or Md×Md with
    ``curl_free=True``. On CUDA, an eigendecomposition of more than 2048 rows waits for the device.

    Args:
        threshold: J is the smallest number of leading eigenvalues whose sum reaches this fraction
            of trace(K); in (0, 1].
        rank: J itself, instead of ``threshold``.
        kernel, bandwidth, curl_free, calibrate: as for :class:`SpectralFilter`.
    """

    threshold: float = _checks.setting(0.99, _checks.require_fraction)
    rank: int | None = _checks.setting(None, _checks.require_count, or_none=True)

    _fitted = FittedSSGE

    def _quadratic_memory(self, m: int, d: int) -> int:
        return 3 * (m * d if self.curl_free else m) ** 2

    def _score(self, samples: Tensor) -> Tensor:
        if not has_native_product(self.kernel, self.curl_free):
            return super()._score(samples)
        scores, *_ = self._native(samples, 1, self._given_bandwidth(samples))
        if self.calibrate is None:
            return scores
        calibration = stein_calibration(samples, scores)
        _recording.report(_recording.TermRecord(calibration))
        return calibrated(scores, calibration)

    def _fit(self, samples: Tensor) -> FittedFilter:
        if not has_native_product(self.kernel, self.curl_free):
            return super()._fit(samples)
        unit, given = unit_of(samples), self._given_bandwidth(samples)
        samples = samples / unit
        scaled = None if given is None else positive(given / unit.squeeze((-2, -1)))
        coefficients, values, bandwidth, rank = self._native(samples, 2, scaled)
        # A group of equal samples has bandwidth 0 and coefficients 0. k needs a positive σ.
        sigma = torch.where(bandwidth > 0, bandwidth, 1.0)
        scores = ops.rbf_product(samples, samples, coefficients, bandwidth=sigma)
        if given is None:
            given = torch.where(bandwidth > 0, positive(bandwidth * unit.squeeze((-2, -1))), 0.0)
        diagnostics = _diagnostics(samples, scores, values, given, rank)
        coefficients = calibrated(coefficients, diagnostics.calibration, self.calibrate)
        return FittedSSGE(samples, coefficients, sigma, unit, diagnostics)

    def _diagnose(self, samples: Tensor) -> Diagnostics:
        if not has_native_product(self.kernel, self.curl_free):
            return super()._diagnose(samples)
        return _diagnostics(samples, *self._native(samples, 1, self._given_bandwidth(samples)))

    def _given_bandwidth(self, samples: Tensor) -> Tensor | None:
        """σ of each group if ``bandwidth`` is a number; None if ``bandwidth`` is a rule."""
        rule = bandwidth_rule(self.bandwidth)
        return None if isinstance(rule, Bandwidth) else bandwidth_tensor(rule, samples)

    def _native(
        self, samples: Tensor, power: int, bandwidth: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        rule = bandwidth_rule(self.bandwidth)
        rule = rule if isinstance(rule, Bandwidth) else Bandwidth()
        with _checks.naming(samples=samples):
            return ops.ssge(
                samples,
                bandwidth,
                quantile=rule.quantile,
                multiplier=rule.multiplier,
                threshold=self.threshold,
                rank=self.rank,
                power=power,
            )

    def _solve(self, gram: Gram, source: Tensor) -> Solution:
        k = gram.dense()
        n, m = k.shape[-1], source.shape[-2]
        if self.rank is not None and self.rank > n:
            name = "Md" if self.curl_free else "M"
            raise ValueError(f"rank must lie in [1, {name}] with {name} = {n}, got {self.rank}")
        values, vectors = ops.eigh(k)
        # Eigenvalues that are rounding errors are not kept.
        trace = gram.trace
        kept = leading(values, self.rank, float(self.threshold) * trace)
        kept = kept & (values > gram_rounding(values))
        inverse = torch.where(kept, 1 / values, 0.0).unsqueeze(-1)
        h = m * source
        rhs = h.flatten(-2).unsqueeze(-1) if self.curl_free else h
        projected = inverse * (vectors.mT @ rhs)
        scores = (vectors @ projected).reshape(h.shape)
        coefficients = (vectors @ (inverse * projected)).reshape(h.shape)
        energy = (torch.where(kept, values, 0.0).sum(-1, keepdim=True) / trace).squeeze(-1)
        return Solution(-scores, -coefficients, None, kept.sum(-1), energy)


def _diagnostics(
    samples: Tensor, scores: Tensor, values: Tensor, bandwidth: Tensor, rank: Tensor
) -> Diagnostics:
    kept = leading(values, rank.unsqueeze(-1))
    energy = torch.where(kept, values, 0.0).sum(-1) / samples.shape[-2]
    return Diagnostics(rank, bandwidth, energy, stein_calibration(samples, scores))
