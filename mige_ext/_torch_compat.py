"""The private interfaces of torch that the package uses, one function each.

A private interface may change in any release of torch. Each function therefore names the public
alternative that it waits for, and no other module of the package uses a private name of torch.
"""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

CallableT = TypeVar("CallableT", bound=Callable[..., object])


def is_transforming() -> bool:
    """Whether a transform of ``torch.func``, such as ``grad`` or ``vmap``, is running.

    This waits for a public predicate in ``torch.func``, which has none.
    """
    return torch._C._are_functorch_transforms_active()


def constant_when_compiled(function: CallableT) -> CallableT:
    """Mark a function whose result ``torch.compile`` keeps as a constant, without tracing it.

    This waits for a ``torch.compiler.assume_constant_result`` that does not import the compiler,
    which takes seconds. Both set the same attribute.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@constant_when_compiled
def active_transforms() -> tuple[str, ...]:
    """The transforms of ``torch.func`` that are running, such as ``("Grad", "Vmap")``.

    The outermost transform comes first. Code that is being compiled gets the transforms around the
    call. This waits for a public function in ``torch.func``, which has none.
    """
    stack = torch._C._functorch.get_interpreter_stack() or []
    return tuple(interpreter.key().name for interpreter in stack)


@constant_when_compiled
def in_forward_mode() -> bool:
    """Whether derivatives in forward mode may be taken: ``torch.func.jvp``, or a dual level.

    This waits for a public predicate in ``torch.autograd.forward_ad``, which has none.
    """
    return torch.autograd.forward_ad._current_level >= 0


def is_batched(tensor: Tensor) -> bool:
    """Whether ``torch.func.vmap`` maps over the tensor, which then has no single value to read.

    ``vmap`` may be around other transforms, as in ``vmap(grad(f))``.

    This waits for a public predicate in ``torch.func``, which has none.
    """
    functorch = torch._C._functorch
    while functorch.is_functorch_wrapped_tensor(tensor):
        if functorch.is_batchedtensor(tensor):
            return True
        tensor = functorch.get_unwrapped(tensor)
    return False
