"""The Gaussian score, ``∇ log q(z) = −Σ^{−1}(z − m)``, with a regularized covariance.

m is the mean of the samples. The Gaussian score is the control with which other estimators are
compared. The largest matrix is d×d for d < M, and M×M for d >= M.
"""

from dataclasses import KW_ONLY, dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from mige_ext import ops
from mige_ext._checks import require_choice, require_finite, setting
from mige_ext._precision import (
    about_origin,
    in_units,
    no_autocast,
    power_of_two,
    rounding,
    saturated,
    standardized,
)
from mige_ext.scores.base import (
    Calibrate,
    FittableEstimator,
    FittedGradient,
    calibration_factor,
    stein_calibration,
)

Covariance = Literal["ridge", "qis", "mle"]
#: Eigenvalues up to this multiple of ε λ_max are rounding errors of the samples, as with kRankFloor
#: of csrc/common/whitening_rule.h.
_RANK_FLOOR = 8


@dataclass(frozen=True, eq=False)
class GaussianDiagnostics:
    """Diagnostics of a Gaussian estimate, one value for each group of samples, (...)."""

    #: ``−mean(s·(z − m)) / d`` before ``calibrate`` divides the scores, with m the mean of the
    #: samples; 1 for "mle" with a regular covariance, and smaller for a stronger shrinkage
    calibration: Tensor


@dataclass(frozen=True, eq=False, repr=False)
class FittedGaussian(FittedGradient):
    """A fitted Gaussian score, ``g(q) = −(q − m) P``, with the energy ``−(q − m) P (q − m)ᵀ/2``.

    The precision is ``P = W Wᵀ``. For d >= M, "ridge" and "qis" add a second term for the
    directions in which the samples do not vary: ``P = W Wᵀ + D (I − U Uᵀ) D`` with a diagonal
    matrix D.

    Cost:
        For Q points and r = min(M, d), a score takes 4Qdr flop and an energy 2Qdr flop. The second
        term doubles the cost.
    """

    # samples, mean, whitening and outside are in the scaled coordinates ``x / unit − origin``.
    samples: Tensor  #: (..., M, d)
    mean: Tensor  #: m, (..., 1, d)
    whitening: Tensor  #: W, (..., d, r) with r = min(M, d)
    origin: Tensor  #: the first sample divided by ``unit``, (..., 1, d)
    unit: Tensor  #: a power of two for each column, (..., 1, d)
    diagnostics: GaussianDiagnostics  #: the calibration
    directions: Tensor | None = None  #: U, of the shape of W; None if P has no second term
    outside: Tensor | None = None  #: diagonal of D, (..., 1, d); None if P has no second term

    def _energy(self, points: Tensor) -> Tensor:
        y, whitening = self._deviations(points), self._whitening
        energy = (y @ whitening.factor).square().sum(-1)
        if whitening.outside is not None:
            energy = energy + whitening.remainder(y).square().sum(-1)
        return energy / -2

    def _in_units(self, query: Tensor) -> Tensor:
        return in_units(query, self.unit) - self.origin

    def _score(self, points: Tensor) -> Tensor:
        scores = -self._whitening.applied(self._deviations(points))
        return in_units(saturated(scores), self.unit)

    @property
    def _whitening(self) -> "Whitening":
        return Whitening(self.mean, self.whitening, self.directions, self.outside)

    def _deviations(self, points: Tensor) -> Tensor:
        # The elements of W are at most 1/ε, so products of W and clamped points do not overflow.
        limit = torch.finfo(points.dtype).max ** 0.5
        return (points - self.mean).clamp(-limit, limit)


