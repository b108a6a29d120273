"""Kernel score estimators: spectral filters of Stein's identity.

For a kernel K with values in R^{d×d} (``gram.py``) the score g of the density of x obeys
``L g = −ζ``, with ``L = K/M`` and ζ the gradient sum of the kernel, both from samples. L is nearly
singular, so that its inverse is filtered (Zhou, Shi, Zhu, "Nonparametric Score Estimators", ICML
2020): ``g = −g_λ(L) ζ`` with

| estimator            | g_λ(μ), μ an eigenvalue of L      | flop a group |
|----------------------|-----------------------------------|--------------|
| ``SSGE(threshold)``  | 1/μ for the J largest μ, else 0   | 9M³          |
| ``Tikhonov(lam)``    | 1/(μ + λ)                         | M³/3         |
| ``Stein(eta)``       | 1/(μ + η/M)                       | M³/3         |
| ``Landweber(steps)`` | (1 − (1 − αμ)^t)/μ                | 2M²d a step  |
| ``NuMethod(steps)``  | a polynomial of degree t − 1      | 2M²d a step  |

With the curl-free kernel these are 9(Md)³; (Md)³/3, or conjugate gradients where that is less; and
6M²d a step. Distances and ζ take 5M²d more. Memory is a few M×M, and (Md)² for the curl-free SSGE
and the curl-free Cholesky (``solvers.py``).

**Elsewhere.** ``L f = Σ_j K(·, x_j) f(x_j)/M``, so that every filter extends to any q as
``g(q) = K(q, X) w + b ζ(q)``, with b = 0 for SSGE and −1/λ for Tikhonov.

**Units.** Kernels are I at r = 0 here. Hence ‖L‖ <= 1, and λ, the number of steps and their size
have no unit: the score of ax is 1/a that of x. A kernel c·k takes λ' = cλ, η' = cη, step size
α' = α/c and as many steps. The paper's diagonal kernels have c = 1 and its curl-free ones
c = 1/σ²; its λ stands for ⌊1/λ⌋ + 1 steps of Landweber's iteration and ⌊1/√λ⌋ + 1 of the ν-method.
"""

from dataclasses import dataclass
from itertools import repeat
from numbers import Real

import torch
from torch import Tensor

from mige_ext import _checks, ops
from mige_ext._precision import positive, unit_of
from mige_ext.scores.base import Diagnostics, calibrated, prepared, stein_calibration
from mige_ext.scores.kernel.gram import CurlFreeGram, DiagonalGram, has_native_product
from mige_ext.scores.kernel.kernels import Bandwidth, bandwidth_rule, bandwidth_tensor
from mige_ext.scores.kernel.solvers import iterate
from mige_ext.scores.kernel.spectral import FittedFilter, Solution, SpectralFilter


@dataclass(frozen=True, eq=False)
class FittedSSGE(FittedFilter):
    """The Nyström extension of an :class:`SSGE` fit, ``∇ log q(z) ≈ K(z, X) W``: b = 0."""


