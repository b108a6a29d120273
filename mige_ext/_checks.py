"""Checks of arguments. A message names the argument, what was expected and what came."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import field, fields
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from mige_ext._torch_compat import is_batched

# --- settings -------------------------------------------------------------------------------------


def setting(default: Any, check: Callable[..., None], *arguments: Any, **options: Any) -> Any:
    """A dataclass field that :func:`require_settings` checks by ``check(name, value, ...)``."""
    return field(default=default, metadata={"check": (check, arguments, options)})


def require_settings(settings: Any) -> None:
    """Check every field of a dataclass that :func:`setting` declared."""
    for item in fields(settings):
        if "check" in item.metadata:
            check, arguments, options = item.metadata["check"]
            check(item.name, getattr(settings, item.name), *arguments, **options)


# --- numbers --------------------------------------------------------------------------------------


def require_fraction(name: str, value: float) -> None:
    """Require a number in (0, 1]."""
    if not (isinstance(value, Real) and 0 < value <= 1):
        raise ValueError(f"{name} must lie in (0, 1], got {value!r}")


def require_positive(name: str, value: float) -> None:
    """Require a positive finite number."""
    if not (isinstance(value, Real) and 0 < value < math.inf):
        raise ValueError(f"{name} must be positive and finite, got {value!r}")


def require_not_negative(name: str, value: float) -> None:
    """Require a finite number of at least 0."""
    if not (isinstance(value, Real) and 0 <= value < math.inf):
        raise ValueError(f"{name} must be a finite number of at least 0, got {value!r}")


def require_count(name: str, value: int | None, or_none: bool = False) -> None:
    """Require a positive integer."""
    if value is None and or_none:
        return
    if not is_integer(value, 1):
        raise ValueError(
            f"{name} must be a positive integer{' or None' if or_none else ''}, got {value!r}"
        )


def is_integer(value: object, least: int) -> bool:
    """Whether a value is an integer of at least ``least``, and not a bool."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least


def require_seed(name: str, value: int) -> None:
    """Require an integer from 0 to 2⁶³ − 1, the range of torch's generators."""
    if not is_integer(value, 0) or int(value) >= 2**63:
        raise ValueError(f"{name} must be an integer from 0 to 2**63 - 1, got {value!r}")


def require_bool(name: str, value: bool) -> None:
    """Require True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}")


def require_choice(name: str, value: object, *choices: str | None) -> None:
    """Require one of the choices."""
    if value not in choices:
        *others, last = (f'"{choice}"' if choice else "None" for choice in choices)
        raise ValueError(f"{name} must be {', '.join(others)} or {last}, got {value!r}")


# --- tensors --------------------------------------------------------------------------------------


def shape(tensor: Tensor) -> str:
    """The shape as a tuple, as error messages print it."""
    return str(tuple(tensor.shape))


def require_tensor(name: str, value: object) -> None:
    """Require a dense floating-point tensor of at least 16 bits."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
    if value.is_nested:
        raise TypeError(f"{name} must be a dense tensor, got a nested one")
    if value.dtype.is_floating_point and value.dtype.itemsize == 1:
        raise TypeError(
            f"{name} must have a floating-point dtype of at least 16 bits, got {value.dtype}"
        )
    if not value.dtype.is_floating_point:
        raise TypeError(f"{name} must have a floating-point dtype, got {value.dtype}")
    if value.layout != torch.strided:
        raise TypeError(f"{name} must be a dense tensor, got layout {value.layout}")


def require_shape(name: str, value: Tensor, fits: bool, expected: str) -> None:
    """Require the shape ``expected``; ``fits`` says whether the value has this shape."""
    if not fits:
        raise ValueError(f"{name} must have shape {expected}, got {shape(value)}")


#: Hint in an error about a batch of one sample.
ONE_SAMPLE = "; if this is the last batch of a DataLoader, use drop_last=True"


def require_samples(
    name: str, value: Tensor, min_samples: int = 2, may_be_category: bool = False
) -> None:
    """Require a tensor (..., M, d) with enough rows and at least one column.

    If ``may_be_category``, the error about a tensor of one dimension mentions categories.
    """
    require_tensor(name, value)
    fits = value.dim() >= 2 and value.shape[-2] >= min_samples and value.shape[-1] >= 1
    if fits:
        return
    bound = f"M >= {min_samples} and " if min_samples > 0 else ""
    message = f"{name} must have shape (..., M, d) with {bound}d >= 1, got {shape(value)}"
    if value.dim() == 1:
        message += "; one column has shape (M, 1)"
        message += ", and a category has integers" if may_be_category else ""
    elif min_samples == 2 and value.dim() >= 2 and value.shape[-2] == 1:
        message += ONE_SAMPLE
    raise ValueError(message)