@dataclass(frozen=True)
class GaussianScore(FittableEstimator[FittedGaussian]):
    """Score of the Gaussian with the mean and a regularized covariance of the samples.

        >>> import torch, mige_ext as mige
        >>> x = torch.randn(100, 20)
        >>> s = mige.GaussianScore(covariance="qis").score(x)       # near −x
        >>> mige.GaussianScore().fit(x).energy(torch.zeros(5, 20)).shape
        torch.Size([5])

    The score is zero in a column whose values are all equal.

    Args:
        covariance: the estimate of the covariance.

            - "ridge": ``R + τI`` for the correlation matrix R, with τ chosen by leave-one-out
              (:func:`ridge_whitening`). The score is equivariant to shifts and to scales of each
              column.
            - "qis": quadratic-inverse shrinkage of the eigenvalues, for any M and d
              (:func:`qis_whitening`). The score is equivariant to shifts, rotations and a common
              scale.
            - "mle": maximum likelihood, the covariance with divisor M. The score is equivariant to
              affine maps if the covariance is regular. For a singular covariance, as for M <= d,
              the pseudo-inverse is used.
        calibrate: "stein" divides the scores of each group by
            :attr:`GaussianDiagnostics.calibration`; None does not.

    Cost:
        With r = min(M, d), 4Mdr + 9r³ flop and O(Md + r²) memory for each group. For d >= M the
        eigendecomposition is in float64.
    """

    covariance: Covariance = setting("ridge", require_choice, "ridge", "qis", "mle")
    _: KW_ONLY
    calibrate: Calibrate = None

    @property
    def depends_on_scale(self) -> bool:
        """True for "qis", which shrinks eigenvalues of the covariance of all columns together."""
        return self.covariance == "qis"

    def _quadratic_memory(self, m: int, d: int) -> int:
        return m**2 if m <= d else 0

    def _fit(self, samples: Tensor) -> FittedGaussian:
        require_finite(samples=samples)
        x, origin, unit = about_origin(samples)
        with no_autocast(x):
            if self.covariance == "ridge":
                whitening = ridge_whitening(x)
            elif self.covariance == "mle":
                whitening = mle_whitening(x)
            else:
                # QIS shrinks the eigenvalues of the covariance, so all columns must have the same
                # unit. Then W is converted back to the unit of each column.
                widths = saturated(x.abs().amax(-2, keepdim=True) * unit)
                ratio = in_units(unit, power_of_two(widths.amax(-1, keepdim=True)))
                whitening = qis_whitening(x * ratio).in_units(standardized(x)[0], ratio)
            scores = -whitening.applied(x - whitening.mean)
        diagnostics = GaussianDiagnostics(stein_calibration(x, scores))
        if self.calibrate is not None:
            factor = calibration_factor(diagnostics.calibration).sqrt()
            whitening = whitening.in_units(whitening.mean, 1 / factor)
        mean, w, directions, outside = whitening
        return FittedGaussian(x, mean, w, origin, unit, diagnostics, directions, outside)


# --- whitening ------------------------------------------------------------------------------------


class Whitening(NamedTuple):
    """A mean m and a precision ``P = W Wᵀ + D (I − U Uᵀ) D``; see :class:`FittedGaussian`."""

    mean: Tensor  # m, (..., 1, d)
    factor: Tensor  # W, (..., d, r)
    directions: Tensor | None = None  # U, (..., d, r), with columns of length 1 or 0
    outside: Tensor | None = None  # the diagonal of D, (..., 1, d)

    def applied(self, y: Tensor) -> Tensor:
        """``y P``, (..., Q, d) -> (..., Q, d)."""
        inside = (y @ self.factor) @ self.factor.mT
        return inside if self.outside is None else inside + self.remainder(y) * self.outside

    def remainder(self, y: Tensor) -> Tensor:
        """``y D (I − U Uᵀ)``, (..., Q, d) -> (..., Q, d), for given U and D."""
        assert self.directions is not None and self.outside is not None
        y = y * self.outside
        return y - (y @ self.directions) @ self.directions.mT

    def in_units(self, mean: Tensor, ratio: Tensor) -> "Whitening":
        """The whitening of samples ``x / ratio`` with the given mean; ratio is (..., 1, d or 1)."""
        outside = None if self.outside is None else ratio * self.outside
        return Whitening(mean, ratio.mT * self.factor, self.directions, outside)


