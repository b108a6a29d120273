"""The common parts of all score estimators: protocols, base classes, and Stein calibration."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeGuard, TypeVar, runtime_checkable

import torch
from torch import Tensor

from mige_ext import _checks, _recording
from mige_ext._memory import check_memory
from mige_ext._precision import at_least_float32, no_autocast, per_group, saturated
from mige_ext._warnings import may_warn, warn_once
from mige_ext.scores.records import moved, pack, summary, unpack

Calibrate = Literal["stein"] | None

# --- protocols ------------------------------------------------------------------------------------


@runtime_checkable
class ScoreEstimator(Protocol):
    """The interface of an estimator that the information functions use."""

    def score(self, samples: Tensor) -> Tensor:
        """Scores at the samples, (..., M, d) -> (..., M, d), without a gradient."""
        ...


@runtime_checkable
class DistributedScoreEstimator(ScoreEstimator, Protocol):
    """A score estimator that reduces the samples of several processes to sums.

    The information functions call :meth:`score_distributed` if an estimator has this method, and
    otherwise gather the samples of all processes.
    """

    def score_distributed(
        self, samples: Tensor, *, offset: int, total: int, all_reduce: Callable[[Tensor], object]
    ) -> Tensor:
        """Scores at the samples of this process, estimated from the samples of all processes.

        Args:
            samples: the samples of this process, (..., M_r, d) with M_r >= 0, which are the rows
                from ``offset`` on in the samples of all processes, (..., M, d).
            offset: number of samples on the processes before this one.
            total: M, the number of samples on all processes.
            all_reduce: sums a tensor over all processes, in place. Every process must call it the
                same number of times, with tensors of the same shapes and dtypes.

        Returns:
            (..., M_r, d), without a gradient: the rows of the scores that one process would compute
            from all samples.
        """
        ...


@runtime_checkable
class PairScoreEstimator(ScoreEstimator, Protocol):
    """A score estimator that estimates the scores of a pair and of its marginals together.

    :func:`.mutual_information` calls :meth:`score_pair` if an estimator has this method, and
    otherwise ``score`` for the pair and for each marginal that is needed.
    """

    def score_pair(self, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores of (x, z), of x and of z.

        Args:
            x: samples, (..., M, d_x).
            z: samples, (..., M, d_z), paired by row with x.

        Returns:
            The scores of the pair, (..., M, d_x + d_z), of x, (..., M, d_x), and of z,
            (..., M, d_z), without a gradient.
        """
        ...


class AdditiveStatistics(Protocol):
    """Sums over samples, which can be added over processes that have the same landmarks."""

    landmarks: Tensor
    moments: Tensor  #: the sums, one tensor


def require_estimator(estimator: object) -> None:
    """Raise TypeError for an object without a method ``score``."""
    # isinstance with a protocol would take several µs.
    if isinstance(estimator, type) or not callable(getattr(estimator, "score", None)):
        raise TypeError(f"estimator must have a method score(samples), got {estimator!r}")


def scores_pairs(estimator: ScoreEstimator) -> TypeGuard[PairScoreEstimator]:
    """Whether an estimator has the method ``score_pair``."""
    return callable(getattr(estimator, "score_pair", None))


# --- base classes ---------------------------------------------------------------------------------

F = TypeVar("F", bound="Fitted")


