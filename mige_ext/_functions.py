"""Autograd functions for eager code, for ``torch.func`` and for the compiler.

Each use needs a different class:

- Eager code needs a ``forward`` that does the work of ``setup_context``, because torch takes 25 µs
  in each call of a class with ``setup_context``.
- ``torch.func`` needs ``setup_context``.
- The compiler needs ``setup_context`` too, and rejects every class that defines ``jvp``.

A :class:`Function` is the class for the compiler, with a method ``tangent`` instead of ``jvp``.
From this class, :func:`apply` makes the two other classes.
"""

import types
from functools import cache
from typing import Any

import torch
from torch import Tensor

from mige_ext._torch_compat import active_transforms, in_forward_mode, is_batched, is_transforming


class Function(torch.autograd.Function):
    """An autograd function for :func:`apply`."""

    @staticmethod
    def called(*args: Any) -> str:
        """The name of the function that the user called, for error messages."""
        raise NotImplementedError

    @staticmethod
    def tangent(ctx: Any, *tangents: Any) -> Any:
        """The derivative in forward mode. A subclass without this method raises an error."""
        raise NotImplementedError(
            f"{ctx.called} has no derivative in forward mode (jvp, jacfwd, hessian): use grad, vjp "
            "or jacrev of torch.func, or backward"
        )


def apply(function: type[Function], *args: Any) -> Any:
    """``function.apply(*args)`` with the class for eager code, ``torch.func`` or the compiler.

    Raises:
        NotImplementedError: compiled code differentiates in forward mode.
    """
    if torch.compiler.is_compiling():
        refuse_forward_mode(function, *args)
        return function.apply(*(visible(a) if isinstance(a, Tensor) else a for a in args))
    return _variant(function, is_transforming()).apply(*args)


def refuse_forward_mode(function: type[Function], *args: Any) -> None:
    """Raise an error if compiled code may differentiate the function in forward mode."""
    if in_forward_mode():
        raise NotImplementedError(
            f"{function.called(*args)} has no derivative in forward mode (jvp, jacfwd, hessian) in "
            "compiled code: differentiate outside torch.compile"
        )


def visible(tensor: Tensor) -> Tensor:
    """The tensor, or under torch.func in compiled code a view, whose ``requires_grad`` is right.

    While torch compiles ``torch.func.grad``, ``requires_grad`` of the argument is False. torch
    would then drop the backward pass of an autograd function, and the gradient would be 0.
    """
    if torch.compiler.is_compiling() and active_transforms():
        return tensor.view_as(tensor)
    return tensor


def refuse_vmap(*tensors: Tensor) -> None:
    """Raise an error if ``torch.func.vmap`` maps over a tensor of an information function."""
    if torch.compiler.is_compiling():
        batched = "Vmap" in active_transforms()
    else:
        batched = is_transforming() and any(is_batched(tensor) for tensor in tensors)
    if batched:
        raise no_vmap()


def no_vmap() -> NotImplementedError:
    """The error of a surrogate under ``torch.func.vmap``."""
    return NotImplementedError(
        "surrogates of entropy and mutual information do not work under torch.func.vmap: give "
        "the groups as leading dimensions, (..., M, d); the result is the mean over the groups"
    )


@cache
def _variant(function: Any, transforming: bool) -> type[torch.autograd.Function]:
    """The class for ``torch.func`` if ``transforming``, otherwise for eager code."""

    def forward(ctx: Any, *args: Any) -> Any:
        output = function.forward(*args)
        setup_context(ctx, args, output)
        return output

    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.called = function.called(*inputs)
        function.setup_context(ctx, inputs, output)

    methods = {"jvp": staticmethod(function.tangent), "backward": staticmethod(function.backward)}
    if transforming:
        methods["forward"] = staticmethod(function.forward)
        methods["setup_context"] = staticmethod(setup_context)
        methods["vmap"] = staticmethod(function.vmap)
    else:
        methods["forward"] = staticmethod(forward)
    attributes = {**methods, "generate_vmap_rule": function.generate_vmap_rule}
    # The name of the class becomes the name of ``grad_fn``.
    return types.new_class(
        function.__name__,
        (torch.autograd.Function,),
        exec_body=lambda body: body.update(attributes),
    )
