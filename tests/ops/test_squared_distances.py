"""The matrix of squared distances."""

import torch

from mige_ext import reference
from tests.ops.sizes import for_each_size
from tests.support.accuracy import assert_accurate, rounding
from tests.support.backends import Backend, for_each_backend
from tests.support.inputs import for_each_dtype, normal


@for_each_size
@for_each_dtype
@for_each_backend("squared_distances")
def test_squared_distances_match_the_reference(
    backend: Backend, dtype: torch.dtype, m: int, n: int, d: int
) -> None:
    x, y = normal(m, d, dtype=dtype), normal(n, d, dtype=dtype, seed=1)
    for pair in ((x, y), (x,)):
        exact = reference.squared_distances(*(t.double() for t in pair))
        assert_accurate(
            backend.squared_distances(*pair), reference.squared_distances(*pair), exact, terms=d
        )


@for_each_size
@for_each_dtype
@for_each_backend("squared_distances")
def test_squared_distances_of_a_set_are_symmetric_to_the_bit_with_zero_diagonal(
    backend: Backend, dtype: torch.dtype, m: int, n: int, d: int
) -> None:
    s = backend.squared_distances(normal(m, d, dtype=dtype))
    assert torch.equal(s, s.mT)
    assert not s.diagonal().any()
    assert (s >= 0).all()


@for_each_dtype
@for_each_backend("squared_distances")
def test_squared_distances_do_not_cancel(backend: Backend, dtype: torch.dtype) -> None:
    x = (1e4 + 1e-3 * normal(65, 7)).to(dtype)
    y = (1e4 + 1e-3 * normal(40, 7, seed=1)).to(dtype)
    for pair in ((x, y), (x,)):
        exact = reference.squared_distances(*(t.double() for t in pair))
        error = (backend.squared_distances(*pair).double() - exact).abs()
        assert (error <= rounding(dtype, 7) * exact).all()


@for_each_dtype
@for_each_backend("squared_distances")
def test_equal_rows_are_at_distance_exactly_zero(backend: Backend, dtype: torch.dtype) -> None:
    x = 1e3 * normal(37, 19, dtype=dtype)
    assert not backend.squared_distances(x, x.clone()).diagonal().any()
    assert not backend.squared_distances(x[:1].expand(50, 19)).any()


@for_each_dtype
@for_each_backend("squared_distances")
def test_squared_distances_that_overflow_are_the_largest_number(
    backend: Backend, dtype: torch.dtype
) -> None:
    largest = torch.finfo(dtype).max
    x = torch.tensor([[largest], [-largest], [0.0]], dtype=dtype)
    expected = torch.full((3, 3), largest, dtype=dtype).fill_diagonal_(0.0)
    assert torch.equal(backend.squared_distances(x), expected)
    assert torch.equal(backend.squared_distances(x, x.clone()), expected)
