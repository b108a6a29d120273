"""Conformance: every operator against its twin in ``reference.py``, for every back end."""

import operator
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from mige_ext import _C, ops, reference
from tests.support.accuracy import assert_accurate, assert_ssge_accurate, rounding, same_bits
from tests.support.backends import OPERATORS, Backend, for_each_backend, map_tensors
from tests.support.cases import CASES, Case, for_each_case, for_each_case_and_backend
from tests.support.inputs import DTYPES, for_each_dtype, normal
from tests.support.process import ROOT, environment

# Samples, other points and dimensions: below, at and above the sizes of tiles and vectors.
SIZES = [
    (1, 1, 1),
    (2, 31, 3),
    (31, 2, 16),
    (33, 65, 17),
    (63, 64, 1),
    (65, 33, 300),
    (97, 130, 16),
    (130, 97, 17),
    (257, 63, 3),
]
for_each_size = pytest.mark.parametrize(("m", "n", "d"), SIZES)


def bandwidth(x: Tensor) -> Tensor:
    """A σ near the typical distance, not a round number."""
    return torch.full(x.shape[:-2], 0.77 * x.shape[-1] ** 0.5, dtype=x.dtype)


# --- squared_distances ----------------------------------------------------------------------------


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


# --- distance_quantile ----------------------------------------------------------------------------


def expected_quantile(backend: Backend, x: Tensor, quantile: float) -> Tensor:
    """NumPy's inverted_cdf on the distances above the diagonal, positive ones if that is 0."""
    i, j = torch.triu_indices(x.shape[0], x.shape[0], 1)
    squares = backend.squared_distances(x)[i, j].numpy()
    value = np.quantile(squares, quantile, method="inverted_cdf")
    if value == 0 and squares.any():
        value = np.quantile(squares[squares > 0], quantile, method="inverted_cdf")
    return torch.tensor(np.sqrt(np.float64(value)), dtype=x.dtype)


def point_sets(dtype: torch.dtype) -> dict[str, Tensor]:
    """Point sets that are hard for a selection."""
    x = normal(65, 3, dtype=dtype)
    return {
        "normal": x,
        "two": x[:2],
        "three": x[:3],
        "ties": (2 * x).round(),
        "heavy tails": (normal(97, 2) / normal(97, 2, seed=1)).pow(3).to(dtype),
        "one value": x[:1].expand(20, 3),
        "three of four equal": torch.cat([x[:1].expand(60, 3), x[:20]]),
        "two clusters": torch.cat([x[:33], x[:33] + 1000]),
        "a line": torch.arange(65, dtype=dtype).unsqueeze(1),
        "large": x * 2.0**100,
        "small": x * 2.0**-100,
    }


@pytest.mark.parametrize("quantile", [1e-9, 0.25, 0.5, 0.7, 0.999, 1.0])
@pytest.mark.parametrize("points", point_sets(torch.float32))
@for_each_dtype
@for_each_backend("distance_quantile", "squared_distances")
def test_distance_quantile_is_the_exact_order_statistic(
    backend: Backend, dtype: torch.dtype, points: str, quantile: float
) -> None:
    x = point_sets(dtype)[points]
    got = backend.distance_quantile(x, quantile)
    if dtype == torch.float64 or points not in ("large", "small"):  # whose squares do not fit
        assert torch.equal(got, expected_quantile(backend, x, quantile))
    exact = reference.distance_quantile(x.double(), quantile)
    assert abs(got.double() - exact) <= rounding(dtype, x.shape[1]) * exact