# Each function takes samples (..., M, d) whose largest elements are near 1. W has rows of zeros for
# constant columns.
#
# In the rest of this file, D is the diagonal matrix of the standard deviations, not the D of
# `Whitening`. V are the standardized samples, and Λ and U the eigenvalues and eigenvectors of their
# correlation matrix R = VᵀV/M.
#
# For d >= M, U follows from an M×M matrix: with V Vᵀ/M = Q Λ Qᵀ, U = Vᵀ Q (MΛ)^{−1/2}. All other
# eigenvalues of R are 0.


def ridge_whitening(x: Tensor, *, factor: float | None = 1.0) -> Whitening:
    """``P = D^{−1} (R + τI)^{−1} D^{−1}``.

    τ is ``factor`` times the minimizer of the leave-one-out objective (:func:`.ops.ridge_whitening`
    has the formula). None gives the weak ridge.
    """
    if not _is_wide(x):
        mean, whitening, _ = ops.ridge_whitening(x, factor=factor)
        return Whitening(mean.unsqueeze(-2), whitening)
    mean, v, deviation = standardized(x)
    m = x.shape[-2]
    values, vectors, directions = _dual_spectrum(v.double())
    varying = (deviation > 0).sum(-1)
    # As in ops.ridge_whitening, every varying column counts if M − 1 < 5/4 × (number of varying
    # columns). Otherwise only the eigenvalues above their rounding errors count.
    few = 4 * (m - 1) < 5 * varying
    known = values > _RANK_FLOOR * torch.finfo(x.dtype).eps * values.narrow(-1, m - 1, 1)
    dimensions = torch.where(few, varying, known.sum(-1, keepdim=True))
    best = _ridge(values, m * values.unsqueeze(-2) * vectors.square(), dimensions)
    tau = (_weak_ridge(dimensions, m) if factor is None else factor) * best
    scales = torch.where(few | known, (values + tau).rsqrt(), 0.0).unsqueeze(-2)
    inverse = _inverse(deviation)
    outside = inverse * torch.where(few, tau.rsqrt(), 0.0).unsqueeze(-2)
    whitening = inverse.mT * directions * scales
    return Whitening(mean, *(part.to(x.dtype) for part in (whitening, directions, outside)))


def _weak_ridge(dimensions: Tensor, m: int) -> Tensor:
    """The fraction of τ that csrc/common/whitening_rule.h gives for ``factor=None``."""
    return 0.1 + 0.1 * (4 * dimensions.double() / m).clamp(max=1).square()


def _ridge(values: Tensor, rotated: Tensor, dimensions: Tensor) -> Tensor:
    """The τ with the least leave-one-out objective of :func:`.ops.ridge_whitening`, (..., 1).

    Args:
        values: the M eigenvalues that may differ from 0, ascending, (..., M).
        rotated: the squares of the samples' coordinates along the eigenvectors, (..., M, M).
        dimensions: number of eigenvalues that count, (..., 1).
    """
    m = values.shape[-1]
    c1, c2 = m / (m - 1), m / (m - 1) ** 2
    counts = torch.arange(m, device=values.device) >= m - dimensions
    exponents = torch.linspace(-4.0, 1.0, 26, dtype=values.dtype, device=values.device)
    grid = 10**exponents
    shrunk = torch.where(counts.unsqueeze(-1), 1 / (c1 * values.unsqueeze(-1) + grid), 0.0)
    trace = shrunk.sum(-2) + (dimensions - m).clamp(min=0) / grid
    q, q2 = rotated @ shrunk, rotated @ shrunk.square()
    left = 1 - c2 * q
    objective = (c1**2 / 2 * q2 / left.square() - c2 * q2 / left).mean(-2) - trace  # (..., 26)
    # The result is the vertex of the parabola through the least value and its two neighbors, or an
    # end of the grid if the least value is at this end.
    at = objective.argmin(-1, keepdim=True)
    inner = at.clamp(1, len(grid) - 2)
    left, here, right = (objective.gather(-1, inner + k) for k in (-1, 0, 1))
    curvature = left - 2 * here + right
    shift = torch.where((curvature > 0) & (at == inner), (left - right) / (2 * curvature), 0.0)
    return 10 ** (-4.0 + 0.2 * (at + shift))


