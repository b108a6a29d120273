"""Precision: float32 at least, no autocast, units of length that keep squares in range.

A unit of length is a power of two near σ or near the largest coordinate. Division by it is exact.
Squares of coordinates then stay in range for samples of any magnitude.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """Returns float64 as it is and everything else in float32."""
    return x if x.dtype == torch.float64 else x.float()


def no_autocast(x: Tensor) -> AbstractContextManager[object]:
    """A context in which matrix products keep the dtype of x."""
    if x.device.type == "meta":  # autocast does not exist there
        return nullcontext()
    return torch.autocast(x.device.type, enabled=False)


def per_group(x: Tensor) -> Tensor:
    """One value for each group (or pair), as a 1×1 matrix to broadcast: (...) -> (..., 1, 1)."""
    return x.unsqueeze(-1).unsqueeze(-1)


def unit_of(x: Tensor) -> Tensor:
    """The largest power of two up to max |x| of each group: (..., M, d) -> (..., 1, 1)."""
    if x.numel() == 0:
        return x.new_ones((*x.shape[:-2], 1, 1))
    return power_of_two(x.detach().abs().amax((-2, -1), keepdim=True))


def power_of_two(x: Tensor) -> Tensor:
    """The largest power of two up to each x >= 0; 1 where x is 0."""
    x = x.detach()
    return torch.where(x > 0, x / (2 * torch.frexp(x).mantissa), 1.0)


def in_units(x: Tensor, unit: Tensor) -> Tensor:
    """``x / unit``, with the largest finite numbers in place of infinities."""
    return saturated(x / unit)


def saturated(x: Tensor) -> Tensor:
    """The largest finite numbers in place of infinities."""
    return x.clamp(torch.finfo(x.dtype).min, torch.finfo(x.dtype).max)


def positive(x: Tensor) -> Tensor:
    """The values, within the range of positive normal numbers."""
    return x.clamp(torch.finfo(x.dtype).tiny, torch.finfo(x.dtype).max)


def rounding(values: Tensor, n: int) -> Tensor:
    """Bound on the rounding error of an eigenvalue 0 of an n×n matrix, ``n ε λ_max``, (..., 1).

    ``values`` are the eigenvalues, ascending, (..., n).
    """
    return n * torch.finfo(values.dtype).eps * values.narrow(-1, values.shape[-1] - 1, 1)


def about_origin(samples: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``samples / unit − origin``, (..., M, d), with origin and unit of each column, (..., 1, d).

    The unit is a power of two, and the origin is the first row. Constant columns are 0 exactly.
    """
    unit = power_of_two(samples.abs().amax(-2, keepdim=True))
    x = samples / unit
    origin = x.narrow(-2, 0, 1).clone()
    return x - origin, origin, unit


def standardized(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean m, ``(x − m) / σ`` and σ of the columns; in a constant column the last two are 0."""
    first = x.narrow(-2, 0, 1)
    y = x - first  # 0 exactly where a column is constant
    shift = y.mean(-2, keepdim=True)
    y = y - shift
    deviation = y.square().mean(-2, keepdim=True).sqrt()
    return first + shift, torch.where(deviation > 0, y / deviation, 0.0), deviation
