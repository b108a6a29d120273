"""Surrogates: scalars whose gradients come from a score estimator, not from differentiation.

:func:`surrogate` computes value and gradients together in the forward pass, and gives the gradients
to autograd and torch.func.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mige_ext._functions import Function, apply, no_vmap, refuse_forward_mode, visible
from mige_ext._torch_compat import active_transforms, constant_when_compiled, is_transforming

#: A function of the inputs, which returns a value and one gradient for each input.
Compute = Callable[..., tuple[Tensor, ...]]


def surrogate(kind: type["Surrogate"], compute: Compute, *inputs: Tensor) -> Tensor:
    """The value that ``compute`` returns, with the gradients that ``compute`` returns.

    ``kind`` is a subclass of :class:`Surrogate`, whose name becomes the name of ``grad_fn``.
    """
    if torch.compiler.is_compiling():
        refuse_forward_mode(kind, compute, *inputs)
        if torch.compiler.is_exporting() and torch.is_grad_enabled():
            raise _no_export()
        inputs = tuple(visible(tensor) for tensor in inputs)
        transforms = active_transforms()
        # As may_need_gradient, but a vmap alone needs no gradient.
        needed = any(tensor.requires_grad for tensor in inputs) or "Grad" in transforms
        if not (torch.is_grad_enabled() and needed):
            # Detached, because an estimator may have parameters of its own.
            return compute(*(tensor.detach() for tensor in inputs))[0].detach()
        if transforms.count("Grad") > 1:
            raise _once()
        # A tensor that depends on all inputs, because the gradient with respect to z depends on x.
        anchor = torch.stack([tensor.sum().float() for tensor in inputs])
        if transforms:
            _keep_in_graph()
            inputs = tuple(_transformed_once(tensor, anchor) for tensor in inputs)
        else:
            inputs = tuple(_same(t, anchor) if t.requires_grad else t for t in inputs)
    return apply(kind, compute, *inputs, *(_anchor(tensor) for tensor in inputs))[0]


def may_need_gradient(tensor: Tensor) -> bool:
    """Whether autograd or a transform of ``torch.func`` may need the gradient of a tensor.

    Under a transform, ``requires_grad`` belongs to the innermost transform, and an outer transform
    may need a gradient too.
    """
    return tensor.requires_grad or is_transforming()


def _no_export() -> RuntimeError:
    return RuntimeError(
        "surrogates of entropy and mutual information do not work in torch.export: an exported "
        "surrogate has no gradient, and its value means nothing. Export the score of an estimator"
    )


def named_encoder_information(value: Tensor) -> Tensor:
    """The same value, whose ``grad_fn`` has the name of the information function."""
    return apply(EncoderInformation, value)


def _anchor(tensor: Tensor) -> Tensor | None:
    """A small tensor that depends on ``tensor`` in the graph.

    A surrogate saves the anchor for the backward pass instead of ``tensor``. ``tensor`` may
    therefore be freed, changed in place, or an inference tensor.
    """
    if not may_need_gradient(tensor):
        return None
    if torch.compiler.is_compiling():  # the compiler may leave out a tensor without elements
        return tensor.sum()
    return tensor.repeat(0, *(1,) * (tensor.dim() - 1))


# --- compiled code: the second derivative ---------------------------------------------------------
#
# The compiler computes the backward pass of an autograd function without a graph, so a second
# derivative would be 0 without an error. Each input therefore passes through the identity
# ``_same``, whose gradient depends on ``anchor`` and thereby on all inputs. The derivative of this
# gradient raises the error.


@torch.library.custom_op("mige_ext::_same", mutates_args=())
def _same(tensor: Tensor, anchor: Tensor) -> Tensor:
    return tensor.clone()


@torch.library.custom_op("mige_ext::_same_backward", mutates_args=())
def _same_backward(grad: Tensor, anchor: Tensor) -> Tensor:
    return grad.clone()


def _raise_once(ctx: Any, grad: Tensor) -> Any:
    raise _once()


_same.register_fake(lambda tensor, anchor: torch.empty_like(tensor))
_same.register_autograd(
    lambda ctx, grad: (_same_backward(grad, *ctx.saved_tensors), None),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(inputs[1]),
)
_same_backward.register_fake(lambda grad, anchor: torch.empty_like(grad))
_same_backward.register_autograd(_raise_once)


@constant_when_compiled
def _keep_in_graph() -> None:
    """Make the compiler call :func:`_transformed_once` without tracing it.

    ``allow_in_graph`` imports the compiler, which takes seconds, so only code that is being
    compiled calls this function.
    """
    torch.compiler.allow_in_graph(_transformed_once)


def _transformed_once(tensor: Tensor, anchor: Tensor) -> Tensor:
    """``_same`` for ``torch.func``, which cannot differentiate a custom operator."""
    return _Same.apply(tensor, anchor)


class _Same(torch.autograd.Function):
    generate_vmap_rule = True  # for torch.func.jacrev

    @staticmethod
    def forward(tensor: Tensor, anchor: Tensor) -> Tensor:
        return tensor.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return _SameBackward.apply(grad, *ctx.saved_tensors), None


class _SameBackward(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(grad: Tensor, anchor: Tensor) -> Tensor:
        return grad.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.shape = inputs[1].shape

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        # The compiler always runs this method. The error must come only if the second derivative is
        # computed, so an operator raises it.
        return None, _no_second_derivative(grad).sum().expand(ctx.shape)


@torch.library.custom_op("mige_ext::_no_second_derivative", mutates_args=())
def _no_second_derivative(grad: Tensor) -> Tensor:
    raise _once()


_no_second_derivative.register_fake(torch.empty_like)


class Surrogate(Function):
    """A scalar whose gradients are computed in the forward pass.

    The gradients are outputs too, because torch.func lets a context save only inputs and outputs.
    The inputs are tensors, followed by one anchor (:func:`_anchor`) for each tensor.
    """

    @staticmethod
    def called(compute: Any, *inputs: Any) -> str:
        return "a surrogate"

    @staticmethod
    def forward(compute: Compute, *inputs: Tensor | None) -> tuple[Tensor, ...]:
        tensors = inputs[: len(inputs) // 2]
        return compute(*(tensor.detach() for tensor in tensors if tensor is not None))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _, *gradients = output
        count = len(gradients)
        ctx.mark_non_differentiable(*gradients)
        ctx.set_materialize_grads(False)
        ctx.dtypes = tuple(tensor.dtype for tensor in inputs[1 : 1 + count])
        ctx.save_for_backward(*gradients, *inputs[1 + count :])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: None) -> tuple[Tensor | None, ...]:
        count, saved = len(ctx.dtypes), ctx.saved_tensors  # read once, as torch's checkpoint needs
        gradients, anchors = saved[:count], [each for each in saved[count:] if each is not None]
        anchor = None
        if anchors and torch.is_grad_enabled():
            anchor = torch.cat([each.flatten().float() for each in anchors])
        return (
            None,
            *(
                apply(_FirstDerivative, grad * gradient, anchor, dtype) if needed else None
                for needed, gradient, dtype in zip(
                    ctx.needs_input_grad[1:], gradients, ctx.dtypes, strict=False
                )
            ),
            *(None,) * count,
        )

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        raise no_vmap()


class Entropy(Surrogate):
    """The surrogate of an entropy."""


class Negentropy(Surrogate):
    """The surrogate of a negentropy."""


class MutualInformation(Surrogate):
    """The surrogate of a mutual information."""


class CodeInformation(Surrogate):
    """The surrogate of the information of a code through a channel."""


class EncoderInformation(Function):
    """An identity function on the difference of two surrogates."""

    generate_vmap_rule = True  # for torch.func.jacrev

    @staticmethod
    def called(*args: Any) -> str:
        return "a surrogate"

    @staticmethod
    def forward(value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


class _FirstDerivative(Function):
    """A gradient in the given dtype, whose derivative raises an error.

    torch's decorator ``once_differentiable`` raises only if the incoming gradient requires a
    gradient. In a gradient penalty the incoming gradient is a constant, so the gradient of the
    penalty would be zero without an error.
    """

    generate_vmap_rule = True  # for torch.func.jacrev

    @staticmethod
    def called(*args: Any) -> str:
        return "the gradient of a surrogate of entropy or mutual information"

    @staticmethod
    def forward(gradient: Tensor, anchor: Tensor | None, dtype: torch.dtype) -> Tensor:
        # Linear solvers return column-major scores. A column-major gradient would change the
        # rounding in other layers of the network.
        contiguous = torch.contiguous_format
        return gradient.to(dtype, copy=True, memory_format=contiguous)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        raise _once()

    @staticmethod
    def tangent(ctx: Any, *tangents: Any) -> Any:
        raise _once()


def _once() -> RuntimeError:
    return RuntimeError(
        "surrogates of entropy and mutual information are differentiable once: the score "
        "estimate in their gradient has no derivative"
    )
