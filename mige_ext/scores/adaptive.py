"""A score estimator without settings, which chooses its regularization by Stein's identity."""

from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from mige_ext import _checks, _recording, ops
from mige_ext._precision import about_origin, no_autocast, per_group, saturated
from mige_ext.scores.base import (
    Calibrate,
    FittableEstimator,
    Fitted,
    calibrated,
    prepared,
    stein_calibration,
)
from mige_ext.scores.gaussian import Covariance, FittedGaussian, GaussianScore, ridge_whitening
from mige_ext.scores.student import FittedStudent


@dataclass(frozen=True, eq=False)
class AdaptiveDiagnostics:
    """Diagnostics of an adaptive estimate, one value for each group of samples, (...)."""

    lam: Tensor  #: λ of Tikhonov's filter; infinite if the start is used without a correction
    #: the start that the filter corrects: 0 for zero, 1 for the Gaussian score, 2 for the Student
    #: score or, in :meth:`AdaptiveScore.score_pair`, for the scores of x and of z
    base: Tensor
    #: Estimate of ``E‖ŝ − s‖²/2`` minus ``E‖r − s‖²/2`` in whitened units, for the estimated score
    #: ŝ, the true score s, and the Gaussian score r with the weak ridge, for any
    #: ``gaussian``. The risk is 0 if the Gaussian score is used unchanged, and negative otherwise.
    risk: Tensor
    standard_error: Tensor  #: standard error of ``risk``
    #: ν of the Student score that base 2 corrects; infinite if the Gaussian score fits better
    nu: Tensor
    bandwidth: Tensor  #: σ of the IMQ kernel, in whitened units
    #: fraction of the samples that are left out of the choice of λ, base and σ, because they nearly
    #: coincide with other samples. Independent samples give 0, unless they form clusters of a few
    #: samples each.
    left_out: Tensor
    #: ``−mean(Σ s·(z − m)) / d`` before ``calibrate`` divides the scores, with m the mean of the
    #: samples; 1 for the true score
    calibration: Tensor


@dataclass(frozen=True, eq=False, repr=False)
class FittedAdaptive(Fitted):
    """An adaptive score at any points, ``s₀(q) − (k(q, Z) S + H(q) Wᵀ) / (λM)``.

    k is the IMQ kernel in whitened coordinates ``z(q) = (q − mean) W``, and H its gradient sum. For
    base 0, s₀ is 0. For base 1, s₀ is the Gaussian score, which is ``−z(q) Wᵀ`` or the score of the
    field ``gaussian``. For base 2, s₀ is the Gaussian score plus the departure of the Student score
    from ``−z(q) Wᵀ``.

    Cost:
        A score at Q points takes 7QMd flop in float64, and 2QM values of memory for each group.
    """

    samples: Tensor  #: (..., M, d); Z = (samples − mean) W
    scores: Tensor  #: S, at the samples, (..., M, d), float64
    mean: Tensor  #: (..., 1, d), float64
    whitening: Tensor  #: W, (..., d, d), float64
    factor: Tensor  #: the number that calibration multiplies scores by, (..., 1, 1)
    gaussian: FittedGaussian | None  #: Gaussian part of "qis" and "mle"; None for "ridge"
    student: FittedStudent  #: the Student score in whitened coordinates; NaN for an infinite ν
    diagnostics: AdaptiveDiagnostics  #: λ, base, risk, its standard error, ν, σ and calibration

    def _score(self, points: Tensor) -> Tensor:
        z = (self.samples.double() - self.mean) @ self.whitening
        q = saturated((points.double() - self.mean) @ self.whitening)
        d = self.diagnostics
        lam, base, sigma = (per_group(value) for value in (d.lam, d.base, d.bandwidth))
        # Equal samples have σ = 0 and an infinite λ. The correction is then 0 for any k.
        inverse_variance = torch.where(sigma > 0, sigma, 1.0) ** -2
        k = (1 + inverse_variance * ops.squared_distances(q, z)).rsqrt()
        p = -inverse_variance / 2 * k**3
        h = 2 * (p @ z - p.sum(-1, keepdim=True) * q)
        back = self.whitening.mT
        correction = saturated(k @ self.scores + h @ back) / (lam * self.samples.shape[-2])
        ridge, of_ridge = saturated(-q @ back), base.clamp(max=1)
        start = of_ridge * ridge
        if self.gaussian is not None:
            squares, size = q.square().sum(-1, keepdim=True), self.student.size
            part = _gaussian_weight(base, per_group(d.nu), squares, size)
            start = (of_ridge - part) * ridge + part * self.gaussian.score(points.double())
        start = start + torch.where(base == 2, self.student.score(q) + q, 0.0) @ back
        limit = torch.finfo(points.dtype).max
        return ((start - correction) * self.factor).clamp(-limit, limit).to(points.dtype)


