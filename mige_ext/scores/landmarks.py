"""Score estimation by landmarks: past one batch, in memory that does not grow with the samples.

With M samples x and m landmarks z, the score is sought in the span of the landmarks' kernels,
``∇ log q(y) ≈ k(y, Z) C``. On that span (Galerkin) the operator of a spectral estimator and its
right-hand side, ``L = 1/M Σ_i k(x_i, ·) ⊗ k(x_i, ·)`` and ``ζ = 1/M Σ_i ∇_{x_i} k(x_i, ·)``, are

    A = K_zx K_xz / M   (m×m),     h_j = 1/M Σ_i ∇_{x_i} k(x_i, z_j)   (m×d),

in the basis ``W = V S^{−1/2}``, ``K_zz = V S Vᵀ``, orthonormal in the kernel's space:

    Wᵀ A W = Q diag(μ) Qᵀ,     C = −W Q f(μ) Qᵀ Wᵀ h,

with the estimator's filter f: SSGE's cut-off, 1/μ for the J largest μ, or Tikhonov's 1/(μ + λ),
which minimises ``½ mean ‖g(x_i)‖² + mean ∇·g(x_i) + ½ λ ‖g‖²`` over the span. For Z = X this is the
full estimator at the samples, because then μ are the eigenvalues of K/M.

A and h are sums over samples: over tiles of a large array, over batches, over ranks.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mige_ext import _checks, ops
from mige_ext._precision import at_least_float32, in_units, saturated, unit_of
from mige_ext.scores.base import Diagnostics, Fitted, calibrated, require_calibrate
from mige_ext.scores.kernel.kernels import Bandwidth, bandwidth_rule, bandwidth_tensor

Progress = Callable[[Iterable[tuple[slice, slice]]], Iterable[tuple[slice, slice]]]

_TILE = 2**21  # values of an intermediate, float64: 16 MiB


@dataclass(frozen=True, kw_only=True)
class Landmarks:
    """SSGE, or Tikhonov, restricted to the span of m landmarks; RBF kernel.

    As an ``estimator=`` of the information functions it makes large batches affordable; by itself
    it fits millions of samples, at once or batch by batch:

        >>> import torch, mige_ext as mige
        >>> x = torch.randn(20_000, 8)
        >>> estimator = mige.Landmarks(m=64)
        >>> fitted = estimator.fit(x)                   # fit(x, progress=tqdm) shows a bar
        >>> fitted.score(torch.zeros(5, 8)).shape
        torch.Size([5, 8])
        >>> running = estimator.start(x[:1000])         # landmarks and bandwidth are chosen here
        >>> for batch in x.split(5_000):
        ...     _ = running.partial_fit(batch)
        >>> fitted = running.solve()

    The landmarks are a random subset of the samples, the same for the same M, m and seed. All
    statistics are kept and solved in float64, because A squares the condition of the kernel matrix;
    scores are in the dtype of the samples, float32 at least. Each group of the leading batch
    dimensions has its own landmarks (the same rows), bandwidth and rank.

    Args:
        m: number of landmarks, at least 2; all samples where there are no more.
        threshold: J is the smallest number of leading eigenvalues μ whose share of their sum, what
            the landmarks' span holds of the trace, reaches it; in (0, 1].
        rank: J itself, instead of ``threshold``; at most m.
        lam: Tikhonov's λ > 0, instead of a cut-off: relative to a kernel with k(x, x) = 1.
        bandwidth: "median", a number, or a :class:`Bandwidth` rule; a rule is applied to the
            landmarks, at a cost that does not depend on M.
        calibrate: "stein" divides the scores by :attr:`Diagnostics.calibration`; None leaves them.
        seed: of the choice of landmarks.
    """

    m: int = 1024
    threshold: float = 0.99
    rank: int | None = None
    lam: float | None = None
    bandwidth: str | float | Bandwidth = "median"
    calibrate: Literal["stein"] | None = None
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
        """Scores at the samples: ``fit(samples).score(samples)``.

        Args:
            samples: (..., M, d) with M >= 2, floating point.
            progress: see :meth:`fit`; called twice, for the fit and for the scores.

        Returns:
            (..., M, d), without a gradient; float64 for float64 samples, else float32.

        Raises:
            ValueError, TypeError: samples that are not such a tensor or not finite.

        Cost:
            That of :meth:`fit`, and Mm·5d flop.
        """
        return self.fit(samples, progress=progress).score(samples, progress=progress)

    def fit(
        self,
        samples: Tensor,
        landmarks: Tensor | None = None,
        *,
        progress: Progress | None = None,
    ) -> "FittedLandmarks":
        """Fits the coefficients C, which give scores anywhere.

        Args:
            samples: (..., M, d), floating point, M >= 2 (M >= 1 with ``landmarks``).
            landmarks: Z, (..., m, d) with m >= 2; chosen among the samples if not given.
            progress: wraps the sequence of tiles, as ``tqdm.tqdm`` does.

        Raises:
            ValueError, TypeError: arguments that are not such tensors or not finite.

        Cost:
            Mm(2m + 8d) flop, and two eigendecompositions of m×m, in float64; O(m² + md) memory, and
            100 to 200 MB for the intermediates of a tile.
        """
        running = self.start(samples) if landmarks is None else self.start_with(landmarks)
        return running.partial_fit(samples, progress=progress).solve()

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
        if _checks.looking_is_free(landmarks):
            _checks.require_finite(**{name: landmarks})
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
        """Goes on where :meth:`LandmarkStatistics.state_dict` was taken, with the same settings.

        Raises:
            ValueError: the state was taken with another bandwidth.
        """
        running = self.start_with(state["landmarks"])
        if not torch.equal(running.bandwidth, state["bandwidth"]):
            raise ValueError(
                "state must be of an estimator with the same bandwidth, "
                f"{running.bandwidth.tolist()}, got {state['bandwidth'].tolist()}"
            )
        running.moments.copy_(state["moments"])
        return running

    def chosen(self, rows: int, device: torch.device | str = "cpu") -> Tensor:
        """Which of so many samples are landmarks: min(m, rows) indices, ascending, int64.

        Those with the smallest hash (splitmix64) of their index and the seed: a function of
        integers, the same on every device and rank, without random numbers made on the host.
        """
        if self.m >= rows:
            return torch.arange(rows, device=device)
        key = torch.arange(rows, device=device) + _wrap((self.seed + 1) * 0x9E3779B97F4A7C15)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            key = (key ^ _shifted(key, shift)) * _wrap(factor)
        key = key ^ _shifted(key, 31)
        return key.topk(self.m, largest=False).indices.sort().values


class LandmarkStatistics:
    """The sums over samples that a landmark fit needs, of any number of batches.

    Attributes:
        landmarks: Z, (..., m, d), as they were given.
        bandwidth: σ, (...), in the units of the caller; 0 where all landmarks are equal.
        moments: ``[K_xz, 1]ᵀ [K_xz, x − c, 1]``, summed over samples, (..., m + 1, m + d + 1),
            float64, in units of the landmarks: additive, so that those of two processes with the
            same landmarks may be added. The last element is the number of samples.
    """

    def __init__(self, estimator: Landmarks, landmarks: Tensor) -> None:
        self.estimator = estimator
        self.landmarks = landmarks
        rule = bandwidth_rule(estimator.bandwidth)
        if isinstance(rule, Bandwidth):
            self.bandwidth = rule(landmarks)
        else:
            self.bandwidth = bandwidth_tensor(rule, landmarks)
        # In units of a power of two near σ, about a median row: neither size, offset nor outliers
        # cost accuracy. Any positive σ keeps k defined where all landmarks are equal.
        self._unit = unit_of(self.bandwidth.unsqueeze(-1).unsqueeze(-1)).double()
        sigma = self.bandwidth.double() / self._unit.squeeze((-2, -1))
        self._sigma = torch.where(sigma > 0, sigma, 1.0)
        self._z = in_units(landmarks.double(), self._unit)
        m, d = landmarks.shape[-2:]
        self._centre = self._z.sort(-2).values.narrow(-2, m // 2, 1)
        self.moments = self._z.new_zeros((*landmarks.shape[:-2], m + 1, m + d + 1))

    def partial_fit(
        self, samples: Tensor, *, progress: Progress | None = None
    ) -> "LandmarkStatistics":
        """Adds samples to the statistics, and returns itself.

        Args:
            samples: (..., B, d), leading dimensions, columns and device as the landmarks.
            progress: wraps the sequence of tiles, as ``tqdm.tqdm`` does.

        Raises:
            ValueError, TypeError: samples that are not such a tensor or not finite.

        Cost:
            Bm(2m + 8d) flop in float64; 100 to 200 MB for the intermediates of a tile.
        """
        _checks.require_query("samples", samples, self.landmarks, "landmarks")
        if _checks.looking_is_free(samples):
            _checks.require_finite(samples=samples)
        m, d = self.landmarks.shape[-2:]
        # Groups first: an operator's result for a group does not depend on the others.
        n = samples.shape[:-2].numel()
        x, z = samples.detach().reshape(n, samples.shape[-2], d), self._z.reshape(n, m, d)
        unit, centre = self._unit.reshape(n, 1, 1), self._centre.reshape(n, 1, d)
        sigma, moments = self._sigma.reshape(n), self.moments.view(n, m + 1, m + d + 1)
        tiles = _tiles(x.shape[0], x.shape[1], m + d + 1)
        for groups, rows in tiles if progress is None else progress(tiles):
            g, r = (groups.start, groups.stop - groups.start), (rows.start, rows.stop - rows.start)
            tile = x.narrow(0, *g).narrow(1, *r).double()
            # Infinity stays an error (on CUDA: NaN); only a quotient may saturate.
            tile = torch.where(tile.isfinite(), in_units(tile, unit.narrow(0, *g)), torch.nan)
            points, s = z.narrow(0, *g), sigma.narrow(0, *g)
            gram = ops.rbf_gram(tile, points, bandwidth=s)
            ones = tile.new_ones((*tile.shape[:-1], 1))
            row = torch.cat((gram, tile - centre.narrow(0, *g), ones), -1)
            total = moments.narrow(0, *g)
            total.narrow(1, 0, m).add_(ops.rbf_product(points, tile, row, bandwidth=s))
            total.narrow(1, m, 1).add_(row.sum(1, keepdim=True))
        return self

    def solve(self) -> "FittedLandmarks":
        """The fit to all samples seen so far; more may follow.

        Raises:
            ValueError: no sample has been seen.

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
        z, sigma = self._z - self._centre, self._sigma.unsqueeze(-1).unsqueeze(-1)
        h = -(kx - k1 * z) / sigma.square()

        values, vectors = ops.eigh(ops.rbf_gram(self._z, bandwidth=self._sigma))
        # A is a product of two kernel matrices: what it says of an eigenvector of K_zz has the
        # relative error ε (λ_max/λ)², and nothing is left of it below √ε λ_max. Where λ is added,
        # an error there is harmless, and what is left out is not.
        epsilon = torch.finfo(torch.float64).eps
        floor = epsilon**0.5 if e.lam is None else m * epsilon
        whitening = vectors * _inverse(values, floor).unsqueeze(-2).sqrt()
        values, vectors = ops.eigh(whitening.mT @ a @ whitening)
        basis = whitening @ vectors
        if e.lam is None:
            weights = torch.where(self._kept(values), _inverse(values, floor), 0.0)
        else:
            weights = 1 / (values.clamp_min(0.0) + e.lam)
        # Equal landmarks span constants of an arbitrary width: nothing is known of the score.
        weights = torch.where(self.bandwidth.unsqueeze(-1) > 0, weights, 0.0)
        coefficients = -basis @ (weights.unsqueeze(-1) * (basis.mT @ h))

        # −mean Σ s·(x − mean) / d of s = k(x, Z) C, which the statistics hold as well.
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

    def _kept(self, values: Tensor) -> Tensor:
        """The J leading ones of the ascending eigenvalues μ."""
        m, values = values.shape[-1], values.clamp_min(0.0)
        if self.estimator.rank is not None:
            j = torch.full_like(values.narrow(-1, 0, 1), min(self.estimator.rank, m))
        else:
            enough = self.estimator.threshold * values.sum(-1, keepdim=True)
            j = 1 + (values.flip(-1).cumsum(-1) < enough).sum(-1, keepdim=True)
        return torch.arange(m, device=values.device) >= m - j

    def state_dict(self) -> dict[str, Tensor]:
        """Tensors from which :meth:`Landmarks.resume` goes on; for ``torch.save``."""
        return {
            "landmarks": self.landmarks,
            "bandwidth": self.bandwidth,
            "moments": self.moments.clone(),
        }


