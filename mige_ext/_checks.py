"""Checks of arguments. Messages name the argument, what was expected and what came."""

import math

import torch
from torch import Tensor


def shape(tensor: Tensor) -> str:
    """The shape as a tuple, as error messages print it."""
    return str(tuple(tensor.shape))


def require_tensor(name: str, value: object) -> None:
    """A dense floating-point tensor."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
    if not value.dtype.is_floating_point:
        raise TypeError(f"{name} must have a floating-point dtype, got {value.dtype}")
    if value.layout != torch.strided:
        raise TypeError(f"{name} must be a dense tensor, got layout {value.layout}")


def require_samples(name: str, value: Tensor, min_samples: int = 2) -> None:
    """A tensor (..., M, d) with enough rows and at least one column."""
    require_tensor(name, value)
    if value.dim() < 2 or value.shape[-2] < min_samples or value.shape[-1] < 1:
        bound = f"M >= {min_samples} and " if min_samples > 0 else ""
        raise ValueError(
            f"{name} must have shape (..., M, d) with {bound}d >= 1, got {shape(value)}"
        )


def require_native(name: str, value: Tensor) -> None:
    """A tensor that the compiled operators take: float32 or float64."""
    require_tensor(name, value)
    if value.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{name} must be float32 or float64, got {value.dtype}")


def require_like(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    """The dtype and the device of another argument."""
    if value.dtype != other.dtype:
        raise TypeError(
            f"{name} must have the dtype of {other_name}, {other.dtype}, got {value.dtype}"
        )
    require_same_device(name, value, other_name, other)


def require_same_device(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    """The device of another argument."""
    if value.device != other.device:
        raise ValueError(
            f"{name} must be on the device of {other_name}, {other.device}, got {value.device}"
        )


def require_batch(name: str, got: torch.Size, other_name: str, expected: torch.Size) -> None:
    """The leading dimensions of another argument."""
    if got != expected:
        raise ValueError(
            f"{name} must have the leading dimensions of {other_name}, {tuple(expected)}, "
            f"got {tuple(got)}"
        )


def require_query(name: str, value: Tensor, samples: Tensor) -> None:
    """Points (..., Q, d) with the device, the leading dimensions and the columns of samples."""
    require_samples(name, value, 0)
    require_same_device(name, value, "samples", samples)
    require_batch(name, value.shape[:-2], "samples", samples.shape[:-2])
    if value.shape[-1] != samples.shape[-1]:
        raise ValueError(
            f"{name} must have the {samples.shape[-1]} columns of samples, got {value.shape[-1]}"
        )


def require_finite(**tensors: Tensor) -> None:
    """No NaN and no infinity in any of the named tensors."""
    for name, tensor in tensors.items():
        bad = int((~torch.isfinite(tensor)).sum())
        if bad:
            raise ValueError(f"{name} must be finite, got {bad} values that are NaN or infinite")


def require_share(name: str, value: float) -> None:
    """A number in (0, 1]."""
    if not (isinstance(value, (int, float)) and 0 < value <= 1):
        raise ValueError(f"{name} must lie in (0, 1], got {value!r}")


def require_positive(name: str, value: float) -> None:
    """A positive finite number."""
    if not (isinstance(value, (int, float)) and 0 < value < math.inf):
        raise ValueError(f"{name} must be positive and finite, got {value!r}")
