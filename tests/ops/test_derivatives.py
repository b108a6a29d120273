"""First and second derivatives, and the errors of operators without derivatives."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from mige_ext import ops, reference
from tests.support.accuracy import assert_accurate, rounding
from tests.support.backends import OPERATORS, Backend, map_tensors
from tests.support.cases import Case, for_each_case
from tests.support.inputs import for_each_dtype, normal

DIFFERENTIABLE = ("squared_distances", "rbf_gram")


def _leaf(*shape: int, seed: int = 0) -> Tensor:
    return normal(*shape, seed=seed).requires_grad_()


DIFFERENTIATED: dict[str, Callable[[], tuple[Callable[..., Tensor], Any]]] = {
    "squared_distances": lambda: (ops.squared_distances, (_leaf(2, 4, 3), _leaf(2, 3, 3, seed=1))),
    "squared_distances-self": lambda: (ops.squared_distances, (_leaf(4, 3),)),
    "squared_distances-y": lambda: (lambda y: ops.squared_distances(normal(4, 3), y),
                                    (_leaf(2, 3, seed=1),)),
    "rbf_gram": lambda: (lambda x, y, s: ops.rbf_gram(x, y, bandwidth=s),
                         (_leaf(2, 4, 3), _leaf(2, 3, 3, seed=1), (1 + _leaf(2).abs()))),
    "rbf_gram-self": lambda: (lambda x, s: ops.rbf_gram(x, bandwidth=s),
                              (_leaf(4, 3), torch.tensor(1.3, dtype=torch.float64,
                                                         requires_grad=True))),
    "rbf_gram-bandwidth": lambda: (lambda s: ops.rbf_gram(normal(4, 3), bandwidth=s),
                                   (torch.tensor(0.7, dtype=torch.float64, requires_grad=True),)),
}  # fmt: skip


@pytest.mark.parametrize("name", DIFFERENTIATED)
def test_first_and_second_derivatives_agree_with_finite_differences(name: str) -> None:
    f, inputs = DIFFERENTIATED[name]()
    assert torch.autograd.gradcheck(f, inputs)
    assert torch.autograd.gradgradcheck(f, inputs)


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_second_derivatives_exist_where_all_points_coincide(name: str, value: float) -> None:
    x = torch.full((3, 2), value, dtype=torch.float64, requires_grad=True)
    more = {"bandwidth": torch.ones((), dtype=torch.float64)} if name == "rbf_gram" else {}
    assert torch.autograd.gradgradcheck(lambda x: getattr(ops, name)(x, **more), (x,))


@pytest.mark.parametrize("scale", [2.0**100, 2.0**-100])
@pytest.mark.parametrize("pair", [True, False], ids=["x,y", "x"])
@for_each_dtype
def test_gram_gradients_scale_with_the_samples(
    dtype: torch.dtype, pair: bool, scale: float
) -> None:
    x, y = normal(9, 3, dtype=dtype), normal(7, 3, dtype=dtype, seed=1)
    weight = normal(9, 7 if pair else 9, dtype=dtype, seed=2)

    def gradients(a: float) -> tuple[Tensor, ...]:
        leaves = [(t * a).requires_grad_() for t in ((x, y) if pair else (x,))]
        sigma = torch.tensor(1.5 * a, dtype=dtype, requires_grad=True)
        k = ops.rbf_gram(*leaves, bandwidth=sigma)
        return torch.autograd.grad((weight * k).sum(), [*leaves, sigma])

    for unit, scaled in zip(gradients(1.0), gradients(scale), strict=True):
        assert (scaled * scale - unit).abs().max() <= rounding(dtype, 16) * unit.abs().max()


@pytest.mark.parametrize("name", ["squared_distances", "rbf_gram"])
@pytest.mark.parametrize("pair", [True, False], ids=["x,y", "x"])
@for_each_dtype
def test_gradients_do_not_cancel_under_an_offset(dtype: torch.dtype, pair: bool, name: str) -> None:
    points = [(1e4 + 1e-2 * normal(n, 3, seed=n)).to(dtype) for n in ((20, 15) if pair else (20,))]
    weight = normal(20, 15 if pair else 20, seed=2)
    sigma = torch.tensor(1e-2, dtype=dtype)

    def gradients(module: Any, wanted: torch.dtype) -> tuple[Tensor, ...]:
        leaves = [p.to(wanted).requires_grad_() for p in points]
        more = {"bandwidth": sigma.to(wanted)} if name == "rbf_gram" else {}
        result = getattr(module, name)(*leaves, **more)
        return torch.autograd.grad((weight.to(wanted) * result).sum(), leaves)

    got, eager = gradients(ops, dtype), gradients(reference, dtype)
    exact = gradients(reference, torch.float64)
    for g, e, t in zip(got, eager, exact, strict=True):
        assert_accurate(g, e, t, terms=20)


@for_each_case(*(name for name in OPERATORS if name not in DIFFERENTIABLE))
def test_operators_without_derivatives_raise(case: Case) -> None:
    args, kwargs = map_tensors(lambda t: t.requires_grad_(), case.make(m=8))
    result = case.run(Backend(), *args, **kwargs)[0]
    message = rf"mige_ext\.ops\.{case.operator} has no derivative: detach its inputs"
    with pytest.raises(NotImplementedError, match=message):
        result.sum().backward()