class Fitted:
    """A fitted score, which gives scores at any points. The subclass documents the cost.

    A fit is a frozen record of tensors, which can be pickled and moved by :meth:`to`.
    :meth:`state_dict` converts a fit for ``torch.save`` and ``torch.load(..., weights_only=True)``.

    Large and small samples are divided by a power of two, so that products neither overflow nor
    underflow. The field ``unit`` is this power of two, and all tensors except the diagnostics are
    in this unit. If there is a field ``origin``, the tensors are also relative to this point.
    """

    samples: Tensor
    diagnostics: Any

    def score(self, query: Tensor | None = None) -> Tensor:
        """Scores at other points, ``∇ log q(query)``.

        Args:
            query: (..., Q, d), with the leading dimensions and the device of the samples; the
                samples themselves if not given.

        Returns:
            (..., Q, d), without a gradient, in the dtype of the fit.

        Raises:
            ValueError, TypeError: ``query`` is not as described or not finite.
        """
        points = self._points(query)
        with no_autocast(points):
            return self._score(points)

    def to(self: F, device: torch.device | str) -> F:
        """The same fit with all tensors on a device."""
        return moved(self, device)

    def state_dict(self) -> dict[str, Tensor]:
        """All tensors and settings of the fit as tensors by name, such as ``diagnostics.rank``.

        Raises:
            TypeError: a setting cannot be stored, such as a kernel with a field that is neither a
                number nor a tensor.
        """
        return pack(self, type(self))

    @classmethod
    def from_state_dict(cls: type[F], state: Mapping[str, Tensor]) -> F:
        """The fit that :meth:`state_dict` converted.

        Args:
            state: tensors by name, on any device.

        Raises:
            KeyError: a name is missing.
            TypeError: the state is not a dict of tensors.
            ValueError: the state names a kernel that is not defined.
        """
        return unpack(cls, state)

    def __repr__(self) -> str:
        """The class, shape, dtype, device, settings and diagnostics, in one line."""
        return summary(self)

    def _points(self, query: Tensor | None) -> Tensor:
        """The query in the units of the fit, or the samples of the fit."""
        if query is None:
            return self.samples
        _checks.require_query("query", query, self.samples)
        return self._in_units(query.detach().to(self.samples.dtype))

    def _in_units(self, query: Tensor) -> Tensor:
        """The query in the units of the fit and relative to its origin."""
        return query

    def _score(self, points: Tensor) -> Tensor:
        raise NotImplementedError


class FittedGradient(Fitted):
    """A fitted score that is the gradient of an energy."""

    def energy(self, query: Tensor | None = None) -> Tensor:
        """The log-density whose gradient is the score, up to a constant for each group.

        Args:
            query: as for :meth:`score`.

        Returns:
            (..., Q), without a gradient.

        Raises:
            ValueError, TypeError: as for :meth:`score`.
            ValueError: the kernel is not curl-free, so that the score is no gradient.
        """
        points = self._points(query)
        with no_autocast(points):
            return saturated(self._energy(points))

    def _energy(self, points: Tensor) -> Tensor:
        raise NotImplementedError


class FittableEstimator(ABC, Generic[F]):
    """An estimator whose score can be fitted to samples and then evaluated at any points.

    Scores are computed on detached inputs, in float32 or float64, also under autocast. Leading
    dimensions of the samples are independent groups. The subclass documents the cost.
    """

    @property
    def depends_on_scale(self) -> bool:
        """Whether the score of a pair (x, z) depends on the scale of x relative to z.

        This is so if all columns have the same bandwidth, chosen from the samples.
        :func:`.mutual_information` then gives both arguments one scale first.
        """
        return False

    def __post_init__(self) -> None:
        """Check ``calibrate`` and all settings that ``_checks.setting`` declares."""
        _checks.require_settings(self)
        _checks.require_choice("calibrate", getattr(self, "calibrate", None), "stein", None)

    def score(self, samples: Tensor) -> Tensor:
        """Scores at the samples, ``∇ log q(samples)``.

        Args:
            samples: (..., M, d) with M >= 2, floating point.

        Returns:
            (..., M, d), without a gradient; float64 for float64 samples, else float32. A group of
            equal samples has score 0.

        Raises:
            ValueError, TypeError: ``samples`` is not as described or not finite.
            MemoryError: the memory that M samples need exceeds the free memory of the device.
        """
        return self._score(self._prepared(samples))

    def fit(self, samples: Tensor) -> F:
        """Fit the score, which can then be evaluated at any points.

        Argument and errors are those of :meth:`score`. The fit keeps copies of the tensors that it
        needs.
        """
        return self._fit(self._prepared(samples))

    def diagnose(self, samples: Tensor) -> Any:
        """The diagnostics of :meth:`score`, with the same argument, errors and cost."""
        return self._diagnose(self._prepared(samples))

    def _prepared(self, samples: Tensor) -> Tensor:
        """Samples with their shape, dtype and number checked, detached, in float32 or float64."""
        samples = prepared(samples)
        m, d = samples.shape[-2:]
        warn_of_few_samples(m, d)
        check_memory(samples, self._quadratic_memory(m, d))
        return samples

    def _quadratic_memory(self, m: int, d: int) -> int:
        """A lower bound on the number of values of a group, if it grows with M²; otherwise 0."""
        return 0

    @abstractmethod
    def _fit(self, samples: Tensor) -> F: ...

    def _score(self, samples: Tensor) -> Tensor:
        fitted = self._fit(samples)
        _recording.report(getattr(fitted, "diagnostics", None))
        return fitted.score()

    def _diagnose(self, samples: Tensor) -> Any:
        return self._fit(samples).diagnostics


