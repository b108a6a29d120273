"""Precision: float32 or float64, no autocast, and units of length that keep squares in range.

A unit of length is a power of two near the bandwidth σ or near the largest coordinate. Division by
a unit is exact, and squares of the quotients neither overflow nor underflow.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """The tensor, unchanged if it is float64, otherwise as float32."""
    return x if x.dtype == torch.float64 else x.float()


def no_autocast(x: Tensor) -> AbstractContextManager[object]:
    """A context in which matrix products keep the dtype of x."""
    if x.device.type == "meta":  # autocast does not support this device
        return nullcontext()
    return torch.autocast(x.device.type, enabled=False)


def per_group(x: Tensor) -> Tensor:
    """The values as 1×1 matrices, to broadcast them: (...) -> (..., 1, 1)."""
    return x.unsqueeze(-1).unsqueeze(-1)


def unit_of(x: Tensor) -> Tensor:
    """The largest power of two up to max |x| of each group, (..., M, d) -> (..., 1, 1)."""
    if x.numel() == 0:
        return x.new_ones((*x.shape[:-2], 1, 1))
    return power_of_two(x.detach().abs().amax((-2, -1), keepdim=True))


def power_of_two(x: Tensor) -> Tensor:
    """The largest power of two up to x >= 0, elementwise; 1 for x = 0."""
    x = x.detach()
    return torch.where(x > 0, x / (2 * torch.frexp(x).mantissa), 1.0)


def in_units(x: Tensor, unit: Tensor) -> Tensor:
    """``x / unit``, with the largest finite numbers instead of infinities."""
    return saturated(x / unit)


def saturated(x: Tensor) -> Tensor:
    """The values, with the largest finite numbers instead of infinities."""
    return x.clamp(torch.finfo(x.dtype).min, torch.finfo(x.dtype).max)


def positive(x: Tensor) -> Tensor:
    """The values, clamped to the positive normal numbers."""
    return x.clamp(torch.finfo(x.dtype).tiny, torch.finfo(x.dtype).max)


def rounding(values: Tensor, n: int) -> Tensor:
    """A bound of the rounding errors of eigenvalues, ``n ε λ_max``, (..., k) -> (..., 1).

    ``values`` are the ascending eigenvalues of a matrix whose larger dimension is n.
    """
    return n * torch.finfo(values.dtype).eps * values.narrow(-1, values.shape[-1] - 1, 1)


def gram_rounding(values: Tensor) -> Tensor:
    """:func:`rounding` for a Gram matrix of a kernel, whose errors do not grow with n beyond 64.

    csrc/common/ssge.h has the same limit.
    """
    return rounding(values, min(values.shape[-1], 64))


def about_origin(samples: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``samples / unit − origin``, (..., M, d), and origin and unit of each column, (..., 1, d).

    The unit is a power of two, and the origin is the first row of ``samples / unit``. Constant
    columns become exactly 0.
    """
    unit = power_of_two(samples.abs().amax(-2, keepdim=True))
    x = samples / unit
    origin = x.narrow(-2, 0, 1).clone()
    return x - origin, origin, unit


def standardized(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean m, ``(x − m) / σ`` and standard deviation σ of the columns of x, (..., M, d).

    ``(x − m) / σ`` and σ are 0 in constant columns.
    """
    first = x.narrow(-2, 0, 1)
    y = x - first  # 0 exactly where a column is constant
    shift = y.mean(-2, keepdim=True)
    y = y - shift
    deviation = y.square().mean(-2, keepdim=True).sqrt()
    return first + shift, torch.where(deviation > 0, y / deviation, 0.0), deviation
