"""The private interfaces of torch behave as ``_torch_compat`` documents them."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import mige_ext
from mige_ext._torch_compat import (
    active_transforms,
    constant_when_compiled,
    in_forward_mode,
    is_batched,
    is_transforming,
)
from tests.support.process import environment

PACKAGE = Path(mige_ext.__file__).parent


def test_a_transform_is_reported_while_it_runs() -> None:
    seen = []

    def square(x: Tensor) -> Tensor:
        seen.append(is_transforming())
        return x.square().sum()

    x = torch.ones(2, 3)
    square(x)
    torch.func.grad(square)(x)
    torch.func.vmap(square)(x)
    square(x)
    assert seen == [False, True, True, False]


# torch itself calls torch.jit.script, which it deprecates.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_transforms_are_listed_from_the_outermost() -> None:
    seen = []

    def square(x: Tensor) -> Tensor:
        seen.append((active_transforms(), in_forward_mode()))
        return x.square().sum()

    x = torch.ones(2, 3)
    square(x)
    torch.func.vmap(torch.func.grad(square))(x)
    torch.func.jvp(square, (x,), (x,))
    with torch.autograd.forward_ad.dual_level():
        square(x)
    assert seen == [((), False), (("Vmap", "Grad"), False), (("Jvp",), True), ((), True)]


def test_a_tensor_is_batched_under_vmap_alone() -> None:
    seen = []

    def square(x: Tensor) -> Tensor:
        seen.append(is_batched(x))
        return x.square().sum()

    x = torch.ones(2, 3)
    square(x)
    torch.func.grad(square)(x)
    torch.func.vmap(square)(x)
    torch.func.vmap(torch.func.grad(square))(x)
    assert seen == [False, False, True, True]


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_marked_function_is_a_constant_of_the_compiled_graph() -> None:
    @constant_when_compiled
    def drawn(seed: int) -> Tensor:
        return torch.from_numpy(np.random.default_rng(seed).standard_normal(3))

    def shifted(x: Tensor) -> Tensor:
        return x + drawn(5)

    x = torch.ones(3, dtype=torch.float64)
    compiled = torch.compile(shifted, fullgraph=True, backend="eager")
    assert torch.equal(compiled(x), shifted(x))


def test_the_mark_is_that_of_the_public_decorator() -> None:
    def marked() -> None: ...

    def publicly_marked() -> None: ...

    constant_when_compiled(marked)
    torch.compiler.assume_constant_result(publicly_marked)
    assert vars(marked) == vars(publicly_marked)


@pytest.mark.thorough
def test_marking_does_not_import_the_compiler() -> None:
    code = "import sys, mige_ext; assert 'torch._dynamo' not in sys.modules"
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr


def test_no_other_module_uses_a_private_name_of_torch() -> None:
    private = re.compile(r"\btorch(\.\w+)*\._[a-z]\w*|\btorch\._C\b|_dynamo_\w+")
    found = {
        path.relative_to(PACKAGE).as_posix(): match.group()
        for path in PACKAGE.rglob("*.py")
        if path.name != "_torch_compat.py" and (match := private.search(path.read_text("utf-8")))
    }
    assert not found
