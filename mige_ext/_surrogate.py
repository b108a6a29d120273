"""A scalar whose value and gradients are computed together, in the forward pass.

The functions of :mod:`mige_ext.information` get their gradients from a score estimator and not by
differentiation. :func:`surrogate` makes these gradients known to autograd and torch.func.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from mige_ext._torch_compat import is_transforming


def surrogate(compute: Callable[..., tuple[Tensor, ...]], *inputs: Tensor) -> Tensor:
    """The value that ``compute`` returns; its backward pass returns the gradients of ``compute``.

    ``compute`` takes the inputs, and returns a value and one gradient for each input.
    """
    return _apply(_Surrogate, compute, *inputs)[0]


def _apply(function: type[torch.autograd.Function], *args: Any) -> Any:
    """``function.apply``, with a separate ``setup_context`` only where torch.func needs it.

    With ``setup_context``, torch matches the arguments to the signature of ``forward`` in each
    call, which takes 25 µs.
    """
    if torch.compiler.is_compiling() or is_transforming():
        return function.apply(*args)
    return _with_combined_forward(function).apply(*args)


@cache
def _with_combined_forward(function: Any) -> type[torch.autograd.Function]:
    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *args: Any) -> Any:
            output = function.forward(*args)
            function.setup_context(ctx, args, output)
            return output

        backward = function.backward

    Function.__name__ = function.__name__
    return Function


class _Surrogate(torch.autograd.Function):
    """A scalar whose gradients are computed in the forward pass.

    The gradients are outputs too, because torch.func lets a context save only inputs and outputs.
    """

    @staticmethod
    def forward(compute: Callable[..., tuple[Tensor, ...]], *inputs: Tensor) -> tuple[Tensor, ...]:
        return compute(*(tensor.detach() for tensor in inputs))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _, *gradients = output
        ctx.mark_non_differentiable(*gradients)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[1:], *gradients)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: None) -> tuple[Tensor | None, ...]:
        half = len(ctx.saved_tensors) // 2
        inputs, gradients = ctx.saved_tensors[:half], ctx.saved_tensors[half:]
        return None, *(
            _apply(_FirstDerivative, grad * gradient, tensor) if needed else None
            for needed, gradient, tensor in zip(
                ctx.needs_input_grad[1:], gradients, inputs, strict=True
            )
        )

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        raise NotImplementedError(
            "surrogates of entropy and mutual information do not work under torch.func.vmap: give "
            "the groups as leading dimensions, (..., M, d); the result is the mean over them"
        )


class _FirstDerivative(torch.autograd.Function):
    """A gradient, in the dtype of its argument, that raises an error when it is differentiated.

    torch's decorator ``once_differentiable`` does not suffice. It raises only if the incoming
    gradient requires a gradient. In a gradient penalty the incoming gradient is a constant, so the
    gradient of the penalty would be zero, without an error.
    """

    generate_vmap_rule = True  # for torch.func.jacrev

    @staticmethod
    def forward(gradient: Tensor, argument: Tensor) -> Tensor:
        # Linear solvers return scores in column-major order. A gradient in this memory format would
        # change the rounding in other layers of the network.
        contiguous = torch.contiguous_format
        return gradient.to(argument.dtype, copy=True, memory_format=contiguous)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        raise RuntimeError(
            "surrogates of entropy and mutual information are differentiable once: the score "
            "estimate in their gradient has no derivative"
        )
