"""The theory of spectral filters, and the base class of these estimators.

Let K be the Gram matrix of a kernel with values in R^{d×d} (``gram.py``), and H its gradient sum.
By Stein's identity the score g satisfies ``L g = −ζ`` with ``L = K/M`` and ``ζ = H/M``. L is nearly
singular, so a filter g_λ replaces the inverse: ``g = −g_λ(L) ζ``.

| estimator            | module          | g_λ(μ), μ an eigenvalue of L          | flop a group |
|----------------------|-----------------|---------------------------------------|--------------|
| ``SSGE(threshold)``  | ``ssge``        | 1/μ for the J largest μ, 0 otherwise  | 9M³          |
| ``Tikhonov(lam)``    | ``tikhonov``    | 1/(μ + λ)                             | M³/3         |
| ``Stein(eta)``       | ``tikhonov``    | 1/(μ + η/M)                           | M³/3         |
| ``Landweber(steps)`` | ``landweber``   | (1 − (1 − αμ)^t)/μ                    | 2M²d a step  |
| ``NuMethod(steps)``  | ``nu_method``   | a polynomial of degree t − 1          | 2M²d a step  |

J is the rank, t the number of steps and α the step size. Distances and ζ take 5M²d flop more.
Memory is O(M²). With a curl-free kernel the cost is larger:

- for ``SSGE``, 9(Md)³ flop and (Md)² values of memory;
- for ``Tikhonov`` and ``Stein``, (Md)³/3 flop and (Md)² values with a Cholesky factor, or 6M²d flop
  a step and O(M²) values with conjugate gradients (``solvers.py`` chooses);
- for ``Landweber`` and ``NuMethod``, 6M²d flop a step.

**Other points.** Every filter extends to any point q as ``g(q) = K(q, X) w + b ζ(q)``, where b is 0
for SSGE and −1/λ for Tikhonov.

**Units.** K(x, x) = I and ‖L‖ <= 1, so λ, the number of steps and the step size have no unit. Zhou,
Shi and Zhu multiply curl-free kernels by c = 1/σ², and their settings are λ' = cλ, η' = cη and
α' = α/c. Their λ means ⌊1/λ⌋ + 1 steps of Landweber's iteration, or ⌊1/√λ⌋ + 1 steps of the
ν-method.

Zhou, Shi and Zhu, "Nonparametric Score Estimators" (ICML 2020).
"""

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from mige_ext import _checks, _recording
from mige_ext._precision import in_units, no_autocast, per_group, power_of_two, saturated
from mige_ext.scores.base import (
    Calibrate,
    Diagnostics,
    FittableEstimator,
    FittedGradient,
    calibrated,
    stein_calibration,
)
from mige_ext.scores.kernel.gram import CurlFreeGram, Gram, gram_of, has_native_product, rbf_score
from mige_ext.scores.kernel.kernels import (
    RBF,
    Bandwidth,
    Kernel,
    bandwidth_of,
    bandwidth_rule,
    require_kernel,
)
from mige_ext.scores.kernel.solvers import solve_shifted

_RBF = RBF()


def _rbf() -> Kernel:
    """The default kernel. It is a global object, so that ``torch.compile`` can find it."""
    return _RBF


@dataclass(frozen=True, eq=False, repr=False)
class FittedFilter(FittedGradient):
    """A fitted kernel score, ``g(q) = K(q, X) w + b ζ(q)``.

    ``ζ(q) = (1/M) Σ_j div_{x_j} K(x_j, q)`` is the gradient sum at q, divided by M.

    Cost:
        A score at Q points takes O(QMd) time and O(QM) memory, or O(Md) memory for ``RBF()`` with
        ``curl_free=False``. An energy takes 4QMd flop and O(QM) memory.
    """

    samples: Tensor  #: X, (..., M, d)
    coefficients: Tensor  #: w, (..., M, d)
    bandwidth: Tensor  #: σ, (...); 1 for a group of equal samples, whose coefficients are 0
    unit: Tensor  #: the unit of length, (..., 1, 1)
    diagnostics: Diagnostics  #: rank, bandwidth, energy and calibration, in the caller's units
    source_coefficient: Tensor | None = None  #: b, (..., 1, 1); None for 0
    kernel: Kernel = field(default_factory=_rbf)  #: φ
    curl_free: bool = False  #: True if K is the curl-free kernel of φ, False if K is ``φ I``

    def _energy(self, points: Tensor) -> Tensor:
        if not self.curl_free:
            raise ValueError("energy needs a fit with curl_free=True, got curl_free=False")
        gram = CurlFreeGram(self.kernel, self.bandwidth, self.samples, points)
        return gram.energy(self.coefficients, self.source_coefficient)

    def _in_units(self, query: Tensor) -> Tensor:
        return in_units(query, self.unit)

    def _score(self, points: Tensor) -> Tensor:
        w, b = self.coefficients, self.source_coefficient
        if has_native_product(self.kernel, self.curl_free):
            return in_units(rbf_score(points, self.samples, w, self.bandwidth, b), self.unit)
        gram = gram_of(self.kernel, self.curl_free, self.bandwidth, self.samples, points)
        scores = gram.product(w) if b is None else gram.product(w) + b * gram.source()
        return in_units(scores, self.unit)


