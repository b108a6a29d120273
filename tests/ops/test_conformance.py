"""Properties of every operator: batches, empty batches, strides, unchanged inputs."""

import operator
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support.accuracy import same_bits
from tests.support.backends import Backend, for_each_backend, map_tensors
from tests.support.cases import Case, for_each_case_and_backend, for_each_case_and_device
from tests.support.inputs import for_each_dtype, normal


@pytest.mark.parametrize("batch", [(3,), (2, 3), (1, 1)], ids=str)
@for_each_dtype
@for_each_case_and_backend
def test_a_batch_is_its_groups_one_by_one_to_the_bit(
    backend: Backend, dtype: torch.dtype, case: Case, batch: tuple[int, ...]
) -> None:
    args, kwargs = case.make(batch=batch, dtype=dtype)
    together = case.run(backend, *args, **kwargs)
    for index in np.ndindex(batch):
        one_args, one_kwargs = map_tensors(operator.itemgetter(index), (args, kwargs))
        alone = case.run(backend, *one_args, **one_kwargs)
        assert same_bits(tuple(t[index] for t in together), alone)


@pytest.mark.parametrize("batch", [(0,), (2, 0), (0, 3)], ids=str)
@for_each_case_and_backend
def test_an_empty_batch_gives_empty_results(
    backend: Backend, case: Case, batch: tuple[int, ...]
) -> None:
    one_args, one_kwargs = case.make()
    expected = case.run(backend, *one_args, **one_kwargs)
    args, kwargs = map_tensors(lambda t: t.new_empty(batch + t.shape), (one_args, one_kwargs))
    results = case.run(backend, *args, **kwargs)
    assert [t.shape for t in results] == [batch + t.shape for t in expected]
    assert [t.dtype for t in results] == [t.dtype for t in expected]


def negated(t: Tensor) -> Tensor:
    """t as a lazy negation, whose memory has −t."""
    view = torch.complex(torch.zeros_like(t), -t).conj().imag
    assert view.is_neg()
    return view


def embedded(t: Tensor) -> Tensor:
    """t as a view of every other element, after an offset, of a larger tensor of NaN."""
    host = t.new_full([2 * n + 3 for n in t.shape], torch.nan)
    view = host[tuple(slice(2, 2 * n + 2, 2) for n in t.shape)]
    return view.copy_(t)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda t: t.transpose(-1, -2).contiguous().transpose(-1, -2),
    "batch innermost": lambda t: t.movedim(0, -1).contiguous().movedim(-1, 0),
    "embedded": embedded,
    "expanded": lambda t: t[:1].expand(t.shape),
    "negated": negated,
}


@pytest.mark.parametrize("layout", LAYOUTS)
@for_each_dtype
@for_each_case_and_device
def test_strides_do_not_matter(
    backend: Backend, dtype: torch.dtype, case: Case, layout: str
) -> None:
    args, kwargs = case.make(batch=(2,), dtype=dtype)

    def relaid(t: Tensor) -> Tensor:
        return LAYOUTS[layout](t) if t.dim() > 1 or layout != "transposed" else t

    strided = map_tensors(relaid, (args, kwargs))
    plain = map_tensors(lambda t: t.clone(memory_format=torch.contiguous_format), strided)
    plain = map_tensors(torch.Tensor.resolve_neg, plain)
    assert same_bits(case.run(backend, *strided[0], **strided[1]),
                     case.run(backend, *plain[0], **plain[1]))  # fmt: skip


@for_each_case_and_device
def test_operators_leave_their_inputs_unchanged(backend: Backend, case: Case) -> None:
    args, kwargs = case.make(m=33)
    copies = map_tensors(torch.clone, (args, kwargs))
    case.run(backend, *args, **kwargs)
    equal: list[bool] = []
    for given, copy in zip(args, copies[0], strict=True):
        equal.append(not isinstance(given, Tensor) or torch.equal(given, copy))
    equal += [torch.equal(v, copies[1][k]) for k, v in kwargs.items() if isinstance(v, Tensor)]
    assert all(equal)


@for_each_backend("squared_distances", "rbf_gram")
def test_matrices_of_no_points_are_empty(backend: Backend) -> None:
    x, none = normal(4, 3), normal(0, 3)
    one = torch.ones((), dtype=x.dtype)
    assert backend.squared_distances(none).shape == (0, 0)
    assert backend.squared_distances(x, none).shape == (4, 0)
    assert backend.rbf_gram(none, x, bandwidth=one).shape == (0, 4)
    assert backend.rbf_gram(none, bandwidth=one).shape == (0, 0)
