"""What score estimators share: ``∇ log q`` of a density known by its samples alone."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from types import NoneType
from typing import (
    Any,
    Protocol,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
    runtime_checkable,
)

import torch
from torch import Tensor

from mige_ext import _checks
from mige_ext._precision import at_least_float32, saturated


@runtime_checkable
class ScoreEstimator(Protocol):
    """What the information functions ask of an estimator."""

    def score(self, samples: Tensor) -> Tensor:
        """Scores at the samples themselves: (..., M, d) -> (..., M, d), without a gradient."""
        ...


@runtime_checkable
class DistributedScoreEstimator(ScoreEstimator, Protocol):
    """A score estimator that reduces the samples of several processes to sums.

    The information functions call :meth:`score_distributed` where an estimator has it. They gather
    the samples of all processes for every other estimator.
    """

    def score_distributed(
        self, samples: Tensor, *, offset: int, total: int, all_reduce: Callable[[Tensor], object]
    ) -> Tensor:
        """Scores at the samples of this process, of the density of the samples of all processes.

        Args:
            samples: the samples of this process, (..., M_r, d) with M_r >= 0: rows ``offset`` to
                ``offset + M_r`` of the (..., M, d) that all processes hold together.
            offset: number of samples on the processes before this one.
            total: M, the number of samples on all processes.
            all_reduce: sums a tensor over all processes, in place. Every process calls it equally
                often, with tensors of the same shapes and dtypes.

        Returns:
            (..., M_r, d), without a gradient: the rows of the scores that one process would compute
            from all samples.
        """
        ...


class AdditiveStatistics(Protocol):
    """Sums over samples: the sums of two processes may be added.

    Attributes:
        moments: the sums, one tensor.
    """

    moments: Tensor


FittedT = TypeVar("FittedT", bound="Fitted")


class Fitted:
    """What a fit gives: a frozen record of tensors that scores any points of the same groups.

    Fits can be pickled, and taken apart into tensors and put together again, for
    ``torch.save(fitted.state_dict(), ...)`` and ``torch.load(..., weights_only=True)``.
    """

    def score(self, query: Tensor | None = None) -> Tensor:
        """Scores at a query (..., Q, d), or at the samples of the fit: (..., Q, d)."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Tensor]:
        """Everything in the record as tensors by name, ``diagnostics.bandwidth`` among them."""
        return _pack(self)

    @classmethod
    def from_state_dict(cls: type[FittedT], state: Mapping[str, Tensor]) -> FittedT:
        """The record that :meth:`state_dict` took apart.

        Args:
            state: tensors by name, on any device.

        Raises:
            KeyError: a name that is missing.
        """
        return _unpack(cls, state, "")


def require_estimator(estimator: object) -> None:
    """Anything with a method ``score``."""
    if isinstance(estimator, type) or not isinstance(estimator, ScoreEstimator):
        raise TypeError(f"estimator must have a method score(samples), got {estimator!r}")


@dataclass(frozen=True, eq=False)
class Diagnostics:
    """What a kernel estimate says about itself, one value for each group of samples, (...).

    Attributes:
        rank: J, the number of eigenvalues kept, all M (Md if curl-free) where the filter is smooth;
            0 where all samples are equal and σ is not given.
        bandwidth: σ, in the units of the samples.
        energy: share of trace(K) that the kept eigenvalues hold.
        calibration: ``−mean(Σ s·(z − m)) / d`` of the estimate before any correction. Stein's
            identity makes it 1 for the true score; kernel estimates are shrunk and stay below, the
            more so the fewer samples there are for the dimension.
    """

    rank: Tensor
    bandwidth: Tensor
    energy: Tensor
    calibration: Tensor


def stein_calibration(samples: Tensor, scores: Tensor) -> Tensor:
    """``−mean(Σ s·(z − m)) / d`` for each group: 1 for the true score, by Stein's identity.

    d counts the columns that vary: a constant one has no density.

    Args:
        samples: (..., M, d).
        scores: (..., M, d), at the samples.

    Returns:
        (...).
    """
    d = (samples.amax(-2) > samples.amin(-2)).sum(-1).clamp(min=1)
    return -stein_sum(samples, scores) / samples.shape[-2] / d


def stein_sum(samples: Tensor, scores: Tensor) -> Tensor:
    """``Σ s·(z − m)`` over the samples and dimensions of each group, (..., M, d) twice -> (...).

    z − m is halved, and s doubled, because a difference of finite numbers need not be finite.
    """
    half_mean = (samples / (2 * samples.shape[-2])).sum(-2, keepdim=True)
    return ((samples / 2 - half_mean) * scores * 2).sum((-2, -1))


def require_calibrate(calibrate: object) -> None:
    """What ``calibrate`` may be."""
    if calibrate is not None and calibrate != "stein":
        raise ValueError(f'calibrate must be "stein" or None, got {calibrate!r}')


def calibrated(values: Tensor, calibration: Tensor) -> Tensor:
    """Scores or coefficients (..., *, *) divided by the calibration of their group, (...)."""
    # Not positive where there is nothing to calibrate: equal samples, whose score is 0.
    factor = torch.where(calibration > 0, calibration, 1.0)
    return saturated(values / factor.unsqueeze(-1).unsqueeze(-1))


def prepared(samples: Tensor) -> Tensor:
    """Checked, detached, in float32 or float64."""
    _checks.require_samples("samples", samples)
    return at_least_float32(samples.detach())


def prepared_query(query: Tensor, samples: Tensor) -> Tensor:
    """Checked against the samples of a fit, detached, in the dtype of the fit."""
    _checks.require_query("query", query, samples)
    if _checks.looking_is_free(query):
        _checks.require_finite(query=query)
    return query.detach().to(samples.dtype)


# --- records as tensors ---------------------------------------------------------------------------


def _pack(value: Any, name: str = "") -> dict[str, Tensor]:
    if value is None:
        return {}
    if isinstance(value, Tensor):
        return {name: value}
    if isinstance(value, bool | int | float):
        return {name: torch.tensor(value)}
    if isinstance(value, tuple):
        parts = {str(i): part for i, part in enumerate(value)}
    elif fields(value):
        parts = {field.name: getattr(value, field.name) for field in fields(value)}
    else:  # a value without state, such as a kernel: its name, in UTF-8
        return {name: torch.tensor(list(type(value).__name__.encode()), dtype=torch.uint8)}
    packed: dict[str, Tensor] = {}
    for key, part in parts.items():
        packed |= _pack(part, f"{name}.{key}" if name else key)
    return packed


def _unpack(hint: Any, state: Mapping[str, Tensor], name: str) -> Any:
    choices = get_args(hint)
    if NoneType in choices:
        known = any(key == name or key.startswith(f"{name}.") for key in state)
        return _unpack(choices[0], state, name) if known else None
    if hint is Tensor:
        return state[name]
    if hint in (bool, int, float):
        return hint(state[name].item())
    prefix = f"{name}." if name else ""
    if get_origin(hint) is tuple:
        count = sum(key.startswith(prefix) for key in state)  # of tensors alone
        return tuple(_unpack(choices[0], state, f"{prefix}{i}") for i in range(count))
    if is_dataclass(hint) and fields(hint):
        make: Any = hint
        hints = get_type_hints(hint)
        return make(
            **{f.name: _unpack(hints[f.name], state, prefix + f.name) for f in fields(hint)}
        )
    wanted = bytes(state[name].tolist()).decode()
    for kind in hint.__subclasses__():
        if kind.__name__ == wanted:
            return kind()
    raise ValueError(f"{name} must be a known {hint.__name__}, got {wanted!r}")