@dataclass(frozen=True)
class Solution:
    """A filter applied to one batch of samples, in the unit of the samples."""

    scores: Tensor  # at the samples, (..., M, d)
    coefficients: Tensor  # w, (..., M, d)
    source_coefficient: float | None  # b; None for 0
    rank: Tensor  # J, (...)
    energy: Tensor  # fraction of trace(K) that belongs to the kept eigenvalues, (...)


@dataclass(frozen=True, kw_only=True)
class SpectralFilter(FittableEstimator[FittedFilter]):
    """Base class of the spectral filters, with their common settings.

    Args:
        kernel: φ, such as ``RBF()`` or ``IMQ()``.
        bandwidth: "median", a number, or a :class:`Bandwidth` rule, which gives each group its own
            σ.
        curl_free: if True, K is the curl-free kernel of φ, and the score is the gradient of
            :meth:`FittedFilter.energy`. If False, K is ``φ I``.
        calibrate: "stein" divides the scores of each group by :attr:`Diagnostics.calibration`,
            which corrects the mean shrinkage; None does not.

    Cost:
        :mod:`mige_ext.scores.kernel.spectral` has a table with the flop of each filter. A fit keeps
        2Md values for each group.
    """

    kernel: Kernel = field(default_factory=_rbf)
    bandwidth: str | float | Bandwidth = "median"
    curl_free: bool = _checks.setting(False, _checks.require_bool)
    calibrate: Calibrate = None

    _fitted: ClassVar[type[FittedFilter]] = FittedFilter

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        require_kernel(self.kernel)
        bandwidth_rule(self.bandwidth)

    @property
    def depends_on_scale(self) -> bool:
        """True if the bandwidth is a rule; see :attr:`.FittableEstimator.depends_on_scale`."""
        return isinstance(bandwidth_rule(self.bandwidth), Bandwidth)

    def _quadratic_memory(self, m: int, d: int) -> int:
        return 4 * m**2

    def _score(self, samples: Tensor) -> Tensor:
        x, unit, _, _, solution = self._solution(samples)
        scores = solution.scores
        if self.calibrate is not None:
            calibration = _calibration(x, scores)
            _recording.report(_recording.TermRecord(calibration))
            scores = calibrated(scores, calibration)
        return in_units(scores, unit)

    def _fit(self, samples: Tensor) -> FittedFilter:
        x, unit, bandwidth, absolute, solution = self._solution(samples)
        known, calibration = absolute > 0, _calibration(x, solution.scores)
        rank = torch.where(known, solution.rank, 0)
        energy = torch.where(known, solution.energy, 0.0)
        b = None
        if solution.source_coefficient is not None:
            b = torch.where(per_group(known), solution.source_coefficient, torch.zeros_like(unit))
            b = calibrated(b, calibration, self.calibrate)
        w = calibrated(solution.coefficients, calibration, self.calibrate)
        record = x, w, bandwidth, unit, Diagnostics(rank, absolute, energy, calibration), b
        return self._fitted(*record, self.kernel, self.curl_free)

    def _solution(self, samples: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Solution]:
        """The samples divided by the unit, the unit, σ / unit (never 0), σ, and the solution."""
        _checks.require_finite(samples=samples)
        absolute = bandwidth_of(self.bandwidth, samples)
        unit = per_group(power_of_two(absolute))
        bandwidth = torch.where(absolute > 0, absolute / unit.squeeze((-2, -1)), 1.0)
        x = in_units(samples, unit)
        with no_autocast(x):
            gram = gram_of(self.kernel, self.curl_free, bandwidth, x)
            return x, unit, bandwidth, absolute, self._solve(gram, gram.source())

    @abstractmethod
    def _solve(self, gram: Gram, source: Tensor) -> Solution:
        """Apply the filter, given the Gram matrix of the samples and ζ at the samples."""

    def _smooth(self, g: Tensor, coefficients: Tensor, source_coefficient: float) -> Solution:
        """The solution of a filter without a cut-off, from ``g_λ(L) ζ`` and its w and b."""
        m, d = g.shape[-2:]
        rank = torch.full(g.shape[:-2], m * d if self.curl_free else m, device=g.device)
        ones = torch.ones_like(g.sum((-2, -1)))
        return Solution(-g, -coefficients, -source_coefficient, rank, ones)

    def _solve_shifted(self, gram: Gram, source: Tensor, lam: float) -> Solution:
        """The filter 1/(μ + λ)."""
        g = solve_shifted(gram, lam, source)
        return self._smooth(g, g / (-lam * g.shape[-2]), 1 / lam)


def _calibration(x: Tensor, scores: Tensor) -> Tensor:
    """The calibration. The first sample is subtracted, because an offset would cost accuracy."""
    return stein_calibration(saturated(x - x.narrow(-2, 0, 1)), scores)


def leading(
    values: Tensor, rank: int | Tensor | None, enough: Tensor | float = torch.inf
) -> Tensor:
    """A mask of the J largest of n ascending eigenvalues, (..., n).

    J is ``rank``, a number or (..., 1). If ``rank`` is None, J is the least number of eigenvalues
    whose sum reaches ``enough``, a number or (..., 1). The mask has all n eigenvalues if J > n.
    """
    if rank is None:
        rank = 1 + (values.flip(-1).cumsum(-1) < enough).sum(-1, keepdim=True)
    return torch.arange(values.shape[-1], device=values.device) >= values.shape[-1] - rank