@dataclass(frozen=True, eq=False)
class Diagnostics:
    """Diagnostics of a kernel estimate, one value for each group of samples, (...)."""

    #: J, the number of eigenvalues that are kept: all M (Md if curl-free) for a smooth filter, and
    #: 0 if all samples are equal and the setting ``bandwidth`` is not a number.
    rank: Tensor
    bandwidth: Tensor  #: σ, in the units of the samples
    energy: Tensor  #: fraction of trace(K) that belongs to the kept eigenvalues
    #: ``−mean(s·(z − m)) / d`` before ``calibrate`` divides the scores, with m the mean of the
    #: samples; 1 for the true score. Kernel scores are too small, so the value is below 1,
    #: and falls with fewer samples or more dimensions.
    calibration: Tensor


# --- calibration ----------------------------------------------------------------------------------


def stein_calibration(samples: Tensor, scores: Tensor) -> Tensor:
    """``−mean(s·(z − m)) / d`` of each group, from z and s, (..., M, d) each -> (...).

    m is the mean of the samples z. By Stein's identity the value is 1 for the true score. d counts
    the columns that vary, because a constant column has no density.
    """
    return -stein_sum(samples, scores) / samples.shape[-2] / varying_columns(samples)


def varying_columns(samples: Tensor) -> Tensor:
    """Number of columns of each group that are not constant, at least 1: (..., M, d) -> (...)."""
    return (samples.amax(-2) > samples.amin(-2)).sum(-1).clamp(min=1)


def stein_sum(samples: Tensor, scores: Tensor) -> Tensor:
    """``Σ s·(z − m)`` over the samples, from z and s, (..., M, d) each -> (...).

    m is the mean of the samples z.
    """
    # z − m may overflow, so z − m is halved and s is doubled.
    half_mean = (samples / (2 * samples.shape[-2])).sum(-2, keepdim=True)
    return ((samples / 2 - half_mean) * scores * 2).sum((-2, -1))


def calibrated(values: Tensor, calibration: Tensor, calibrate: Calibrate = "stein") -> Tensor:
    """Scores or coefficients (..., *, *) divided by the calibration of their group, (...)."""
    return values if calibrate is None else saturated(values / calibration_factor(calibration))


def calibration_factor(calibration: Tensor) -> Tensor:
    """The calibration as a positive divisor, (...) -> (..., 1, 1); 1 for equal samples."""
    return per_group(torch.where(calibration > 0, calibration, 1.0))


def warn_of_few_samples(m: int, d: int) -> None:
    """Warn of fewer than d + 2 samples in d dimensions. For a pair (x, z), d counts both."""
    if may_warn("few samples") and m < d + 2:
        warn_once(
            "few samples",
            f"M = {m} samples in d = {d} dimensions: with M < d + 2 the covariance of the samples "
            "is singular, and the scores depend on its regularization. Use more samples, or fewer "
            f"dimensions (for a pair, d counts the columns of both), for example by "
            f"projection=RandomProjection(k={_suggested_dimensions(m)})",
        )


def _suggested_dimensions(m: int) -> int:
    """The largest power of two that is at most 64 and at most m / 4; 1 for m < 4."""
    return 2 ** min(6, max(m // 4, 1).bit_length() - 1)


def prepared(samples: Tensor) -> Tensor:
    """Samples with their shape and dtype checked, detached, in float32 or float64."""
    _checks.require_samples("samples", samples)
    return at_least_float32(samples.detach())