@dataclass(frozen=True, eq=False)
class FittedLandmarks(Fitted):
    """A landmark fit, ``∇ log q(y) ≈ k(y, Z) C``, in units of a power of two near σ.

    Attributes:
        landmarks: Z, (..., m, d).
        coefficients: C, (..., m, d).
        bandwidth: σ, (...); 1 for a group of equal landmarks, whose coefficients are 0.
        unit: what the others are in units of, (..., 1, 1).
        diagnostics: rank, bandwidth, energy and calibration, in the units of the caller.
    """

    landmarks: Tensor
    coefficients: Tensor
    bandwidth: Tensor
    unit: Tensor
    diagnostics: Diagnostics

    def score(self, query: Tensor | None = None, *, progress: Progress | None = None) -> Tensor:
        """Scores at any points.

        Args:
            query: (..., Q, d), leading dimensions, columns and device as the landmarks; the
                landmarks themselves, all that a fit keeps of the samples, if not given.
            progress: wraps the sequence of tiles, as ``tqdm.tqdm`` does.

        Returns:
            (..., Q, d), without a gradient, in the dtype of the fit.

        Raises:
            ValueError, TypeError: a query that is not such a tensor or not finite.

        Cost:
            5Qmd flop; no memory but for the result and a tile.
        """
        if query is None:
            query = self.landmarks * self.unit
        _checks.require_query("query", query, self.landmarks, "landmarks")
        if _checks.looking_is_free(query):
            _checks.require_finite(query=query)
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
    """Cuts groups of rows into tiles of about ``_TILE`` values, at rows that groups do not move."""
    r = max(min(_TILE // width, rows), 1)
    g = max(_TILE // (r * width), 1)
    return [
        (slice(i, min(i + g, groups)), slice(j, min(j + r, rows)))
        for i in range(0, groups, g)
        for j in range(0, rows, r)
    ]


def _inverse(values: Tensor, floor: float) -> Tensor:
    """1/λ of ascending eigenvalues; 0 for those below a floor, relative to the largest."""
    kept = values > floor * values.narrow(-1, values.shape[-1] - 1, 1)
    return torch.where(kept, 1 / values.clamp_min(torch.finfo(values.dtype).tiny), 0.0)


def _wrap(value: int) -> int:
    """An integer as int64 holds it, modulo 2^64."""
    return (value + 2**63) % 2**64 - 2**63


def _shifted(value: Tensor, bits: int) -> Tensor:
    """A logical shift to the right."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)
