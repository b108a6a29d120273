"""Score estimation with landmarks: millions of samples, in memory that does not grow with them.

With M samples x and m landmarks z, the score is sought in the span of the kernels of the landmarks,
``∇ log q(y) ≈ k(y, Z) C``. The operator of a spectral estimator and its right-hand side,
``L = 1/M Σ_i k(x_i, ·) ⊗ k(x_i, ·)`` and ``ζ = 1/M Σ_i ∇_{x_i} k(x_i, ·)``, become on that span
(Galerkin's method)

    A = K_zx K_xz / M   (m×m),     h_j = 1/M Σ_i ∇_{x_i} k(x_i, z_j)   (m×d).

The basis ``W = V S^{−1/2}`` with ``K_zz = V S Vᵀ`` is orthonormal in the space of the kernel:

    Wᵀ A W = Q diag(μ) Qᵀ,     C = −W Q f(μ) Qᵀ Wᵀ h.

f is the filter of the estimator: for SSGE the cut-off, 1/μ for the J largest μ, and for Tikhonov
1/(μ + λ), which minimizes ``½ mean ‖g(x_i)‖² + mean ∇·g(x_i) + ½ λ ‖g‖²`` over the span. For Z = X
this is the full estimator at the samples, because then μ are the eigenvalues of K/M.

A and h are sums over samples, which tiles of a large array, batches and ranks add up.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mige_ext import _checks, ops
from mige_ext._precision import at_least_float32, in_units, per_group, saturated, unit_of
from mige_ext.scores.base import (
    Calibrate,
    Diagnostics,
    FittableEstimator,
    Fitted,
    calibrated,
    require_calibrate,
    require_finite,
)
from mige_ext.scores.kernel.kernels import Bandwidth, bandwidth_of, bandwidth_rule
from mige_ext.scores.kernel.spectral import leading

Progress = Callable[[Iterable[tuple[slice, slice]]], Iterable[tuple[slice, slice]]]

_TILE = 2**21  # values of an intermediate, float64: 16 MiB


@dataclass(frozen=True, kw_only=True)
class Landmarks(FittableEstimator["FittedLandmarks"]):
    """SSGE or Tikhonov with the RBF kernel, restricted to the span of m landmarks.

    As an ``estimator=`` of the information functions it makes large batches affordable. By itself
    it fits millions of samples, at once or batch by batch:

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

    The landmarks are a random subset of the samples, the same for the same M, m and seed, and each
    group takes the same rows. All statistics are kept and solved in float64, because A squares the
    condition of the kernel matrix. Scores are in the dtype of the samples, float32 at least.

    Args:
        m: number of landmarks, at least 2. Where there are fewer samples, all are landmarks.
        threshold: J is the smallest number of leading eigenvalues μ whose share of the sum of all μ
            reaches the threshold, in (0, 1].
        rank: J itself, instead of ``threshold``; at most m.
        lam: Tikhonov's λ > 0, instead of a cut-off: relative to a kernel with k(x, x) = 1.
        bandwidth: "median", a number, or a :class:`Bandwidth` rule. A rule is applied to the
            landmarks, at a cost that does not depend on M.
        calibrate: "stein" divides the scores by :attr:`Diagnostics.calibration`; None does not.
        seed: of the choice of landmarks.

    Cost:
        A fit takes Mm(2m + 8d) flop and two eigendecompositions of m×m in float64, O(m² + md)
        memory, and 100 to 200 MB for the intermediates of a tile. A score takes 5Mmd flop more.
    """

    m: int = 1024
    threshold: float = 0.99
    rank: int | None = None
    lam: float | None = None
    bandwidth: str | float | Bandwidth = "median"
    calibrate: Calibrate = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks the arguments."""
        _checks.require_count("m", self.m)
        if self.m < 2:
            raise ValueError(f"m must be at least 2, got {self.m!r}")
        _checks.require_share("threshold", self.threshold)
        _checks.require_count("rank", self.rank, or_none=True)
        if self.rank is not None and self.rank > self.m:
            raise ValueError(f"rank must be at most m, {self.m}, got {self.rank!r}")
        if self.lam is not None:
            _checks.require_positive("lam", self.lam)
            if self.rank is not None:
                raise ValueError(f"lam and rank exclude each other, got {self.lam} and {self.rank}")
        bandwidth_rule(self.bandwidth)
        require_calibrate(self.calibrate)
        _checks.require_seed(self.seed)

    def score(self, samples: Tensor, *, progress: Progress | None = None) -> Tensor:
        """Scores at the samples: ``fit(samples).score(samples)``; see :meth:`.Fitted.score`.

        Args:
            samples: (..., M, d) with M >= 2, floating point.
            progress: as for :meth:`fit`; called twice, for the fit and for the scores.
        """
        return self.fit(samples, progress=progress).score(samples, progress=progress)

    def fit(
        self,
        samples: Tensor,
        landmarks: Tensor | None = None,
        *,
        progress: Progress | None = None,
    ) -> "FittedLandmarks":
        """Fits the coefficients C, which give scores at any points.

        Args:
            samples: (..., M, d), floating point, M >= 2 (M >= 1 with ``landmarks``).
            landmarks: Z, (..., m, d) with m >= 2; chosen among the samples if not given.
            progress: wraps the sequence of tiles, as ``tqdm.tqdm`` does.

        Raises:
            ValueError, TypeError: arguments that are not such tensors or not finite.
        """
        statistics = self.start(samples) if landmarks is None else self.start_with(landmarks)
        return statistics.partial_fit(samples, progress=progress).solve()

    def _fit(self, samples: Tensor) -> "FittedLandmarks":
        return self.fit(samples)

    def start(self, samples: Tensor) -> "LandmarkStatistics":
        """Begins a fit in batches: chooses landmarks among the samples, and a bandwidth.

        Args:
            samples: (..., M, d) with M >= 2, such as the first batch. They are not counted
                yet: give them to :meth:`LandmarkStatistics.partial_fit` too.

        Raises:
            ValueError, TypeError: samples that are not such a tensor or not finite.
        """
        _checks.require_samples("samples", samples)
        chosen = self.chosen(samples.shape[-2], samples.device)
        return self._start("samples", samples.index_select(-2, chosen))

    def start_with(self, landmarks: Tensor) -> "LandmarkStatistics":
        """Begins a fit in batches with given landmarks.

        Args:
            landmarks: Z, (..., m, d) with m >= 2; this m replaces that of the estimator.

        Raises:
            ValueError, TypeError: landmarks that are not such a tensor or not finite.
        """
        _checks.require_samples("landmarks", landmarks)
        return self._start("landmarks", landmarks)

    def _start(self, name: str, landmarks: Tensor) -> "LandmarkStatistics":
        require_finite(**{name: landmarks})
        return LandmarkStatistics(self, at_least_float32(landmarks.detach()))

    def score_distributed(
        self, samples: Tensor, *, offset: int, total: int, all_reduce: Callable[[Tensor], object]
    ) -> Tensor:
        """Scores at the samples of this process, from landmarks and sums of all processes.

        See :meth:`DistributedScoreEstimator.score_distributed` for the arguments. The landmarks are
        the rows that one process would choose among all samples.

        Cost:
            That of :meth:`score` for the samples of this process. It sends and receives md values
            for the landmarks and 8(m + 1)(m + d + 1) bytes for the sums, whatever M is.
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
        return statistics.solve().score(samples)

    def resume(self, state: Mapping[str, Tensor]) -> "LandmarkStatistics":
        """Continues from a :meth:`LandmarkStatistics.state_dict` of the same settings.

        Raises:
            ValueError: the state belongs to another bandwidth.
        """
        statistics = self.start_with(state["landmarks"])
        if not torch.equal(statistics.bandwidth, state["bandwidth"]):
            raise ValueError(
                "state must be of an estimator with the same bandwidth, "
                f"{statistics.bandwidth.tolist()}, got {state['bandwidth'].tolist()}"
            )
        statistics.moments.copy_(state["moments"])
        return statistics

    def chosen(self, rows: int, device: torch.device | str = "cpu") -> Tensor:
        """Indices of the landmarks among ``rows`` samples: min(m, rows) int64, ascending.

        They are the samples with the smallest hash (splitmix64) of their index and the seed. The
        hash is a function of integers, equal on every device and rank, and draws no random numbers
        on the host.
        """
        if self.m >= rows:
            return torch.arange(rows, device=device)
        key = torch.arange(rows, device=device) + _wrap((self.seed + 1) * 0x9E3779B97F4A7C15)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            key = (key ^ _shifted(key, shift)) * _wrap(factor)
        key = key ^ _shifted(key, 31)
        return key.topk(self.m, largest=False).indices.sort().values


class LandmarkStatistics:
    """The sums over samples that a landmark fit needs, from any number of batches.

    Attributes:
        landmarks: Z, (..., m, d), as they were given.
        bandwidth: σ, (...), in the units of the caller; 0 where all landmarks are equal.
        moments: ``[K_xz, 1]ᵀ [K_xz, x − c, 1]``, summed over samples, (..., m + 1, m + d + 1),
            float64, in units of the landmarks. The moments of two processes with the same landmarks
            may be added. The last element is the number of samples.
    """

    def __init__(self, estimator: Landmarks, landmarks: Tensor) -> None:
        self.estimator = estimator
        self.landmarks = landmarks
        self.bandwidth = bandwidth_of(estimator.bandwidth, landmarks)
        # In units of a power of two near σ, about a median row: neither size, offset nor outliers
        # cost accuracy. Any positive σ keeps k defined where all landmarks are equal.
        self._unit = unit_of(per_group(self.bandwidth)).double()
        sigma = self.bandwidth.double() / self._unit.squeeze((-2, -1))
        self._sigma = torch.where(sigma > 0, sigma, 1.0)
        self._z = in_units(landmarks.double(), self._unit)
        m, d = landmarks.shape[-2:]
        self._center = self._z.sort(-2).values.narrow(-2, m // 2, 1)
        self.moments = self._z.new_zeros((*landmarks.shape[:-2], m + 1, m + d + 1))

    def partial_fit(
        self, samples: Tensor, *, progress: Progress | None = None
    ) -> "LandmarkStatistics":
        """Adds samples to the statistics, and returns the object itself.

        Args:
            samples: (..., B, d), leading dimensions, columns and device as the landmarks.
            progress: wraps the sequence of tiles, as ``tqdm.tqdm`` does.

        Raises:
            ValueError, TypeError: samples that are not such a tensor or not finite.

        Cost:
            Bm(2m + 8d) flop in float64; 100 to 200 MB for the intermediates of a tile.
        """
        _checks.require_query("samples", samples, self.landmarks, "landmarks")
        require_finite(samples=samples)
        m, d = self.landmarks.shape[-2:]
        # A flat batch of groups, to tile it. An operator computes each group independently.
        n = samples.shape[:-2].numel()
        x, z = samples.detach().reshape(n, samples.shape[-2], d), self._z.reshape(n, m, d)
        unit, center = self._unit.reshape(n, 1, 1), self._center.reshape(n, 1, d)
        sigma, moments = self._sigma.reshape(n), self.moments.view(n, m + 1, m + d + 1)
        tiles = _tiles(x.shape[0], x.shape[1], m + d + 1)
        for groups, rows in tiles if progress is None else progress(tiles):
            g, r = (groups.start, groups.stop - groups.start), (rows.start, rows.stop - rows.start)
            tile = x.narrow(0, *g).narrow(1, *r).double()
            # Infinite samples stay an error (NaN on CUDA); only a quotient may saturate.
            tile = torch.where(tile.isfinite(), in_units(tile, unit.narrow(0, *g)), torch.nan)
            points, s = z.narrow(0, *g), sigma.narrow(0, *g)
            gram = ops.rbf_gram(tile, points, bandwidth=s)
            ones = tile.new_ones((*tile.shape[:-1], 1))
            row = torch.cat((gram, tile - center.narrow(0, *g), ones), -1)
            total = moments.narrow(0, *g)
            total.narrow(1, 0, m).add_(ops.rbf_product(points, tile, row, bandwidth=s))
            total.narrow(1, m, 1).add_(row.sum(1, keepdim=True))
        return self

    def solve(self) -> "FittedLandmarks":
        """The fit to all samples so far; more samples may follow.

        Raises:
            ValueError: no sample was added.

        Cost:
            Two eigendecompositions of m×m and about 8m³ flop, in float64.
        """
        e, (m, d) = self.estimator, self.landmarks.shape[-2:]
        by_kernel, last = self.moments.narrow(-2, 0, m), self.moments.narrow(-2, m, 1)
        count = last.narrow(-1, m + d, 1)
        if _checks.looking_is_free(count) and not bool((count > 0).all()):
            raise ValueError("a fit needs samples, got none: call partial_fit before solve")
        a = by_kernel.narrow(-1, 0, m) / count
        kx, k1 = by_kernel.narrow(-1, m, d) / count, by_kernel.narrow(-1, m + d, 1) / count
        mean = last.narrow(-1, m, d) / count
        z, sigma = self._z - self._center, per_group(self._sigma)
        h = -(kx - k1 * z) / sigma.square()

        values, vectors = ops.eigh(ops.rbf_gram(self._z, bandwidth=self._sigma))
        # A is a product of two kernel matrices. For an eigenvector of K_zz with eigenvalue s its
        # relative error is ε (s_max/s)², so that a cut-off excludes directions with s < √ε s_max.
        # Tikhonov's λ makes such errors harmless, but excluded directions would bias its score.
        epsilon = torch.finfo(torch.float64).eps
        floor = epsilon**0.5 if e.lam is None else m * epsilon
        whitening = vectors * _inverse(values, floor).unsqueeze(-2).sqrt()
        values, vectors = ops.eigh(whitening.mT @ a @ whitening)
        basis = whitening @ vectors
        if e.lam is None:
            nonnegative = values.clamp_min(0.0)
            kept = leading(nonnegative, e.rank, e.threshold * nonnegative.sum(-1, keepdim=True))
            weights = torch.where(kept, _inverse(values, floor), 0.0)
        else:
            weights = 1 / (values.clamp_min(0.0) + e.lam)
        # Equal landmarks have no bandwidth, so that their score is unknown; it is set to 0.
        weights = torch.where(self.bandwidth.unsqueeze(-1) > 0, weights, 0.0)
        coefficients = -basis @ (weights.unsqueeze(-1) * (basis.mT @ h))

        # −mean Σ s·(x − mean) / d with s = k(x, Z) C, from the same sums.
        calibration = -(coefficients * (kx - k1 * mean)).sum((-2, -1)) / d
        if e.calibrate is not None:
            coefficients = calibrated(coefficients, calibration)
        dtype = self.landmarks.dtype
        kept = weights > 0
        diagnostics = Diagnostics(
            rank=kept.sum(-1),
            bandwidth=self.bandwidth,
            energy=torch.where(kept, values, 0.0).sum(-1).to(dtype),
            calibration=calibration.to(dtype),
        )
        return FittedLandmarks(
            self._z.to(dtype),
            saturated(coefficients).to(dtype),
            self._sigma.to(dtype),
            self._unit.to(dtype),
            diagnostics,
        )

    def state_dict(self) -> dict[str, Tensor]:
        """Tensors from which :meth:`Landmarks.resume` continues; for ``torch.save``."""
        return {
            "landmarks": self.landmarks,
            "bandwidth": self.bandwidth,
            "moments": self.moments.clone(),
        }


@dataclass(frozen=True, eq=False, repr=False)
class FittedLandmarks(Fitted):
    """A landmark fit, ``∇ log q(y) ≈ k(y, Z) C``, in units of a power of two near σ.

    Attributes:
        landmarks: Z, (..., m, d).
        coefficients: C, (..., m, d).
        bandwidth: σ, (...); 1 for a group of equal landmarks, whose coefficients are 0.
        unit: the unit of length, (..., 1, 1).
        diagnostics: rank, bandwidth, energy and calibration, in the units of the caller.

    Cost:
        A score takes 5Qmd flop, and memory for the result and a tile.
    """

    landmarks: Tensor
    coefficients: Tensor
    bandwidth: Tensor
    unit: Tensor
    diagnostics: Diagnostics

    def score(self, query: Tensor | None = None, *, progress: Progress | None = None) -> Tensor:
        """Scores at any points; see :meth:`.Fitted.score`.

        Args:
            query: (..., Q, d), with the leading dimensions and the device of the landmarks; the
                landmarks themselves if not given, because a fit keeps no other samples.
            progress: wraps the sequence of tiles, as ``tqdm.tqdm`` does.
        """
        if query is None:
            query = self.landmarks * self.unit
        _checks.require_query("query", query, self.landmarks, "landmarks")
        require_finite(query=query)
        result = self.coefficients.new_zeros(query.shape)
        groups = max(query.shape[:-2].numel(), 1)
        tiles = _tiles(1, query.shape[-2], groups * query.shape[-1])
        for _, rows in tiles if progress is None else progress(tiles):
            r = rows.start, rows.stop - rows.start
            points = in_units(query.detach().narrow(-2, *r).to(result.dtype), self.unit)
            scores = ops.rbf_product(
                points, self.landmarks, self.coefficients, bandwidth=self.bandwidth
            )
            result.narrow(-2, *r).add_(saturated(scores / self.unit))
        return result


def _tiles(groups: int, rows: int, width: int) -> list[tuple[slice, slice]]:
    """Tiles of about ``_TILE`` values, whose rows do not depend on the number of groups."""
    r = max(min(_TILE // width, rows), 1)
    g = max(_TILE // (r * width), 1)
    return [
        (slice(i, min(i + g, groups)), slice(j, min(j + r, rows)))
        for i in range(0, groups, g)
        for j in range(0, rows, r)
    ]


def _inverse(values: Tensor, floor: float) -> Tensor:
    """1/λ of ascending eigenvalues; 0 for eigenvalues below ``floor`` times the largest."""
    kept = values > floor * values.narrow(-1, values.shape[-1] - 1, 1)
    return torch.where(kept, 1 / values.clamp_min(torch.finfo(values.dtype).tiny), 0.0)


def _wrap(value: int) -> int:
    """An integer modulo 2^64, as an int64."""
    return (value + 2**63) % 2**64 - 2**63


def _shifted(value: Tensor, bits: int) -> Tensor:
    """A logical shift to the right."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)