@dataclass(frozen=True)
class AdaptiveScore(FittableEstimator[FittedAdaptive]):
    """Score without tuning: a kernel corrects a Gaussian score where the samples support this.

    The samples are whitened with the weak ridge, the fraction ``0.1 + 0.1 min(1, 4d/M)²`` of the
    ridge τ that minimizes a leave-one-out objective. A Tikhonov filter with the IMQ kernel then
    corrects a start s₀, ``F = s₀ − (K + λM I)^{−1} (K s₀ + H)``. K is the Gram matrix of the
    whitened samples, and H the gradient sum of the kernel. The start is 0, the Gaussian score or,
    on samples with heavy tails, a Student score (:func:`mige_ext.ops.student_score`).

    Stein's identity estimates the risk of each candidate from the same samples. The estimator uses
    the λ and the s₀ with the least sum of the risk and its standard error. If no correction reduces
    the risk by more than its standard error, the Gaussian score is used unchanged. Samples may
    repeat, because the choice of λ and s₀ leaves out copies and most near copies.
    :func:`mige_ext.ops.adaptive_score` has the formulas.

        >>> import torch, mige_ext as mige
        >>> x = torch.randn(256, 8)
        >>> s = mige.AdaptiveScore().score(x)                    # near −x
        >>> bool((s + x).square().sum() < x.square().sum() / 5)
        True

    ``AdaptiveScore()`` is the default of the information functions. Its weak ridge biases gradients
    of information by 5 % on Gaussians with d = 40, where "qis" biases them by 21 %. For accurate
    scores, use ``AdaptiveScore(gaussian="qis")``. Over the densities of the accuracy benchmark at
    M = 256, the mean squared error of the scores, divided by that of the best setting in hindsight,
    is 1.11 with "qis" and 1.26 with "ridge".

    A fit works in float64. Away from the samples the filter divides a difference of the order of λ
    by λ, which would magnify the rounding errors of float32. If two values of λ are nearly tied, a
    fit may choose another λ than :meth:`score`.

    Args:
        gaussian: covariance of the Gaussian part, as in :class:`GaussianScore`: "ridge" (the weak
            ridge), "qis" or "mle". On Gaussians, "mle" does not bias gradients of information, but
            gives the worst scores.
        calibrate: "stein" divides the scores of each group by
            :attr:`AdaptiveDiagnostics.calibration`; None does not.

    Cost:
        For each group with r = min(M, d): M³ + 10M²r flop for each λ that is tried (usually 3 to 5,
        at most 6), one eigendecomposition of r × r, and 4M² + O(Md) values of memory. For heavy
        tails the Student score adds 16Mr² + 4r³ flop, and 4M²r flop to each λ. On CUDA it always
        adds one eigendecomposition of r × r. "qis" and "mle" add two eigendecompositions of r × r.
        A fit takes this cost in float64, and one eigendecomposition of d × d.
    """

    gaussian: Covariance = "ridge"
    _: KW_ONLY
    calibrate: Calibrate = None

    def __post_init__(self) -> None:
        """Check the arguments."""
        super().__post_init__()
        _checks.require_choice("gaussian", self.gaussian, "ridge", "qis", "mle")

    def gaussian_score(self, samples: Tensor) -> Tensor:
        """Scores of the Gaussian part alone, ``−Σ^{−1}(z − m)`` with the covariance ``gaussian``.

        m is the mean of the samples. With ``calibrate``, the scores are divided by their own
        calibration.

        Args:
            samples: as for :meth:`score`.

        Returns:
            (..., M, d), as for :meth:`score`.

        Raises:
            ValueError, TypeError: as for :meth:`score`.

        Cost:
            O(Mdr + r³) for each group, with r = min(M, d).
        """
        x = prepared(samples)
        if self.gaussian != "ridge":
            return GaussianScore(covariance=self.gaussian, calibrate=self.calibrate).score(x)
        _checks.require_finite(samples=x)
        scores = saturated(_ridge_score(x)[0])
        return calibrated(scores, stein_calibration(x, scores), self.calibrate)

    def departure(self, samples: Tensor) -> Tensor:
        """The estimate of the non-Gaussian part: :meth:`score` minus :meth:`gaussian_score`.

        For ``gaussian="ridge"`` without ``calibrate``, the departure is computed without this
        difference. It is exactly 0 if the Gaussian score is used unchanged.

        Args:
            samples: as for :meth:`score`.

        Returns:
            (..., M, d), as for :meth:`score`.

        Raises:
            ValueError, TypeError, MemoryError: as for :meth:`score`.

        Cost:
            One score. With "qis", "mle" or ``calibrate``, also one :meth:`gaussian_score`.
        """
        x = self._prepared(samples)
        if self.gaussian != "ridge" or self.calibrate is not None:
            return saturated(self._score(x) - self.gaussian_score(x))
        estimate = self._estimate(x)
        _recording.report(estimate.diagnostics)
        return estimate.departure

    def score_pair(self, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores of the pair (x, z), of x and of z, for the gradient of I(x; z).

        The score of the pair may start from the Gaussian score of the pair plus the departures of
        the scores of x and of z. The correction then adds only the interaction of x and z. The risk
        decides whether the start is used. Without this start, a departure is often found in z
        alone, which has few dimensions, but not in the pair. The departure of z then remains in the
        gradient of I, although it should cancel there.

        Args:
            x: samples, (..., M, d_x) with M >= 2, floating point.
            z: samples, (..., M, d_z), paired by row with x.

        Returns:
            The scores of the pair, (..., M, d_x + d_z), of x, (..., M, d_x), and of z,
            (..., M, d_z), without a gradient, as :meth:`score` gives them.

        Raises:
            ValueError, TypeError: x and z are not as described or not finite.
            MemoryError: as for :meth:`score`.

        Cost:
            Three scores. The score of the pair takes M³ + 14M²r flop for each λ that is tried.
        """
        _checks.require_paired("x", x, "z", z)
        _checks.require_finite(x=x, z=z)
        x, z = prepared(x), prepared(z)
        dtype = torch.promote_types(x.dtype, z.dtype)
        joint = self._prepared(torch.cat((x.to(dtype), z.to(dtype)), -1))
        of_x, of_z = self._estimate(x, in_pair=True), self._estimate(z, in_pair=True)
        start = torch.cat((of_x.departure.to(dtype), of_z.departure.to(dtype)), -1)
        # The diagonal blocks of the pair's covariance are the covariances of x and of z. Up to the
        # ridges, the divergence in whitened coordinates is therefore a sum.
        divergence = of_x.divergence.to(dtype) + of_z.divergence.to(dtype)
        pairs = self._estimate(joint, start, divergence, in_pair=True)
        for term, estimate in (("joint", pairs), ("x", of_x), ("z", of_z)):
            _recording.report(estimate.diagnostics, term)
        scores = [
            calibrated(of.scores, of.diagnostics.calibration, self.calibrate)
            for of in (pairs, of_x, of_z)
        ]
        return scores[0], scores[1], scores[2]

    @property
    def depends_on_scale(self) -> bool:
        """True for "qis", which shrinks eigenvalues of the covariance of all columns together."""
        return self.gaussian == "qis"

    def _quadratic_memory(self, m: int, d: int) -> int:
        return 4 * m**2

    def _score(self, samples: Tensor) -> Tensor:
        estimate = self._estimate(samples)
        _recording.report(estimate.diagnostics)
        return calibrated(estimate.scores, estimate.diagnostics.calibration, self.calibrate)

    def _diagnose(self, samples: Tensor) -> AdaptiveDiagnostics:
        return self._estimate(samples).diagnostics

    def _fit(self, samples: Tensor) -> FittedAdaptive:
        x = samples.double()
        estimate = self._estimate(x)
        scores, gaussian = estimate.ridge_scores, estimate.gaussian
        diagnostics = estimate.diagnostics
        mean, whitening, ridge = ops.ridge_whitening(x)
        z = (x - mean.unsqueeze(-2)) @ whitening
        scaled, _, unit = about_origin(x)  # the squares of large samples would overflow
        student = FittedStudent.from_weights(
            scaled, z, unit.mT * whitening, ridge, diagnostics.nu, estimate.student_weights
        )
        one = x.new_ones((*x.shape[:-2], 1, 1))
        factor = calibrated(one, diagnostics.calibration, self.calibrate)
        mean = mean.unsqueeze(-2)
        return FittedAdaptive(
            samples.clone(), scores, mean, whitening, factor, gaussian, student, diagnostics
        )

    def _estimate(
        self,
        x: Tensor,
        start: Tensor | None = None,
        start_divergence: Tensor | None = None,
        *,
        in_pair: bool = False,
    ) -> "_Estimate":
        with _checks.naming(samples=x):
            if start is None:
                *results, nu, weights = ops.adaptive_student_score(x)
            else:
                results = [*ops.adaptive_score(x, start, start_divergence)]
                nu, weights = x.new_full(x.shape[:-2], torch.inf), x.new_ones(x.shape[:-1])
        ridge_scores, lam, base, risk, error, sigma, left_out, departure, divergence = results
        scores, gaussian = ridge_scores, None
        if self.gaussian != "ridge":
            gaussian = GaussianScore(covariance=self.gaussian).fit(x)
            # saturated, because scores of tiny samples may exceed the range
            ridge_score, squares = _ridge_score(x)
            difference = saturated(gaussian.score() - ridge_score)
            part = per_group(base.clamp(max=1))  # in a pair, the differences of the scores cancel
            if not in_pair:
                size = squares.mean(-2, keepdim=True)
                part = _gaussian_weight(per_group(base), per_group(nu), squares, size)
            scores = saturated(scores + part * difference)
        calibration = stein_calibration(x, scores)
        diagnostics = AdaptiveDiagnostics(lam, base, risk, error, nu, sigma, left_out, calibration)
        return _Estimate(
            ridge_scores, scores, departure, divergence, gaussian, weights, diagnostics
        )


def _ridge_score(x: Tensor) -> tuple[Tensor, Tensor]:
    """Scores of the Gaussian that the filter corrects, with the weak ridge, and ‖z‖², (..., M, 1).

    z are the whitened samples.
    """
    y, _, unit = about_origin(x)
    with no_autocast(x):
        whitening = ridge_whitening(y, factor=None)
        centered = y - whitening.mean
        applied = whitening.applied(centered)
        return -applied / unit, (centered * applied).sum(-1, keepdim=True)


def _gaussian_weight(base: Tensor, nu: Tensor, squares: Tensor, size: Tensor) -> Tensor:
    """The weight of a Gaussian part other than "ridge" at points with ‖z‖² = ``squares``.

    0 if the filter starts from 0, and 1 if it starts from the Gaussian score. A Student score is
    much smaller than the Gaussian score far from the center, so there the weight falls like
    (ν + e) / (ν − 2 + ‖z‖²), with the mean e of ‖z‖² over the samples, ``size``. It is at most 1.
    """
    of_student = ((nu + size) / (nu - 2 + squares)).clamp(max=1)
    return torch.where(base == 2, of_student, base.to(squares.dtype))


@dataclass(frozen=True, eq=False)
class _Estimate:
    """Scores at the samples, and the intermediate results that a fit or another estimate needs."""

    ridge_scores: Tensor  #: scores with the Gaussian part "ridge", (..., M, d)
    scores: Tensor  #: scores with the Gaussian part ``gaussian``, (..., M, d)
    departure: Tensor  #: ``ridge_scores`` minus their Gaussian part, (..., M, d)
    divergence: Tensor  #: divergence of the departure in whitened coordinates, (..., M)
    gaussian: FittedGaussian | None  #: the Gaussian part; None for "ridge"
    student_weights: Tensor  #: weights that give the location and the scatter, (..., M)
    diagnostics: AdaptiveDiagnostics
