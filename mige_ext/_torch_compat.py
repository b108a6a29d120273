"""The private interfaces of torch that the package uses, one function each.

A private interface may change in any release of torch. No other module of the package uses a
private name of torch, and each docstring names the public interface that may replace the function.
"""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

CallableT = TypeVar("CallableT", bound=Callable[..., object])


def is_transforming() -> bool:
    """Whether a transform of ``torch.func``, such as ``grad`` or ``vmap``, is running.

    Replace this function when ``torch.func`` has a public predicate.
    """
    return torch._C._are_functorch_transforms_active()


def constant_when_compiled(function: CallableT) -> CallableT:
    """Mark a function whose result ``torch.compile`` keeps as a constant, without tracing it.

    ``torch.compiler.assume_constant_result`` sets the same attribute, but imports the compiler,
    which takes seconds. Replace this function when torch no longer imports the compiler there.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@constant_when_compiled
def active_transforms() -> tuple[str, ...]:
    """The running transforms of ``torch.func``, outermost first, such as ``("Grad", "Vmap")``.

    Replace this function when ``torch.func`` has a public function.
    """
    stack = torch._C._functorch.get_interpreter_stack() or []
    return tuple(interpreter.key().name for interpreter in stack)


@constant_when_compiled
def in_forward_mode() -> bool:
    """Whether ``torch.func.jvp`` or a dual level may take derivatives in forward mode.

    Replace this function when ``torch.autograd.forward_ad`` has a public predicate.
    """
    return torch.autograd.forward_ad._current_level >= 0


def is_batched(tensor: Tensor) -> bool:
    """Whether ``torch.func.vmap`` maps over the tensor, which then has no single value to read.

    ``vmap`` may be around other transforms, as in ``vmap(grad(f))``. Replace this function when
    ``torch.func`` has a public predicate.
    """
    functorch = torch._C._functorch
    while functorch.is_functorch_wrapped_tensor(tensor):
        if functorch.is_batchedtensor(tensor):
            return True
        tensor = functorch.get_unwrapped(tensor)
    return False
