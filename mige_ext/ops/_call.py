"""Calls of the compiled operators: errors, shapes, and errors for missing derivatives."""

import math
from collections.abc import Sequence
from functools import partial
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from mige_ext import _C as _C  # registers the operators
from mige_ext import _checks
from mige_ext._functions import Function, apply, visible
from mige_ext._torch_compat import in_forward_mode

_library = torch.ops.mige_ext

# The shapes of the tensors of an operator. "*" stands for the leading dimensions, which all tensors
# of a call share, and a letter for a size. The last two dimensions of a "transposed" result are
# swapped in memory. Arguments that are numbers come last and are left out.
_SHAPES = {
    "squared_distances": "x *Md, y *Nd -> *MN",
    "distance_quantile": "x *Md -> *",
    "rbf_gram": "x *Md, y *Nd, bandwidth * -> *MN",
    "rbf_gradient_sum": "x *Md, bandwidth * -> *Md",
    "rbf_product": "q *Qd, x *Md, w *Mp, bandwidth * -> *Qp",
    "eigh": "k *MM -> *M, *MM transposed",
    "ssge": "x *Md, bandwidth * -> *Md, *M, *, * int64",
    "ridge_whitening": "x *Md -> *d, *dd, *",
    "student_score": "x *Md -> *Md, *M, *, *M",
    "adaptive_score": (
        "x *Md, start *Md, start_divergence *M -> *Md, *, * int64, *, *, *, *, *Md, *M"
    ),
    "adaptive_student_score": "x *Md -> *Md, *, * int64, *, *, *, *, *Md, *M, *, *M",
}
OPERATORS = tuple(_SHAPES)
DIFFERENTIABLE = ("squared_distances", "rbf_gram")
_OPTIONAL = {
    "squared_distances": ("y",),
    "rbf_gram": ("y",),
    "ssge": ("bandwidth",),
    "adaptive_score": ("start", "start_divergence"),
}

_ERRORS: dict[str, type[Exception]] = {
    e.__name__: e for e in (ValueError, TypeError, NotImplementedError)
}


class _WithoutDerivative(Function):
    """An operator without a derivative, which raises an error when it is differentiated.

    A Python kernel that is registered for autograd would do the same, but add 7 µs to every call.
    """

    @staticmethod
    def called(name: str, *args: Any) -> str:
        return f"mige_ext.ops.{name}"

    @staticmethod
    def forward(name: str, *args: Any) -> Any:
        return getattr(_library, name)(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.name = inputs[0]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise _no_derivative(ctx.name)

    @staticmethod
    def tangent(ctx: Any, *tangents: Any) -> Any:
        raise _no_derivative(ctx.name)

    @staticmethod
    def vmap(info: Any, in_dims: Any, name: str, *args: Any) -> Any:
        result = call(name, *_with_leading_dimension(info, in_dims[1:], args))
        return result, tuple(0 for _ in result) if isinstance(result, tuple) else 0


def _no_derivative(name: str) -> NotImplementedError:
    return NotImplementedError(
        f"mige_ext.ops.{name} has no derivative: detach its inputs, or use squared_distances or "
        "rbf_gram, which have one"
    )


def call(name: str, *args: Any) -> Any:
    """Call an operator, and translate the errors of its checks."""
    if not torch.compiler.is_compiling():
        # Discard the exception of an earlier interruption of compiled code, which does not take it.
        _C.take_interruption()
    try:
        if name not in DIFFERENTIABLE and (_requires_grad(args) or in_forward_mode()):
            return apply(_WithoutDerivative, name, *args)
        return getattr(_library, name)(*args)
    except (RuntimeError, TypeError) as error:
        if torch.compiler.is_compiling():  # the compiler cannot trace the code below
            raise
        interruption = _C.take_interruption()  # such as KeyboardInterrupt
        if interruption is not None:
            raise interruption from None
        raise _translated(name, args, error) from None


def _requires_grad(args: Sequence[Any]) -> bool:
    if not torch.is_grad_enabled():
        return False
    if torch.compiler.is_compiling():
        args = [visible(a) if isinstance(a, Tensor) else a for a in args]
    return any(isinstance(a, Tensor) and a.requires_grad for a in args)


def _with_leading_dimension(info: Any, in_dims: Any, args: Sequence[Any]) -> list[Any]:
    """The arguments of an operator, with the dimension that vmap maps over moved to the front."""
    size = info.batch_size
    return [
        (a.expand(size, *a.shape) if dim is None else a.movedim(dim, 0))
        if isinstance(a, Tensor)
        else a
        for a, dim in zip(args, in_dims, strict=True)
    ]


def _vmap(name: str, info: Any, in_dims: Any, *args: Any) -> Any:
    """The rule of torch.func.vmap: the mapped dimension becomes a leading dimension."""
    result = getattr(_library, name)(*_with_leading_dimension(info, in_dims, args))
    return result, tuple(0 for _ in result) if isinstance(result, tuple) else 0


def _tensors(name: str) -> list[list[str]]:
    """Name and shape of every tensor argument."""
    return [each.split(" ") for each in _SHAPES[name].split(" -> ")[0].split(", ")]


def _translated(name: str, args: Sequence[Any], error: Exception) -> Exception:
    """The error to raise: TypeError for a wrong type, otherwise the type that the message names."""
    for (argument, _), value in zip(_tensors(name), args, strict=False):
        if value is not None or argument not in _OPTIONAL.get(name, ()):
            try:
                _checks.require_tensor(argument, value)
            except TypeError as wrong:
                return wrong
    kind, _, message = str(error).partition(": ")
    return _ERRORS[kind](message) if kind in _ERRORS else error


def real(name: str, value: float) -> float:
    """A real number as a float. The operator checks the range."""
    if not isinstance(value, Real):
        raise TypeError(f"{name} must be a real number, got {value!r}")
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _fake(name: str, *args: Any) -> Any:
    """The results of an operator as empty tensors, for tensors without values."""
    arguments, results = _tensors(name), _SHAPES[name].split(" -> ")[1].split(", ")
    first_name, first = arguments[0][0], args[0]
    batch = first.shape[:-2]
    sizes: dict[str, int] = {}
    for (argument, shape), value in zip(arguments, args, strict=False):
        letters = list(shape[1:])
        if value is None:  # y is then x, so N = M; the shape of a bandwidth has no letters
            sizes.update({letter: sizes["M"] for letter in letters if letter not in sizes})
            continue
        _checks.require_like(argument, value, first_name, first)
        expected = f"{argument} must have shape (..., {', '.join(letters)})"
        if value.dim() < len(letters):
            raise ValueError(f"{expected}, got {_checks.shape(value)}")
        leading = value.dim() - len(letters)
        _checks.require_batch(argument, value.shape[:leading], first_name, batch)
        for letter, size in zip(letters, value.shape[leading:], strict=True):
            if sizes.setdefault(letter, size) != size:
                raise ValueError(
                    f"{expected} with {letter} = {sizes[letter]}, got {_checks.shape(value)}"
                )
    made = []
    for result in results:
        shape, *notes = result.split(" ")
        tensor = first.new_empty(
            (*batch, *(sizes[letter] for letter in shape[1:])),
            dtype=torch.int64 if "int64" in notes else first.dtype,
        )
        made.append(tensor.mT if "transposed" in notes else tensor)
    return made[0] if len(made) == 1 else tuple(made)


for _name in OPERATORS:
    torch.library.register_fake(f"mige_ext::{_name}", partial(_fake, _name))
    torch.library.register_vmap(f"mige_ext::{_name}", partial(_vmap, _name))
