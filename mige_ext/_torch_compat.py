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


def is_batched(tensor: Tensor) -> bool:
    """Whether ``torch.func.vmap`` maps over the tensor, which then has no single value to read.

    This waits for a public predicate in ``torch.func``, which has none.
    """
    return torch._C._functorch.is_batchedtensor(tensor)


def constant_when_compiled(function: CallableT) -> CallableT:
    """Mark a function whose result ``torch.compile`` keeps as a constant, without tracing it.

    This waits for a ``torch.compiler.assume_constant_result`` that does not import the compiler,
    which takes seconds. Both set the same attribute.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function