def mle_whitening(x: Tensor) -> Whitening:
    """``W = D^{−1} U Λ^{−1/2}`` without the eigenvalues of R that are zero up to rounding."""
    mean, v, deviation = standardized(x)
    if _is_wide(x):
        values, _, vectors = _dual_spectrum(v.double())
    else:
        values, vectors = _spectrum(v.double())
    # The eigenvalues are computed in float64, so the rounding of float32 samples does not grow with
    # their number.
    size = _RANK_FLOOR if x.dtype == torch.float32 else max(v.shape[-2:])
    largest = values.narrow(-1, values.shape[-1] - 1, 1)
    noise = size * torch.finfo(x.dtype).eps * largest
    scales = torch.where(values > noise, values, torch.inf).rsqrt()
    factor = _inverse(deviation).mT * vectors * scales.unsqueeze(-2)
    return Whitening(mean, factor.to(x.dtype))


def qis_whitening(x: Tensor) -> Whitening:
    """``P = U δ^{−1} Uᵀ`` with δ the eigenvalues λ after quadratic-inverse shrinkage.

    λ and U are the eigenvalues and eigenvectors of the covariance. n + 1 is the number of distinct
    samples, and d the number of dimensions in which they vary. Let c = d/n, ``l = 1/λ`` and
    ``h = min(c, 1/c)^{0.7} d^{−0.35}``. Means run over the positive eigenvalues. The smoothed Stein
    shrinker and its conjugate are

    ``θ_i = mean_j l_j(l_j − l_i)/((l_j − l_i)² + h²l_j²)``,
    ``ϑ_i = mean_j h l_j²/((l_j − l_i)² + h²l_j²)``.

    For d <= n, ``1/δ_i = l_i((1 − c)² + 2c(1 − c)θ_i + c²(θ_i² + ϑ_i²))``, and directions without
    variance are excluded. For d > n, ``1/δ_i = l_i(θ_i² + ϑ_i²)``, and ``1/δ = (c − 1) mean l`` for
    the d − n eigenvalues that are 0. Then δ is scaled to the sum of λ. The shrinkage is computed in
    float64.

    Ledoit and Wolf, "Quadratic shrinkage for large covariance matrices" (Bernoulli 28(3), 2022).
    """
    mean, v, deviation = standardized(x)
    # Columns of different sizes give eigenvalues of different sizes, and in float32 the small ones
    # would be lost in rounding errors.
    v = (v * deviation).double()
    m, d = v.shape[-2:]
    wide = _is_wide(x)
    n: Tensor | int = m - 1
    if wide:
        # The mean of v is 0 only up to the rounding errors of the dtype of x. In float64 these
        # errors would look like an eigenvalue above 0.
        v = v - v.mean(-2, keepdim=True)
        gram = v @ v.mT
        values, _, vectors = _dual_spectrum(v, gram)
        n = (_distinct(gram, d) - 1).clamp(min=1).to(v.dtype)
    else:
        values, vectors = _spectrum(v)
    largest = values.narrow(-1, values.shape[-1] - 1, 1)
    largest = torch.where(largest > 0, largest, 1.0)
    known = values > rounding(values, max(m, d))
    rank = known.sum(-1, keepdim=True).to(v.dtype)
    # With few samples, directions without variance in the samples may vary in the density: they are
    # unseen. Otherwise, directions without variance are excluded.
    unseen = wide & (rank >= n)
    rank = rank.clamp(min=1)
    dimensions = torch.where(unseen, float(d), rank)
    c = dimensions / n
    inverse = torch.where(known, largest / values, 0.0)  # λ_1 l_i
    h = torch.minimum(c, 1 / c) ** 0.7 * dimensions**-0.35
    shrunk = torch.where(known, inverse * _quadratic(inverse, h, c, rank), 1.0)
    total = torch.where(known, 1 / shrunk, 0.0).sum(-1, keepdim=True)
    null = torch.where(unseen, (c - 1) * inverse.sum(-1, keepdim=True) / rank, 1.0)
    total = total + torch.where(unseen, (d - n) / null, 0.0)
    trace = (values / largest).sum(-1, keepdim=True)
    ratio = total / torch.where(trace > 0, trace, 1.0) / largest * ((m - 1) / m)
    scales = torch.where(known, (shrunk * ratio).sqrt(), 0.0)
    varies = (deviation > 0).to(v.dtype)
    factor = (varies.mT * vectors * scales.unsqueeze(-2)).to(x.dtype)
    if not wide:
        return Whitening(mean, factor)
    outside = varies * torch.where(unseen, (null * ratio).sqrt(), 0.0).unsqueeze(-2)
    return Whitening(mean, factor, vectors.to(x.dtype), outside.to(x.dtype))


