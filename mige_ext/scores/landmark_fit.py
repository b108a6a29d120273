"""The fit of ``Landmarks``, and the sums over samples from which it is computed.

``landmarks.py`` has the formulas.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mige_ext import _checks, ops
from mige_ext._precision import at_least_float32, in_units, per_group, saturated, unit_of
from mige_ext.scores.base import Diagnostics, Fitted, calibrated
from mige_ext.scores.kernel.kernels import bandwidth_of
from mige_ext.scores.kernel.spectral import leading

if TYPE_CHECKING:
    from mige_ext.scores.landmarks import Landmarks

#: A part of the samples: (first group, number of groups), (first row, number of rows).
Tile = tuple[tuple[int, int], tuple[int, int]]
Progress = Callable[[Iterable[Tile]], Iterable[Tile]]

_TILE = 2**21  # float64 values of an intermediate: 16 MiB


class LandmarkStatistics:
    """The sums over samples that a landmark fit needs, from any number of batches.

    Attributes:
        landmarks: Z, (..., m, d), in the units of the caller.
        bandwidth: σ, (...), in the units of the caller; 0 if all landmarks are equal.
        moments: ``[K_xz, 1]ᵀ [K_xz, x − c, 1]`` with the coordinate medians c of the landmarks,
            summed over samples x, (..., m + 1, m + d + 1), float64. Lengths are in a unit near σ.
            The last element is the number of samples. The moments of two processes with the same
            landmarks may be added.
    """

    def __init__(self, estimator: "Landmarks", landmarks: Tensor) -> None:
        self.estimator = estimator
        self.landmarks = landmarks = at_least_float32(landmarks.detach()).clone()
        self.bandwidth = bandwidth_of(estimator.bandwidth, landmarks)
        # The coordinate medians are the origin, so that offsets and outliers cost no accuracy. If
        # all landmarks are equal, σ is set to 1, because k needs a positive σ.
        self._unit = unit_of(per_group(self.bandwidth)).double()
        sigma = self.bandwidth.double() / self._unit.squeeze((-2, -1))
        self._sigma = torch.where(sigma > 0, sigma, 1.0)
        self._z = in_units(landmarks.double(), self._unit)
        m, d = landmarks.shape[-2:]
        self._center = self._z.sort(-2).values.narrow(-2, m // 2, 1)
        with torch.inference_mode(False):  # so that the sums may grow outside of inference mode
            self.moments = self._z.new_zeros((*landmarks.shape[:-2], m + 1, m + d + 1))

    def partial_fit(
        self, samples: Tensor, *, progress: Progress | None = None
    ) -> "LandmarkStatistics":
        """Add samples to the statistics, and return the object itself.

        Args:
            samples: (..., B, d), with the leading dimensions, columns and device of the landmarks.
            progress: wraps the sequence of tiles, the parts of the samples, as ``tqdm.tqdm`` does.

        Raises:
            ValueError, TypeError: ``samples`` is not as described or not finite.

        Cost:
            Bm(2m + 8d) flop in float64; 100 to 200 MB for the intermediates of one tile.
        """
        _checks.require_query("samples", samples, self.landmarks, "landmarks")
        m, d = self.landmarks.shape[-2:]
        # The groups become one batch dimension, which is tiled. An operator computes each group
        # independently.
        n = samples.shape[:-2].numel()
        x, z = samples.detach().reshape(n, samples.shape[-2], d), self._z.reshape(n, m, d)
        unit, center = self._unit.reshape(n, 1, 1), self._center.reshape(n, 1, d)
        sigma, moments = self._sigma.reshape(n), self.moments.view(n, m + 1, m + d + 1)
        if torch.compiler.is_compiling():
            moments.add_(_moments(x, z, unit, center, sigma))
        else:
            added = torch.zeros_like(moments)
            _add_moments(added, x, z, unit, center, sigma, progress)
            moments.add_(added)  # at once, so that an interrupted call adds nothing
        return self

    def solve(self) -> "FittedLandmarks":
        """The fit to all samples that were added so far.

        Raises:
            ValueError: no sample was added (not checked on CUDA).

        Cost:
            Two eigendecompositions of m×m and about 8m³ flop, in float64.
        """
        e, (m, d) = self.estimator, self.landmarks.shape[-2:]
        by_kernel, last = self.moments.narrow(-2, 0, m), self.moments.narrow(-2, m, 1)
        count = last.narrow(-1, m + d, 1)
        if _checks.can_read(count) and not bool((count > 0).all()):
            raise ValueError("a fit needs samples, got none: call partial_fit before solve")
        a = by_kernel.narrow(-1, 0, m) / count
        kx, k1 = by_kernel.narrow(-1, m, d) / count, by_kernel.narrow(-1, m + d, 1) / count
        mean = last.narrow(-1, m, d) / count
        z, sigma = self._z - self._center, per_group(self._sigma)
        h = -(kx - k1 * z) / sigma.square()

        values, vectors = ops.eigh(ops.rbf_gram(self._z, bandwidth=self._sigma))
        # `a` is a product of two kernel matrices. Along an eigenvector of K_zz with eigenvalue s,
        # its relative error is ε (s_max/s)². A cut-off therefore excludes directions with
        # s < √ε s_max. Tikhonov's filter keeps these directions, because λ bounds their errors, and
        # the score would be biased without them.
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
        # Equal landmarks have no bandwidth, and their score is set to 0.
        weights = torch.where(self.bandwidth.unsqueeze(-1) > 0, weights, 0.0)
        coefficients = -basis @ (weights.unsqueeze(-1) * (basis.mT @ h))

        # The calibration −mean(s·(x − mean)) / d of s = k(x, Z) C follows from the same sums. As in
        # `stein_calibration`, d counts the columns that vary.
        varying = (z.amax(-2) > z.amin(-2)).sum(-1).clamp(min=1)
        calibration = -(coefficients * (kx - k1 * mean)).sum((-2, -1)) / varying
        coefficients = calibrated(coefficients, calibration, e.calibrate)
        kept, dtype = weights > 0, self.landmarks.dtype
        energy = torch.where(kept, values, 0.0).sum(-1).to(dtype)
        diagnostics = Diagnostics(kept.sum(-1), self.bandwidth, energy, calibration.to(dtype))
        z, unit = self._z.to(dtype), self._unit.to(dtype)
        return FittedLandmarks(z, saturated(coefficients), self._sigma, unit, diagnostics)

    def state_dict(self) -> dict[str, Tensor]:
        """Tensors for ``torch.save``, from which :meth:`Landmarks.resume` continues."""
        moments = self.moments.clone()
        return {"landmarks": self.landmarks, "bandwidth": self.bandwidth, "moments": moments}


@dataclass(frozen=True, eq=False, repr=False)
class FittedLandmarks(Fitted):
    """A landmark fit, ``∇ log q(y) ≈ k(y, Z) C``.

    Cost:
        A score at Q points takes 5Qmd flop in float64, and memory for the result and one tile of
        the points.
    """

    landmarks: Tensor  #: Z, (..., m, d)
    #: C, (..., m, d), float64, because large coefficients of close landmarks nearly cancel
    coefficients: Tensor
    bandwidth: Tensor  #: σ, (...), float64; 1 for equal landmarks, whose coefficients are 0
    unit: Tensor  #: the unit of length, (..., 1, 1)
    diagnostics: Diagnostics  #: rank, bandwidth, energy and calibration, in the caller's units

    def score(self, query: Tensor | None = None, *, progress: Progress | None = None) -> Tensor:
        """Scores at any points; see :meth:`.Fitted.score`.

        Args:
            query: (..., Q, d), with the leading dimensions and the device of the landmarks; the
                landmarks themselves if not given, because a fit keeps no other samples.
            progress: wraps the sequence of tiles, the parts of the points, as ``tqdm.tqdm`` does.
        """
        if query is None:
            query = self.landmarks * self.unit
        _checks.require_query("query", query, self.landmarks, "landmarks")
        fit = self.landmarks, self.coefficients, self.bandwidth, self.unit
        if torch.compiler.is_compiling():
            return _scores(query.detach(), *fit)
        return _tiled_scores(query.detach(), *fit, progress)


# --- tiles ----------------------------------------------------------------------------------------


def _add_moments(
    moments: Tensor,
    x: Tensor,
    z: Tensor,
    unit: Tensor,
    center: Tensor,
    sigma: Tensor,
    progress: Progress | None = None,
) -> None:
    """Add samples (n, B, d) to the moments (n, m + 1, m + d + 1)."""
    m, d = z.shape[-2:]
    for g, r in _tiles(x.shape[0], x.shape[1], m + d + 1, progress):
        tile = x.narrow(0, *g).narrow(1, *r).double()
        # An infinite sample becomes NaN, and an overflow of the division becomes a large number.
        tile = torch.where(tile.isfinite(), in_units(tile, unit.narrow(0, *g)), torch.nan)
        points, s = z.narrow(0, *g), sigma.narrow(0, *g)
        gram = ops.rbf_gram(tile, points, bandwidth=s)
        ones = tile.new_ones((*tile.shape[:-1], 1))
        row = torch.cat((gram, tile - center.narrow(0, *g), ones), -1)
        total = moments.narrow(0, *g)
        total.narrow(1, 0, m).add_(ops.rbf_product(points, tile, row, bandwidth=s))
        total.narrow(1, m, 1).add_(row.sum(1, keepdim=True))


def _tiled_scores(
    query: Tensor,
    landmarks: Tensor,
    coefficients: Tensor,
    bandwidth: Tensor,
    unit: Tensor,
    progress: Progress | None = None,
) -> Tensor:
    """Scores of a fit at points (..., Q, d), in the dtype of the landmarks."""
    result = query.new_zeros(query.shape, dtype=landmarks.dtype)
    z, c, sigma = landmarks.double(), coefficients.double(), bandwidth.double()
    groups = max(query.shape[:-2].numel(), 1)
    for _, r in _tiles(1, query.shape[-2], groups * query.shape[-1], progress):
        points = in_units(query.narrow(-2, *r).double(), unit.double())
        scores = ops.rbf_product(points, z, c, bandwidth=sigma) / unit.double()
        result.narrow(-2, *r).add_(saturated(scores.to(result.dtype)))
    return result


# torch.compile would unroll the loops over tiles, and compile again for each number of samples.
# Custom operators hide the loops from the compiler.


@torch.library.custom_op("mige_ext::_landmark_moments", mutates_args=())
def _moments(x: Tensor, z: Tensor, unit: Tensor, center: Tensor, sigma: Tensor) -> Tensor:
    moments = _no_moments(x, z, unit, center, sigma)
    _add_moments(moments, x, z, unit, center, sigma)
    return moments


@_moments.register_fake
def _no_moments(x: Tensor, z: Tensor, unit: Tensor, center: Tensor, sigma: Tensor) -> Tensor:
    m, d = z.shape[-2:]
    return z.new_zeros((z.shape[0], m + 1, m + d + 1))


@torch.library.custom_op("mige_ext::_landmark_scores", mutates_args=())
def _scores(
    query: Tensor, landmarks: Tensor, coefficients: Tensor, bandwidth: Tensor, unit: Tensor
) -> Tensor:
    return _tiled_scores(query, landmarks, coefficients, bandwidth, unit)


@_scores.register_fake
def _no_scores(
    query: Tensor, landmarks: Tensor, coefficients: Tensor, bandwidth: Tensor, unit: Tensor
) -> Tensor:
    return landmarks.new_zeros(query.shape)


def _tiles(groups: int, rows: int, width: int, progress: Progress | None) -> Iterable[Tile]:
    """Tiles of about ``_TILE`` values. The number of rows does not depend on ``groups``."""
    r = max(min(_TILE // width, rows), 1)
    g = max(_TILE // (r * width), 1)
    starts = product(range(0, groups, g), range(0, rows, r))
    tiles = [((i, min(g, groups - i)), (j, min(r, rows - j))) for i, j in starts]
    return tiles if progress is None else progress(tiles)


def _inverse(values: Tensor, floor: float) -> Tensor:
    """1/λ of ascending eigenvalues; 0 for eigenvalues below ``floor`` times the largest."""
    kept = values > floor * values.narrow(-1, values.shape[-1] - 1, 1)
    return torch.where(kept, 1 / values.clamp_min(torch.finfo(values.dtype).tiny), 0.0)