def require_native(name: str, value: Tensor) -> None:
    """Require a tensor of a dtype that the compiled operators take, float32 or float64."""
    require_tensor(name, value)
    if value.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{name} must be float32 or float64, got {value.dtype}")


# --- pairs of tensors -----------------------------------------------------------------------------


def require_same_device(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    """Require the device of another argument."""
    if value.device != other.device:
        raise ValueError(
            f"{name} must be on the device of {other_name}, {other.device}, got {value.device}"
        )


def require_like(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    """Require the dtype and the device of another argument."""
    if value.dtype != other.dtype:
        raise TypeError(
            f"{name} must have the dtype of {other_name}, {other.dtype}, got {value.dtype}"
        )
    require_same_device(name, value, other_name, other)


def require_batch(name: str, got: torch.Size, other_name: str, expected: torch.Size) -> None:
    """Require the leading dimensions of another argument."""
    if got != expected:
        raise ValueError(
            f"{name} must have the leading dimensions of {other_name}, {tuple(expected)}, "
            f"got {tuple(got)}"
        )


def require_query(name: str, value: Tensor, other: Tensor, other_name: str = "samples") -> None:
    """Require finite points (..., Q, d) with the device, groups and columns of ``other``."""
    require_samples(name, value, 0)
    require_same_device(name, value, other_name, other)
    require_batch(name, value.shape[:-2], other_name, other.shape[:-2])
    if value.shape[-1] != other.shape[-1]:
        raise ValueError(
            f"{name} must have the {other.shape[-1]} columns of {other_name}, got {value.shape[-1]}"
        )
    require_finite(**{name: value})


def require_paired(
    name: str,
    value: Tensor,
    other_name: str,
    other: Tensor,
    min_samples: int = 2,
    may_be_category: bool = False,
) -> None:
    """Require two tensors of samples that are paired by row.

    If ``may_be_category``, errors about tensors that may be a category mention categories.
    """
    require_samples(name, value, min_samples, may_be_category)
    if (
        may_be_category
        and isinstance(other, Tensor)
        and not (other.dtype.is_floating_point or other.dtype.is_complex)
    ):
        raise TypeError(
            f"{other_name} must have a floating-point dtype, got {other.dtype}; a category is the "
            f"first argument, {name}"
        )
    require_samples(other_name, other, min_samples)
    require_same_device(other_name, other, name, value)
    if value.shape[:-1] != other.shape[:-1]:
        hint = "; flatten(1) makes rows of images" if value.dim() != other.dim() else ""
        raise ValueError(
            f"{name} and {other_name} must agree in all but the last dimension, "
            f"got {shape(value)} and {shape(other)}{hint}"
        )


# --- values ---------------------------------------------------------------------------------------


def require_finite(**tensors: Tensor) -> None:
    """Require finite values in every tensor for which :func:`can_read` is true."""
    for name, tensor in tensors.items():
        if not can_read(tensor):
            continue
        # The tensor is read in parts to save memory.
        parts = (
            tensor.split(2**14, tensor.shape.index(max(tensor.shape))) if tensor.dim() else [tensor]
        )
        bad = sum(int((~torch.isfinite(part)).sum()) for part in parts)
        if bad:
            raise ValueError(f"{name} must be finite, got {bad} values that are NaN or infinite")


@contextmanager
def naming(**tensors: Tensor) -> Iterator[None]:
    """Give an operator's error about values the names of the caller's arguments."""
    try:
        yield
    except RuntimeError:
        require_finite(**tensors)
        raise


def has_values(tensor: Tensor) -> bool:
    """Whether a tensor has values. Fake tensors and others that replace operators may have none."""
    return type(tensor).__torch_dispatch__ is Tensor.__torch_dispatch__


def require_values(name: str, tensor: Tensor) -> None:
    """Require a tensor that has values, which tensors on the device meta do not have."""
    if tensor.is_meta:
        raise ValueError(f"{name} must have values, got a tensor on the device meta")


def can_read(tensor: Tensor) -> bool:
    """Whether a tensor is an ordinary CPU tensor, whose values exist and can be read at once.

    Under ``torch.func.vmap`` and while torch traces a function, tensors have no single value.
    """
    if not tensor.is_cpu or torch.compiler.is_compiling():
        return False
    return has_values(tensor) and not is_batched(tensor)
