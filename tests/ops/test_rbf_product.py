"""The product with a kernel matrix that is not stored."""

import pytest
import torch

from mige_ext import reference
from tests.ops.sizes import bandwidth, for_each_size
from tests.support.accuracy import assert_accurate
from tests.support.backends import Backend, for_each_backend
from tests.support.inputs import for_each_dtype, normal


@pytest.mark.parametrize("columns", [0, 1, 16, 17])
@for_each_size
@for_each_dtype
@for_each_backend("rbf_product")
def test_kernel_product_matches_the_reference(
    backend: Backend, dtype: torch.dtype, m: int, n: int, d: int, columns: int
) -> None:
    x, q = normal(m, d, dtype=dtype), normal(n, d, dtype=dtype, seed=1)
    w, sigma = normal(m, columns, dtype=dtype, seed=2), bandwidth(x)
    k = reference.rbf_gram(q.double(), x.double(), bandwidth=sigma.double())
    exact, magnitude = k @ w.double(), k @ w.double().abs()
    eager = reference.rbf_product(q, x, w, bandwidth=sigma)
    got = backend.rbf_product(q, x, w, bandwidth=sigma)
    assert_accurate(got, eager, exact, terms=m + d, magnitude=magnitude)


@for_each_backend("rbf_product")
def test_kernel_product_takes_many_more_queries_than_samples(backend: Backend) -> None:
    x, q, w = normal(3, 2), normal(5003, 2, seed=1), normal(3, 4, seed=2)
    got = backend.rbf_product(q, x, w, bandwidth=bandwidth(x))
    exact = reference.rbf_product(q, x, w, bandwidth=bandwidth(x))
    assert_accurate(got, exact, exact, terms=5)


@pytest.mark.parametrize(("queries", "samples", "columns"), [(0, 5, 3), (4, 0, 3), (4, 5, 0)])
@for_each_dtype
@for_each_backend("rbf_product")
def test_kernel_product_of_nothing_is_zero(
    backend: Backend, dtype: torch.dtype, queries: int, samples: int, columns: int
) -> None:
    q, x = normal(queries, 2, dtype=dtype), normal(samples, 2, dtype=dtype)
    w = normal(samples, columns, dtype=dtype)
    got = backend.rbf_product(q, x, w, bandwidth=torch.ones((), dtype=dtype))
    expected = q @ torch.zeros(2, columns, dtype=dtype) if samples == 0 else None
    assert got.shape == (queries, columns)
    assert expected is None or torch.equal(got, expected)
