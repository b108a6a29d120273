"""Score estimation with landmarks, in memory that does not grow with the number of samples.

With M samples x and m landmarks z, the estimate is a linear combination of the kernel functions at
the landmarks, ``∇ log q(y) ≈ k(y, Z) C``. These combinations are the *span* of the landmarks. The
score satisfies L s = −ζ with the operator ``L = (1/M) Σ_i k(x_i, ·) ⊗ k(x_i, ·)`` and
``ζ = (1/M) Σ_i ∇_{x_i} k(x_i, ·)``. On the span, Galerkin's method replaces L by a matrix A, and ζ
by a matrix h:

    A = K_zx K_xz / M   (m×m),     h_j = (1/M) Σ_i ∇_{x_i} k(x_i, z_j)   (m×d).

The basis ``W = V S^{−1/2}`` with ``K_zz = V S Vᵀ`` is orthonormal in the space of the kernel:

    Wᵀ A W = Q diag(μ) Qᵀ,     C = −W Q f(μ) Qᵀ Wᵀ h.

f is the filter of the estimator: for SSGE 1/μ for the J largest μ and 0 for the others, and for
Tikhonov 1/(μ + λ). If all samples are landmarks (Z = X), the scores at the samples equal the scores
of ``SSGE`` or ``Tikhonov``.

A and h are sums over samples, so the sums of several batches or processes can be added.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mige_ext import _checks, _recording
from mige_ext._precision import at_least_float32
from mige_ext.scores.base import Calibrate, FittableEstimator, warn_of_few_samples
from mige_ext.scores.kernel.kernels import Bandwidth, bandwidth_rule
from mige_ext.scores.landmark_fit import FittedLandmarks, LandmarkStatistics, Progress
from mige_ext.scores.records import stored


@dataclass(frozen=True, kw_only=True)
class Landmarks(FittableEstimator[FittedLandmarks]):
    """SSGE or Tikhonov with the RBF kernel, restricted to the span of m landmarks.

    As ``estimator=`` of the information functions, landmarks make large batches affordable. A fit
    can have millions of samples, at once or batch by batch:

        >>> import torch, mige_ext as mige
        >>> x = torch.randn(20_000, 8)
        >>> estimator = mige.Landmarks(m=64)
        >>> fitted = estimator.fit(x)                   # fit(x, progress=tqdm) shows a bar
        >>> fitted.score(torch.zeros(5, 8)).shape
        torch.Size([5, 8])
        >>> statistics = estimator.start(x[:1000])      # chooses landmarks and bandwidth
        >>> for batch in x.split(5_000):
        ...     _ = statistics.partial_fit(batch)
        >>> fitted = statistics.solve()

    The landmarks are a random subset of the samples. Their rows depend only on M, m and seed, and
    are the same in each group. Every method raises ValueError or TypeError if samples or landmarks
    are not finite floating-point tensors of the shapes below.

    Args:
        m: number of landmarks, at least 2. If there are fewer samples, all samples are landmarks.
        threshold: J is the smallest number of leading eigenvalues μ whose sum reaches this fraction
            of the sum of all μ; in (0, 1].
        rank: J itself, instead of ``threshold``; at most m.
        lam: λ > 0 of Tikhonov's filter, which then replaces the cut-off of SSGE.
        bandwidth: "median", a number, or a :class:`Bandwidth` rule. The rule is applied to the
            landmarks, so its cost does not depend on M.
        calibrate: "stein" divides the scores by :attr:`Diagnostics.calibration`; None does not.
        seed: seed of the random choice of landmarks.

    Cost:
        A fit takes Mm(2m + 8d) flop and two eigendecompositions of m×m in float64, and O(m² + md)
        memory. Samples are processed in parts (tiles), whose intermediates take 100 to 200 MB. A
        score takes 5Mmd flop more.
    """

    m: int = _checks.setting(1024, _checks.require_count)
    threshold: float = _checks.setting(0.99, _checks.require_fraction)
    rank: int | None = _checks.setting(None, _checks.require_count, or_none=True)
    lam: float | None = None
    bandwidth: str | float | Bandwidth = "median"
    calibrate: Calibrate = None
    seed: int = _checks.setting(0, _checks.require_seed)

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        if self.m < 2:
            raise ValueError(f"m must be at least 2, got {self.m!r}")
        if self.rank is not None and self.rank > self.m:
            raise ValueError(f"rank must be at most m, {self.m}, got {self.rank!r}")
        if self.lam is not None:
            _checks.require_positive("lam", self.lam)
            if self.rank is not None:
                raise ValueError(f"lam and rank exclude each other, got {self.lam} and {self.rank}")
        bandwidth_rule(self.bandwidth)

    @property
    def depends_on_scale(self) -> bool:
        """True if the bandwidth is a rule; see :attr:`.FittableEstimator.depends_on_scale`."""
        return isinstance(bandwidth_rule(self.bandwidth), Bandwidth)

    def score(self, samples: Tensor, *, progress: Progress | None = None) -> Tensor:
        """Scores at the samples: ``fit(samples).score(samples)``; see :meth:`.Fitted.score`.

        Args:
            samples: (..., M, d) with M >= 2, floating point.
            progress: as for :meth:`fit`, called twice: for the fit and for the scores.
        """
        fitted = self.fit(samples, progress=progress)
        _recording.report(fitted.diagnostics)
        return fitted.score(samples, progress=progress)

    def fit(
        self, samples: Tensor, landmarks: Tensor | None = None, *, progress: Progress | None = None
    ) -> FittedLandmarks:
        """Fit the coefficients C, which give scores at any points.

        Args:
            samples: (..., M, d), floating point, M >= 2 (M >= 1 with ``landmarks``).
            landmarks: Z, (..., m, d) with m >= 2; chosen among the samples if not given.
            progress: wraps the sequence of tiles, the parts of the samples, as ``tqdm.tqdm`` does.
        """
        _checks.require_samples("samples", samples, 2 if landmarks is None else 1)
        statistics = self.start(samples) if landmarks is None else self.start_with(landmarks)
        warn_of_few_samples(*samples.shape[-2:])
        return statistics.partial_fit(samples, progress=progress).solve()

    def _fit(self, samples: Tensor) -> FittedLandmarks:
        return self.fit(samples)

    def start(self, samples: Tensor) -> LandmarkStatistics:
        """Begin a fit in batches: choose landmarks among the samples, and a bandwidth.

        Args:
            samples: (..., M, d) with M >= 2, such as the first batch. The samples are not added to
                the sums, so give them to :meth:`LandmarkStatistics.partial_fit` too.
        """
        _checks.require_samples("samples", samples)
        landmarks = samples.index_select(-2, self.chosen(samples.shape[-2], samples.device))
        _checks.require_finite(samples=landmarks)
        return LandmarkStatistics(self, landmarks)

    def start_with(self, landmarks: Tensor) -> LandmarkStatistics:
        """Begin a fit in batches with given landmarks.

        Args:
            landmarks: Z, (..., m, d) with m >= 2; this m replaces the setting ``m``.
        """
        _checks.require_samples("landmarks", landmarks)
        _checks.require_finite(landmarks=landmarks)
        return LandmarkStatistics(self, landmarks)

    def score_distributed(
        self, samples: Tensor, *, offset: int, total: int, all_reduce: Callable[[Tensor], object]
    ) -> Tensor:
        """Scores at the samples of this process, from landmarks and sums of all processes.

        See :meth:`DistributedScoreEstimator.score_distributed` for the arguments. The landmarks are
        the rows that one process would choose among all samples.

        Cost:
            The cost of :meth:`score` for the samples of this process. The method sends and receives
            md values for the landmarks and 8(m + 1)(m + d + 1) bytes for the sums.
        """
        samples = at_least_float32(samples.detach())
        rows = self.chosen(total, samples.device) - offset
        landmarks = samples.new_zeros((*samples.shape[:-2], len(rows), samples.shape[-1]))
        if samples.shape[-2] > 0:
            here = ((rows >= 0) & (rows < samples.shape[-2])).unsqueeze(-1)
            own = samples.index_select(-2, rows.clamp(0, samples.shape[-2] - 1))
            landmarks = torch.where(here, own, landmarks)
        all_reduce(landmarks)
        statistics = self.start_with(landmarks).partial_fit(samples)
        all_reduce(statistics.moments)
        fitted = statistics.solve()
        _recording.report(fitted.diagnostics)
        return fitted.score(samples)

    def resume(self, state: Mapping[str, Tensor]) -> LandmarkStatistics:
        """Continue from a :meth:`LandmarkStatistics.state_dict` of the same settings.

        Raises:
            KeyError: a name is missing.
            TypeError: the state is not a dict of tensors.
            ValueError: the state belongs to another bandwidth, or its moments are damaged.
        """
        landmarks, bandwidth, moments = (
            stored(state, name) for name in ("landmarks", "bandwidth", "moments")
        )
        statistics = self.start_with(landmarks)
        if not torch.equal(statistics.bandwidth, bandwidth):
            raise ValueError(
                "state must be of an estimator with the same bandwidth, "
                f"{statistics.bandwidth.tolist()}, got {bandwidth.tolist()}"
            )
        if moments.shape != statistics.moments.shape or not bool(moments.isfinite().all()):
            raise ValueError(
                "state['moments'] must be finite and have shape "
                f"{_checks.shape(statistics.moments)}, got {_checks.shape(moments)}"
            )
        statistics.moments.copy_(moments)
        return statistics

    def chosen(self, rows: int, device: torch.device | str = "cpu") -> Tensor:
        """Indices of the landmarks among ``rows`` samples, (min(m, rows),), int64, ascending.

        The landmarks are the samples with the smallest hash (splitmix64) of index and seed. The
        hash is equal on every device and in every process.
        """
        if self.m >= rows:
            return torch.arange(rows, device=device)
        key = torch.arange(rows, device=device) + _wrap((int(self.seed) + 1) * 0x9E3779B97F4A7C15)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            key = (key ^ _shifted(key, shift)) * _wrap(factor)
        key = key ^ _shifted(key, 31)
        return key.topk(self.m, largest=False).indices.sort().values


def _wrap(value: int) -> int:
    """The int64 that equals an integer modulo 2^64."""
    return (value + 2**63) % 2**64 - 2**63


def _shifted(value: Tensor, bits: int) -> Tensor:
    """A logical shift to the right."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)