@dataclass(frozen=True, kw_only=True)
class SSGE(SpectralFilter):
    """Spectral Stein Gradient Estimator (Shi, Sun, Zhu, ICML 2018): the spectral cut-off.

    ``∇ log q(z) ≈ −Σ_{j≤J} β_j ψ_j(z)``, with ψ_j the Nyström eigenfunctions of the kernel under q
    and β_j by Stein's identity. At the samples: ``−U_J Λ_J^{−1} U_Jᵀ H``; elsewhere:
    ``k(z, X) W``, ``W = −U_J Λ_J^{−2} U_Jᵀ H``.

        >>> import torch, mige_ext as mige
        >>> x = torch.randn(256, 8)
        >>> s = mige.SSGE(threshold=0.99).score(x)       # near −x, the score of a standard normal
        >>> fitted = mige.SSGE(rank=20).fit(x)
        >>> fitted.score(torch.zeros(5, 8)).shape
        torch.Size([5, 8])

    With the diagonal RBF kernel, the default and the paper's, this is the native operator
    ``ops.ssge``; otherwise an eigendecomposition of M×M, or of Md×Md for the curl-free kernel:
    (Md)² values, and above 2048 rows a wait for the device on CUDA.

    Args:
        threshold: J is the smallest number of leading eigenvalues whose share of the trace reaches
            it, in (0, 1].
        rank: J itself, instead of ``threshold``.
        bandwidth: as for every :class:`SpectralFilter`.
        calibrate: likewise.
        kernel: likewise.
        curl_free: likewise.
    """

    threshold: float = 0.99
    rank: int | None = None

    def __post_init__(self) -> None:
        """Checks the arguments."""
        super().__post_init__()
        _checks.require_share("threshold", self.threshold)
        _checks.require_count("rank", self.rank, or_none=True)

    def score(self, samples: Tensor) -> Tensor:
        """Scores at the samples; see :meth:`SpectralFilter.score`. O(M³ + M²d) time."""
        if not self._is_native:
            return super().score(samples)
        samples = prepared(samples)
        scores, *_ = self._native(samples, 1, bandwidth_rule(self.bandwidth))
        if self.calibrate is None:
            return scores
        return calibrated(scores, stein_calibration(samples, scores))

    def fit(self, samples: Tensor) -> FittedSSGE:
        """Fits the Nyström extension; see :meth:`SpectralFilter.fit`. O(M³ + M²d) time."""
        if not self._is_native:
            return self._fit(FittedSSGE, samples)
        samples = prepared(samples)
        unit = unit_of(samples)
        rule: Bandwidth | Tensor | float = bandwidth_rule(self.bandwidth)
        given = None if isinstance(rule, Bandwidth) else bandwidth_tensor(rule, samples)
        if given is not None:
            rule = positive(given / unit.squeeze((-2, -1)))
        samples = samples / unit
        coefficients, values, bandwidth, rank = self._native(samples, 2, rule)
        # A group of equal samples has bandwidth and coefficients 0; any positive σ keeps k defined.
        sigma = torch.where(bandwidth > 0, bandwidth, 1.0)
        scores = ops.rbf_product(samples, samples, coefficients, bandwidth=sigma)
        if given is None:
            absolute = torch.where(bandwidth > 0, positive(bandwidth * unit.squeeze((-2, -1))), 0.0)
        else:
            absolute = given
        diagnostics = _diagnostics(samples, scores, values, absolute, rank)
        if self.calibrate is not None:
            coefficients = calibrated(coefficients, diagnostics.calibration)
        return FittedSSGE(samples, coefficients, sigma, unit, diagnostics)

    def diagnose(self, samples: Tensor) -> Diagnostics:
        """Rank, bandwidth, captured energy and calibration of :meth:`score`; same arguments."""
        if not self._is_native:
            return super().diagnose(samples)
        samples = prepared(samples)
        rule = bandwidth_rule(self.bandwidth)
        scores, values, bandwidth, rank = self._native(samples, 1, rule)
        return _diagnostics(samples, scores, values, bandwidth, rank)

    @property
    def _is_native(self) -> bool:
        return has_native_product(self.kernel, self.curl_free)

    def _native(
        self, samples: Tensor, power: int, rule: Bandwidth | float | Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        fixed = None if isinstance(rule, Bandwidth) else bandwidth_tensor(rule, samples)
        chosen = rule if isinstance(rule, Bandwidth) else Bandwidth()
        with _checks.naming(samples=samples):
            return ops.ssge(
                samples,
                fixed,
                quantile=chosen.quantile,
                multiplier=chosen.multiplier,
                threshold=self.threshold,
                rank=self.rank,
                power=power,
            )

    def _solve(self, gram: DiagonalGram | CurlFreeGram, source: Tensor) -> Solution:
        k = gram.dense()
        n, m = k.shape[-1], source.shape[-2]
        if self.rank is not None and self.rank > n:
            name = "Md" if self.curl_free else "M"
            raise ValueError(f"rank must lie in [1, {name}] with {name} = {n}, got {self.rank}")
        values, vectors = ops.eigh(k)
        kept = self._kept(values)
        inverse = torch.where(kept, 1 / values, 0.0).unsqueeze(-1)
        h = m * source
        rhs = h.flatten(-2).unsqueeze(-1) if self.curl_free else h
        projected = inverse * (vectors.mT @ rhs)
        scores = (vectors @ projected).reshape(h.shape)
        coefficients = (vectors @ (inverse * projected)).reshape(h.shape)
        energy = torch.where(kept, values, 0.0).sum(-1) / n
        return Solution(-scores, -coefficients, None, kept.sum(-1), energy)

    def _kept(self, values: Tensor) -> Tensor:
        """Which of the ascending eigenvalues are the J largest, and more than rounding errors."""
        n = values.shape[-1]
        noise = n * torch.finfo(values.dtype).eps * values.narrow(-1, n - 1, 1)
        if self.rank is not None:
            j = torch.full_like(values.narrow(-1, 0, 1), self.rank)
        else:
            share = values.flip(-1).cumsum(-1)
            j = (share < float(self.threshold) * n).sum(-1, keepdim=True) + 1
        return (torch.arange(n, device=values.device) >= n - j) & (values > noise)


def _diagnostics(
    samples: Tensor, scores: Tensor, values: Tensor, bandwidth: Tensor, rank: Tensor
) -> Diagnostics:
    m = samples.shape[-2]
    kept = torch.arange(m, device=samples.device) >= m - rank.unsqueeze(-1)
    energy = torch.where(kept, values, 0.0).sum(-1) / m
    return Diagnostics(rank, bandwidth, energy, stein_calibration(samples, scores))


@dataclass(frozen=True)
class Tikhonov(SpectralFilter):
    """Tikhonov regularisation, ``g = −(L + λI)^{−1} ζ``.

    Elsewhere ``g(q) = (K(q, X) ĝ/M − ζ(q))/λ``, ĝ = −g(X).

        >>> import torch, mige_ext as mige
        >>> mige.Tikhonov(lam=1e-3, kernel=mige.IMQ()).score(torch.randn(64, 3)).shape
        torch.Size([64, 3])

    Args:
        lam: λ > 0, relative to the largest eigenvalue that L may have, which is 1. Where M is some
            hundreds 1e-3 to 3e-3 is best, and 3e-3 to 1e-2 for the curl-free kernels.
        bandwidth: as for every :class:`SpectralFilter`.
        calibrate: likewise.
        kernel: likewise.
        curl_free: likewise.

    Raises:
        ValueError: on the CPU, at a score, a λ below the rounding errors of L, of the order of
            M ε, which leave it indefinite; on CUDA the scores of such a group are NaN.
    """

    lam: float = 2e-3

    def __post_init__(self) -> None:
        """Checks the arguments."""
        super().__post_init__()
        _checks.require_positive("lam", self.lam)

    def _solve(self, gram: DiagonalGram | CurlFreeGram, source: Tensor) -> Solution:
        return self._shifted(gram, source, float(self.lam))


@dataclass(frozen=True)
class Stein(SpectralFilter):
    """Stein gradient estimator, ``g = −(K + ηI)^{−1} H`` (Li and Turner, ICLR 2018).

    :class:`Tikhonov` with ``λ = η/M``, which they did not extend beyond the samples.

    Args:
        eta: η > 0, beside the eigenvalues of K, whose sum is M (Md if curl-free). The default is
            that of :class:`Tikhonov` for M = 250.
        bandwidth: as for every :class:`SpectralFilter`.
        calibrate: likewise.
        kernel: likewise.
        curl_free: likewise.

    Raises:
        ValueError: as :class:`Tikhonov`.
    """

    eta: float = 0.5

    def __post_init__(self) -> None:
        """Checks the arguments."""
        super().__post_init__()
        _checks.require_positive("eta", self.eta)

    def _solve(self, gram: DiagonalGram | CurlFreeGram, source: Tensor) -> Solution:
        return self._shifted(gram, source, self.eta / source.shape[-2])


@dataclass(frozen=True)
class Landweber(SpectralFilter):
    """Landweber's iteration, ``g_t = g_{t−1} + α(−ζ − L g_{t−1})`` from 0, stopped early.

    Args:
        steps: t; 1/αt takes the part of λ.
        step_size: α, in (0, 2), where the iteration converges; 1 is safe and near the fastest.
        bandwidth: as for every :class:`SpectralFilter`.
        calibrate: likewise.
        kernel: likewise.
        curl_free: likewise.
    """

    steps: int = 500
    step_size: float = 1.0

    def __post_init__(self) -> None:
        """Checks the arguments."""
        super().__post_init__()
        _checks.require_count("steps", self.steps)
        if not (isinstance(self.step_size, Real) and 0 < self.step_size < 2):
            raise ValueError(f"step_size must lie in (0, 2), got {self.step_size!r}")

    def _solve(self, gram: DiagonalGram | CurlFreeGram, source: Tensor) -> Solution:
        steps = repeat((0.0, float(self.step_size)), int(self.steps))
        return self._smooth(*iterate(gram, source, steps))


@dataclass(frozen=True)
class NuMethod(SpectralFilter):
    """The ν-method, Landweber's iteration accelerated (Engl, Hanke, Neubauer 1996, section 6.3).

    ``g_t = g_{t−1} + u_t(g_{t−1} − g_{t−2}) + ω_t(−ζ − L g_{t−1})`` reaches in t steps what
    :class:`Landweber` reaches in t². Its residual ``1 − μ g_t(μ)`` is the Jacobi polynomial
    P_t^{(2ν − 1/2, −1/2)}(1 − 2μ), 1 at μ = 0.

    Args:
        steps: t; 1/t² takes the part of λ.
        nu: ν > 0, of the Jacobi polynomials in the residual; methods of smoothness up to ν are
            optimal.
        bandwidth: as for every :class:`SpectralFilter`.
        calibrate: likewise.
        kernel: likewise.
        curl_free: likewise.
    """

    steps: int = 22
    nu: float = 1.0

    def __post_init__(self) -> None:
        """Checks the arguments."""
        super().__post_init__()
        _checks.require_count("steps", self.steps)
        _checks.require_positive("nu", self.nu)

    def _solve(self, gram: DiagonalGram | CurlFreeGram, source: Tensor) -> Solution:
        steps = (_nu_step(t, float(self.nu)) for t in range(1, int(self.steps) + 1))
        return self._smooth(*iterate(gram, source, steps))


def _nu_step(t: int, nu: float) -> tuple[float, float]:
    """u_t and ω_t."""
    if t == 1:
        return 0.0, (4 * nu + 2) / (4 * nu + 1)
    last = (t + 2 * nu - 1) * (2 * t + 4 * nu - 1)
    u = (t - 1) * (2 * t - 3) * (2 * t + 2 * nu - 1) / (last * (2 * t + 2 * nu - 3))
    return u, 4 * (2 * t + 2 * nu - 1) * (t + nu - 1) / last