def _distinct(gram: Tensor, d: int) -> Tensor:
    """Number of rows of V (..., M, d) that differ from all earlier rows, (..., 1), from VVᵀ."""
    lengths = gram.diagonal(dim1=-2, dim2=-1)
    sums = lengths.unsqueeze(-1) + lengths.unsqueeze(-2)
    coincide = sums - 2 * gram <= 4 * d * torch.finfo(gram.dtype).eps * sums
    return gram.shape[-1] - coincide.tril(-1).any(-1).sum(-1, keepdim=True)


def _quadratic(inverse: Tensor, h: Tensor, c: Tensor, rank: Tensor) -> Tensor:
    """``(1 − c)² + 2c(1 − c)θ + c²(θ² + ϑ²)`` for min(c, 1) and means of ``rank`` terms."""
    c = c.clamp(max=1.0)
    others = inverse.unsqueeze(-2)
    apart = others - inverse.unsqueeze(-1)
    spread = apart.square() + (h.unsqueeze(-1) * others).square()
    weights = torch.where(others > 0, others / spread, 0.0)
    theta, conjugate = (weights * apart).sum(-1) / rank, h * (weights * others).sum(-1) / rank
    return (1 - c) ** 2 + 2 * c * (1 - c) * theta + c**2 * (theta.square() + conjugate.square())


def _spectrum(v: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, ascending and not negative, and eigenvectors of ``VᵀV/M``."""
    values, vectors = ops.eigh(v.mT @ v / v.shape[-2])
    return values.clamp(min=0), vectors


def _dual_spectrum(v: Tensor, gram: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Λ, ascending and not negative, Q and U; the columns of U are 0 where λ is a rounding error.

    Λ is (..., M), Q is (..., M, M) and U is (..., d, M). ``gram`` is VVᵀ, if it is known.
    """
    m = v.shape[-2]
    values, vectors = ops.eigh((v @ v.mT if gram is None else gram) / m)
    values = values.clamp(min=0)
    noise = rounding(values, max(v.shape[-2:]))
    scales = torch.where(values > noise, m * values, torch.inf).rsqrt()
    return values, vectors, v.mT @ vectors * scales.unsqueeze(-2)


def _is_wide(x: Tensor) -> bool:
    """Whether an M×M matrix is not larger than a d×d matrix."""
    return x.shape[-2] <= x.shape[-1]


def _inverse(deviation: Tensor) -> Tensor:
    """The diagonal of D^{−1}, (..., 1, d); 0 for constant columns."""
    return torch.where(deviation > 0, 1 / deviation, 0.0)
