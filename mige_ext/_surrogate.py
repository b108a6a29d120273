"""A scalar whose value and gradients are computed together, in the forward pass.

The functions of :mod:`mige_ext.information` get their gradients from a score estimator and not by
differentiation. :func:`surrogate` makes these gradients known to autograd and torch.func.
"""

import types
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from mige_ext._torch_compat import is_transforming


def surrogate(
    kind: type["Surrogate"], compute: Callable[..., tuple[Tensor, ...]], *inputs: Tensor
) -> Tensor:
    """The value that ``compute`` returns; its backward pass returns the gradients of ``compute``.

    ``compute`` takes the inputs, and returns a value and one gradient for each input. ``kind`` is a
    subclass of :class:`Surrogate`, whose name is that of the value's ``grad_fn``.
    """
    return _apply(kind, compute, *inputs)[0]


def named_encoder_information(value: Tensor) -> Tensor:
    """The same value, with a ``grad_fn`` that is named after the information function."""
    return _apply(EncoderInformation, value)


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
    def forward(ctx: Any, *args: Any) -> Any:
        output = function.forward(*args)
        function.setup_context(ctx, args, output)
        return output

    # torch takes the name of ``grad_fn`` from the name with which the class is created.
    methods = {"forward": staticmethod(forward), "backward": staticmethod(function.backward)}
    return types.new_class(
        function.__name__, (torch.autograd.Function,), exec_body=lambda body: body.update(methods)
    )


class Surrogate(torch.autograd.Function):
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


class Entropy(Surrogate):
    """The surrogate of an entropy."""


class Negentropy(Surrogate):
    """The surrogate of a negentropy."""


class MutualInformation(Surrogate):
    """The surrogate of a mutual information."""


class CodeInformation(Surrogate):
    """The surrogate of the information of a code through a channel."""


class EncoderInformation(torch.autograd.Function):
    """The difference of two surrogates, which keeps its value and its gradient."""

    generate_vmap_rule = True  # for torch.func.jacrev

    @staticmethod
    def forward(value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


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