@pytest.mark.parametrize("m", [2, 31, 33, 64, 97, 130])
@for_each_backend("distance_quantile", "squared_distances")
def test_distance_quantile_of_every_rank_walks_through_the_sorted_distances(
    backend: Backend, m: int
) -> None:
    x = normal(m, 2)
    i, j = torch.triu_indices(m, m, 1)
    # NumPy's root is correctly rounded; torch's vectorised one need not be.
    ascending = np.sqrt(backend.squared_distances(x)[i, j].sort().values.numpy())
    pairs = len(ascending)
    for rank in range(1, pairs + 1, max(1, pairs // 40)):
        assert backend.distance_quantile(x, (rank - 0.5) / pairs) == ascending[rank - 1]


@for_each_dtype
@for_each_backend("distance_quantile")
def test_distance_quantile_is_not_moved_by_one_far_outlier(
    backend: Backend, dtype: torch.dtype
) -> None:
    x = normal(64, 3, dtype=dtype)
    x[0] = 1e30
    exact = reference.distance_quantile(x.double())
    assert abs(backend.distance_quantile(x).double() - exact) <= rounding(dtype, 3) * exact


# --- rbf_gram -------------------------------------------------------------------------------------


@for_each_size
@for_each_dtype
@for_each_backend("rbf_gram")
def test_gram_matrix_matches_the_reference(
    backend: Backend, dtype: torch.dtype, m: int, n: int, d: int
) -> None:
    x, y = normal(m, d, dtype=dtype), normal(n, d, dtype=dtype, seed=1)
    sigma = bandwidth(x)
    for pair in ((x, y), (x,)):
        exact = reference.rbf_gram(*(t.double() for t in pair), bandwidth=sigma.double())
        eager = reference.rbf_gram(*pair, bandwidth=sigma)
        got = backend.rbf_gram(*pair, bandwidth=sigma)
        assert_accurate(got, eager, exact, terms=d, magnitude=torch.ones(()))


@for_each_size
@for_each_dtype
@for_each_backend("rbf_gram")
def test_gram_matrix_of_a_set_is_symmetric_to_the_bit_with_unit_diagonal(
    backend: Backend, dtype: torch.dtype, m: int, n: int, d: int
) -> None:
    x = normal(m, d, dtype=dtype)
    k = backend.rbf_gram(x, bandwidth=bandwidth(x))
    assert torch.equal(k, k.mT)
    assert (k.diagonal() == 1).all()
    assert ((k >= 0) & (k <= 1)).all()


@for_each_dtype
@for_each_backend("rbf_gram")
def test_kernel_values_keep_their_relative_accuracy_down_to_underflow(
    backend: Backend, dtype: torch.dtype
) -> None:
    x = torch.linspace(0, 40, 200, dtype=dtype).unsqueeze(1)
    one = torch.ones((), dtype=dtype)
    k = backend.rbf_gram(x[:1], x, bandwidth=one)[0].double()
    exponent = -x[:, 0].double().square() / 2
    normal_range = exponent > np.log(torch.finfo(dtype).tiny)
    # An error of ε in the exponent is one of |exponent| ε in the value.
    tolerance = rounding(dtype) * (1 - exponent)
    assert ((k / exponent.exp() - 1).abs() <= tolerance)[normal_range].all()
    assert (k[~normal_range] <= torch.finfo(dtype).tiny).all()


@for_each_dtype
@for_each_backend("rbf_gram")
def test_the_exponential_is_accurate_to_two_units_in_the_last_place(
    backend: Backend, dtype: torch.dtype
) -> None:
    # Coordinates of 12 bits, so that squares and exponents are exact and the exponential is all.
    x = torch.arange(3000, dtype=dtype).unsqueeze(1) / 256
    k = backend.rbf_gram(x[:1], x, bandwidth=torch.ones((), dtype=dtype))[0]
    exact = np.exp(-(x[:, 0].numpy().astype(np.longdouble) ** 2) / 2)
    error = np.abs(k.numpy().astype(np.longdouble) / exact - 1)
    assert error.max() <= 2 * torch.finfo(dtype).eps


@pytest.mark.parametrize("scale", [2.0**100, 2.0**-100])
@for_each_dtype
@for_each_backend("rbf_gram", "rbf_gradient_sum", "rbf_product")
def test_kernels_do_not_depend_on_the_unit_of_length(
    backend: Backend, dtype: torch.dtype, scale: float
) -> None:
    x, w = normal(33, 5, dtype=dtype), normal(33, 2, dtype=dtype, seed=1)
    sigma = bandwidth(x)
    k = backend.rbf_gram(x, bandwidth=sigma)
    assert torch.equal(backend.rbf_gram(x * scale, bandwidth=sigma * scale), k)
    h = backend.rbf_gradient_sum(x, bandwidth=sigma)
    assert torch.equal(backend.rbf_gradient_sum(x * scale, bandwidth=sigma * scale), h / scale)
    product = backend.rbf_product(x, x, w, bandwidth=sigma)
    scaled = backend.rbf_product(x * scale, x * scale, w, bandwidth=sigma * scale)
    assert torch.equal(scaled, product)


# --- rbf_gradient_sum -----------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0.0, 1e4])
@for_each_size
@for_each_dtype
@for_each_backend("rbf_gradient_sum")
def test_gradient_sum_matches_the_reference(
    backend: Backend, dtype: torch.dtype, m: int, n: int, d: int, offset: float
) -> None:
    x = normal(m, d, dtype=dtype) + offset
    sigma = bandwidth(x)
    exact = reference.rbf_gradient_sum(x.double(), bandwidth=sigma.double())
    eager = reference.rbf_gradient_sum(x, bandwidth=sigma)
    # The two products of −(K X − diag(K 1) X) / σ² are what is rounded, with the samples centred.
    k = reference.rbf_gram(x.double(), bandwidth=sigma.double())
    centred = (x.double() - x.double().mean(0)).abs()
    magnitude = (k @ centred + k.sum(1, keepdim=True) * centred) / sigma.double() ** 2
    got = backend.rbf_gradient_sum(x, bandwidth=sigma)
    assert_accurate(got, eager, exact, terms=m + d, magnitude=magnitude)


# --- rbf_product ----------------------------------------------------------------------------------


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


@for_each_backend("squared_distances", "rbf_gram")
def test_matrices_of_no_points_are_empty(backend: Backend) -> None:
    x, none = normal(4, 3), normal(0, 3)
    one = torch.ones((), dtype=x.dtype)
    assert backend.squared_distances(none).shape == (0, 0)
    assert backend.squared_distances(x, none).shape == (4, 0)
    assert backend.rbf_gram(none, x, bandwidth=one).shape == (0, 4)
    assert backend.rbf_gram(none, bandwidth=one).shape == (0, 0)


# --- eigh -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gram", "indefinite", "identity", "rank one"])
@pytest.mark.parametrize("m", [1, 2, 31, 33, 65, 130])
@for_each_dtype
@for_each_backend("eigh")
def test_eigendecomposition_is_as_good_as_torchs(
    backend: Backend, dtype: torch.dtype, m: int, kind: str
) -> None:
    x = normal(m, 4, dtype=dtype)
    g = normal(m, m, dtype=dtype, seed=1)
    matrices = {
        "gram": reference.rbf_gram(x, bandwidth=bandwidth(x)),
        "indefinite": g + g.mT,
        "identity": torch.eye(m, dtype=dtype),
        "rank one": x[:, :1] @ x[:, :1].mT,
    }
    k = matrices[kind]
    values, vectors = backend.eigh(k)
    torch_values, torch_vectors = torch.linalg.eigh(k)
    norm = torch.linalg.matrix_norm(k.double(), 2)
    assert (values.diff() >= 0).all()
    # Weyl: eigenvalues move by no more than the norm of the rounding errors of the matrix.
    exact = torch.linalg.eigvalsh(k.double())
    assert_accurate(values, torch_values, exact, terms=m, magnitude=norm)

    def residual(values: Tensor, vectors: Tensor) -> Tensor:
        return (vectors * values.unsqueeze(-2)) @ vectors.mT - k

    def overlap(vectors: Tensor) -> Tensor:
        return vectors.mT @ vectors - torch.eye(m, dtype=dtype)

    zero = torch.zeros(m, m, dtype=torch.float64)
    rebuilt = residual(values, vectors), residual(torch_values, torch_vectors)
    assert_accurate(*rebuilt, zero, terms=m, magnitude=norm)
    unit = torch.ones(())
    assert_accurate(overlap(vectors), overlap(torch_vectors), zero, terms=m, magnitude=unit)


@for_each_dtype
@for_each_backend("eigh")
def test_eigendecomposition_reads_the_lower_triangle_alone(
    backend: Backend, dtype: torch.dtype
) -> None:
    x = normal(40, 4, dtype=dtype)
    k = reference.rbf_gram(x, bandwidth=bandwidth(x))
    spoiled = k.tril() + 100 * normal(40, 40, dtype=dtype).triu(1)
    assert same_bits(backend.eigh(spoiled), backend.eigh(k))


# --- ssge -----------------------------------------------------------------------------------------

# Enough dimensions for the spectrum to stay above rounding, or few kept of a spectrum that decays.
SSGE_CALLS = [
    {"threshold": 0.5},
    {"threshold": 0.9},
    {"threshold": 0.99},
    {"threshold": 0.99, "power": 2},
    {"threshold": 0.9, "quantile": 0.2, "multiplier": 3.0},
    {"rank": 1},
    {"rank": 2, "power": 2},
]


SSGE_SIZES = [
    (m, d, options)
    for m, d in [(2, 3), (31, 1), (33, 16), (64, 3), (65, 17), (97, 300), (130, 3), (257, 16)]
    # All options where a call is cheap, also in the emulator, and two of them at the larger sizes.
    for options in (SSGE_CALLS if m < 64 else SSGE_CALLS[3:5])
]


@pytest.mark.parametrize(("m", "d", "options"), SSGE_SIZES, ids=str)
@for_each_dtype
@for_each_backend("ssge")
def test_ssge_matches_the_reference(
    backend: Backend, dtype: torch.dtype, m: int, d: int, options: dict[str, Any]
) -> None:
    x = normal(m, d, dtype=dtype)
    out, values, sigma, rank = backend.ssge(x, **options)
    exact_sigma = options.get("multiplier", 1.0) * reference.distance_quantile(
        x.double(), options.get("quantile", 0.5)
    )
    assert abs(sigma.double() - exact_sigma) <= rounding(dtype, d) * exact_sigma
    k = reference.rbf_gram(x.double(), bandwidth=sigma.double())
    exact_values = torch.linalg.eigvalsh(k)
    eager = torch.linalg.eigvalsh(reference.rbf_gram(x, bandwidth=sigma))
    assert_accurate(values, eager, exact_values, terms=m + d, magnitude=exact_values[-1])
    assert_ssge_accurate(out, x, sigma, int(rank), options.get("power", 1))


@pytest.mark.parametrize("threshold", [1e-6, 0.5, 0.9, 0.99, 1.0])
@pytest.mark.parametrize(("m", "d"), [(2, 3), (64, 3), (65, 17), (97, 300)])
@for_each_dtype
@for_each_backend("ssge")
def test_ssge_keeps_the_fewest_eigenvalues_that_reach_the_threshold(
    backend: Backend, dtype: torch.dtype, m: int, d: int, threshold: float
) -> None:
    _, values, _, rank = backend.ssge(normal(m, d, dtype=dtype), threshold=threshold)
    descending = values.double().flip(0)
    share = descending.cumsum(0) / m  # trace(K) = m
    above_rounding = int((descending > m * torch.finfo(dtype).eps * descending[0]).sum())
    reached = int((share < threshold).sum()) + 1
    assert rank == max(1, min(reached, above_rounding))


@for_each_dtype
@for_each_backend("ssge")
def test_ssge_keeps_the_whole_spectrum_where_asked_and_where_it_is_above_rounding(
    backend: Backend, dtype: torch.dtype
) -> None:
    x = normal(65, 300, dtype=dtype)
    for options in ({"rank": 65}, {"threshold": 1.0}):
        for power in (1, 2):
            out, _, sigma, rank = backend.ssge(x, power=power, **options)
            if "rank" in options:
                assert rank == 65
            assert_ssge_accurate(out, x, sigma, int(rank), power)


@for_each_dtype
@for_each_backend("ssge")
def test_ssge_drops_eigenvalues_that_are_rounding_error(
    backend: Backend, dtype: torch.dtype
) -> None:
    x = normal(128, 1, dtype=dtype)
    out, values, _, rank = backend.ssge(x, rank=128)
    kept = values[128 - int(rank) :]
    assert rank < 128
    assert (kept > 128 * torch.finfo(dtype).eps * values[-1]).all()
    assert out.isfinite().all()


@for_each_dtype
@for_each_backend("ssge")
def test_ssge_uses_and_returns_the_given_bandwidth(backend: Backend, dtype: torch.dtype) -> None:
    x = normal(3, 33, 5, dtype=dtype)
    given = torch.tensor([0.5, 2.0, 7.0], dtype=dtype)
    out, _, sigma, rank = backend.ssge(x, given, threshold=0.9)
    assert torch.equal(sigma, given)
    assert sigma.data_ptr() != given.data_ptr()
    for g in range(3):
        assert_ssge_accurate(out[g], x[g], given[g], int(rank[g]), 1)


@pytest.mark.parametrize("exponent", [-100, -1, 1, 100])
@for_each_dtype
@for_each_backend("ssge")
def test_ssge_scales_with_the_samples_to_the_bit_for_powers_of_two(
    backend: Backend, dtype: torch.dtype, exponent: int
) -> None:
    x, a = normal(65, 5, dtype=dtype), 2.0**exponent
    out, values, sigma, rank = backend.ssge(x)
    scaled = backend.ssge(x * a)
    assert same_bits(scaled, (out / a, values, sigma * a, rank))


@pytest.mark.parametrize("scale", [1e30, 1e-30])
@for_each_dtype
@for_each_backend("ssge")
def test_ssge_is_accurate_at_extreme_scales(
    backend: Backend, dtype: torch.dtype, scale: float
) -> None:
    x = (normal(65, 5) * scale).to(dtype)
    out, _, sigma, rank = backend.ssge(x, threshold=0.9)
    # The reference cannot square such numbers in float32: back to unit scale by a power of two.
    unit = 2.0 ** -round(np.log2(scale))
    assert_ssge_accurate(out / unit, x * unit, sigma * unit, int(rank), 1)


@for_each_backend("ssge")
def test_ssge_of_equal_samples_is_zero_with_rank_zero(backend: Backend) -> None:
    x = torch.cat([normal(1, 1, 5).expand(1, 9, 5), normal(1, 9, 5)])
    out, values, sigma, rank = backend.ssge(x)
    assert not out[0].any()
    assert not values[0].any()
    assert sigma[0] == 0 and rank[0] == 0
    assert out[1].any() and rank[1] > 0


@for_each_dtype
@for_each_backend("ssge")
def test_ssge_is_not_disturbed_by_an_offset(backend: Backend, dtype: torch.dtype) -> None:
    x = (1e4 + normal(65, 5)).to(dtype)
    out, _, sigma, rank = backend.ssge(x, threshold=0.9)
    assert_ssge_accurate(out, x, sigma, int(rank), 1)


# --- what every operator promises -----------------------------------------------------------------


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
    """A lazy negation: the memory holds −t."""
    view = torch.complex(torch.zeros_like(t), -t).conj().imag
    assert view.is_neg()
    return view


def embedded(t: Tensor) -> Tensor:
    """A view into a larger tensor of NaN, every other element, not from the start."""
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
@for_each_case_and_backend
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


@for_each_case_and_backend
def test_operators_leave_their_inputs_alone(backend: Backend, case: Case) -> None:
    args, kwargs = case.make(m=65)
    copies = map_tensors(torch.clone, (args, kwargs))
    case.run(backend, *args, **kwargs)
    equal: list[bool] = []
    for given, copy in zip(args, copies[0], strict=True):
        equal.append(not isinstance(given, Tensor) or torch.equal(given, copy))
    equal += [torch.equal(v, copies[1][k]) for k, v in kwargs.items() if isinstance(v, Tensor)]
    assert all(equal)


# --- torch.library --------------------------------------------------------------------------------

_RAW_ARGUMENTS: dict[str, Callable[[Any, Any], tuple[Any, ...]]] = {
    "squared_distances": lambda a, k: (*a, None)[:2],
    "distance_quantile": lambda a, k: (*a, k["quantile"]),
    "rbf_gram": lambda a, k: (*(*a, None)[:2], k["bandwidth"]),
    "rbf_gradient_sum": lambda a, k: (*a, k["bandwidth"]),
    "rbf_product": lambda a, k: (*a, k["bandwidth"]),
    "eigh": lambda a, k: a,
    "ssge": lambda a, k: (*(*a, None)[:2], 0.5, 1.0, 0.9, k.get("rank", 0), k.get("power", 1)),
    "ridge_whitening": lambda a, k: (*a, k["factor"]),
    "adaptive_score": lambda a, k: a,
}
DIFFERENTIABLE = ("squared_distances", "rbf_gram")


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


# --- derivatives ----------------------------------------------------------------------------------


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
def test_differentiating_the_others_says_that_they_have_no_derivative(case: Case) -> None:
    args, kwargs = map_tensors(lambda t: t.requires_grad_(), case.make(m=8))
    result = case.run(Backend(), *args, **kwargs)[0]
    message = rf"mige_ext\.ops\.{case.operator} has no derivative: detach its inputs"
    with pytest.raises(NotImplementedError, match=message):
        result.sum().backward()


def test_every_operator_has_a_case_and_a_reference() -> None:
    assert {case.operator for case in CASES.values()} == set(OPERATORS)
    assert all(hasattr(reference, name) and hasattr(ops, name) for name in OPERATORS)
    assert set(DTYPES) == {torch.float32, torch.float64}


# --- the C++ door, past the Python checks ---------------------------------------------------------

_X = torch.zeros(4, 3)
_ONE = torch.ones(())
RAW_MISTAKES: dict[str, tuple[str, tuple[Any, ...], str]] = {
    "rank": ("squared_distances", (_X[0], None), r"x must have shape \(\.\.\., M, d\).*got \(3,\)"),
    "dtype": ("rbf_gram", (_X.half(), None, _ONE.half()), r"x must be float32 or float64"),
    "dtype of y": ("squared_distances", (_X, _X.double()), r"y must have the dtype.* of x"),
    "columns": ("squared_distances", (_X, _X[:, :2]),
                r"y must have as many columns as x, got \(4, 2\) and \(4, 3\)"),
    "batch": ("rbf_gram", (_X, None, torch.ones(2)),
              r"bandwidth must have the leading dimensions of x, got \(2,\) and \(4, 3\)"),
    "one sample": ("distance_quantile", (_X[:1], 0.5), r"x must have .* M >= 2.*got \(1, 3\)"),
    "quantile": ("distance_quantile", (_X, 0.0), r"quantile must lie in \(0, 1\], got 0"),
    "bandwidth": ("rbf_gradient_sum", (_X, -_ONE), r"bandwidth must be positive.*got -1"),
    "rows of w": ("rbf_product", (_X, _X, _X[:2], _ONE),
                  r"w must have as many rows as x, got \(2, 3\) and \(4, 3\)"),
    "square": ("eigh", (_X,), r"k must have shape \(\.\.\., M, M\), got \(4, 3\)"),
    "threshold": ("ssge", (_X, None, 0.5, 1.0, 0.0, 0, 1), r"threshold must lie in \(0, 1\], got"),
    "multiplier": ("ssge", (normal(4, 3), None, 0.5, -1.0, 0.9, 0, 1), r"multiplier must .*got -1"),
    "J": ("ssge", (_X, None, 0.5, 1.0, 0.9, 5, 1), r"rank must lie in .*got 5 with M = 4"),
    "power": ("ssge", (_X, None, 0.5, 1.0, 0.9, 0, 3), r"power must be 1 or 2, got 3"),
    "factor": ("ridge_whitening", (_X, 0.0), r"factor must be positive and finite, got 0"),
    "one row": ("adaptive_score", (_X[:1],), r"x must have .* M >= 2.*got \(1, 3\)"),
    "nan": ("squared_distances", (_X + torch.nan, None), r"x must be finite, got nan in row 0"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", RAW_MISTAKES)
def test_the_compiled_operators_check_for_themselves(mistake: str) -> None:
    name, args, message = RAW_MISTAKES[mistake]
    with pytest.raises(RuntimeError, match=message):
        getattr(torch.ops.mige_ext, name)(*args)


# --- instruction sets -----------------------------------------------------------------------------


@pytest.mark.skipif("MIGE_CPU_LEVEL" in os.environ, reason="already one instruction set's run")
@pytest.mark.parametrize("level", [level for level in (1, 3) if level < _C.cpu_level])
def test_kernels_for_older_processors_pass_the_same_tests(level: int) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "pytest", __file__, "-q", "-x", "-p", "no:cacheprovider",
         "-k", "(reference or diagonal or cancel or last_place or every_rank) and not ssge"],
        capture_output=True, text=True, cwd=ROOT, env=environment(MIGE_CPU_LEVEL=str(level)),
    )  # fmt: skip
    assert result.returncode == 0, result.stdout[-3000:]
