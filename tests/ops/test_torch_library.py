"""The operators in torch.library: schemas, fake tensors, and completeness of the tests."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from mige_ext import ops, reference
from mige_ext.ops._call import DIFFERENTIABLE
from tests.support.backends import OPERATORS, Backend, map_tensors
from tests.support.cases import CASES, Case, for_each_case
from tests.support.inputs import DTYPES, for_each_dtype

_RAW_ARGUMENTS: dict[str, Callable[[Any, Any], tuple[Any, ...]]] = {
    "squared_distances": lambda a, k: (*a, None)[:2],
    "distance_quantile": lambda a, k: (*a, k["quantile"]),
    "rbf_gram": lambda a, k: (*(*a, None)[:2], k["bandwidth"]),
    "rbf_gradient_sum": lambda a, k: (*a, k["bandwidth"]),
    "rbf_product": lambda a, k: (*a, k["bandwidth"]),
    "eigh": lambda a, k: a,
    "ssge": lambda a, k: (*(*a, None)[:2], 0.5, 1.0, 0.9, k.get("rank"), k.get("power", 1)),
    "ridge_whitening": lambda a, k: (*a, k["factor"]),
    "student_score": lambda a, k: a,
    "adaptive_score": lambda a, k: (*a, k.get("start"), k.get("start_divergence")),
    "adaptive_student_score": lambda a, k: a,
}


@pytest.mark.parametrize("batch", [(), (2,)], ids=str)
@for_each_case()
def test_operators_pass_opcheck(case: Case, batch: tuple[int, ...]) -> None:
    args, kwargs = case.make(m=6, d=3, batch=batch)
    raw = _RAW_ARGUMENTS[case.operator](args, kwargs)
    if case.operator in DIFFERENTIABLE:
        raw = map_tensors(lambda t: t.requires_grad_(), raw)
    overload = getattr(torch.ops.mige_ext, case.operator).default
    results = torch.library.opcheck(overload, raw)
    assert set(results.values()) == {"SUCCESS"}
    assert len(results) == 4


@pytest.mark.parametrize("device", ["cuda", "meta"])
@pytest.mark.parametrize("batch", [(), (3,), (2, 0)], ids=str)
@for_each_case()
@for_each_dtype
def test_fake_tensors_have_the_layout_of_real_ones(
    case: Case, dtype: torch.dtype, batch: tuple[int, ...], device: str
) -> None:
    args, kwargs = map_tensors(lambda t: t.new_empty(batch + t.shape), case.make(dtype=dtype))
    args, kwargs = map_tensors(lambda t: torch.zeros_like(t) + 1, (args, kwargs))
    real = case.run(Backend(), *args, **kwargs)
    if device == "meta":
        fake_args, fake_kwargs = map_tensors(lambda t: t.to("meta"), (args, kwargs))
        fake = case.run(Backend(), *fake_args, **fake_kwargs)
    else:
        with FakeTensorMode():
            fake_args, fake_kwargs = map_tensors(
                lambda t: torch.empty(t.shape, dtype=t.dtype, device="cuda"), (args, kwargs)
            )
            fake = case.run(Backend(), *fake_args, **fake_kwargs)
    for f, r in zip(fake, real, strict=True):
        assert (f.shape, f.dtype, f.stride()) == (r.shape, r.dtype, r.stride())
        assert f.device.type == device


def test_every_operator_has_a_case_and_a_reference() -> None:
    assert {case.operator for case in CASES.values()} == set(OPERATORS)
    assert all(hasattr(reference, name) and hasattr(ops, name) for name in OPERATORS)
    assert set(DTYPES) == {torch.float32, torch.float64}
