"""The Spectral Stein Gradient Estimator as one operator."""

from typing import Any

import numpy as np
import pytest
import torch

from mige_ext import reference
from tests.support.accuracy import assert_accurate, assert_ssge_accurate, rounding, same_bits
from tests.support.backends import Backend, for_each_backend
from tests.support.inputs import for_each_dtype, normal

# With many dimensions the spectrum stays above rounding errors. With few, it decays, and few
# eigenvalues are kept.
SSGE_CALLS = [
    {"threshold": 0.5},
    {"threshold": 0.9},
    {"threshold": 0.99},
    {"threshold": 0.99, "power": 2},
    {"threshold": 0.9, "quantile": 0.2, "multiplier": 3.0},
    {"rank": 1},
    {"rank": 2, "power": 2},
]


# Small sizes have all options, because calls are cheap. Larger sizes have two of them.
SSGE_SIZES = [
    *((m, d, options) for m, d in [(2, 3), (31, 1), (33, 16)] for options in SSGE_CALLS),
    *((m, d, options) for m, d in [(64, 3), (65, 17), (97, 300)]
      for options in SSGE_CALLS[3:5]),
    *(pytest.param(m, d, options, marks=pytest.mark.thorough)
      for m, d in [(130, 3), (257, 16)] for options in SSGE_CALLS[3:5]),
]  # fmt: skip


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
    fraction = descending.cumsum(0) / m  # trace(K) = m
    above_rounding = int((descending > m * torch.finfo(dtype).eps * descending[0]).sum())
    reached = int((fraction < threshold).sum()) + 1
    assert rank == max(1, min(reached, above_rounding))


@for_each_dtype
@for_each_backend("ssge")
def test_ssge_keeps_the_whole_spectrum_above_rounding_on_request(
    backend: Backend, dtype: torch.dtype
) -> None:
    x = normal(33, 300, dtype=dtype)
    for options in ({"rank": 33}, {"threshold": 1.0}):
        for power in (1, 2):
            out, _, sigma, rank = backend.ssge(x, power=power, **options)
            if "rank" in options:
                assert rank == 33
            assert_ssge_accurate(out, x, sigma, int(rank), power)


@for_each_dtype
@for_each_backend("ssge")
def test_ssge_drops_eigenvalues_that_are_rounding_error(
    backend: Backend, dtype: torch.dtype
) -> None:
    x = normal(64, 1, dtype=dtype)
    out, values, _, rank = backend.ssge(x, rank=64)
    kept = values[64 - int(rank) :]
    assert rank < 64
    assert (kept > 64 * torch.finfo(dtype).eps * values[-1]).all()
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
    x, a = normal(33, 5, dtype=dtype), 2.0**exponent
    out, values, sigma, rank = backend.ssge(x)
    scaled = backend.ssge(x * a)
    assert same_bits(scaled, (out / a, values, sigma * a, rank))


@pytest.mark.parametrize("scale", [1e30, 1e-30])
@for_each_dtype
@for_each_backend("ssge")
def test_ssge_is_accurate_at_extreme_scales(
    backend: Backend, dtype: torch.dtype, scale: float
) -> None:
    x = (normal(33, 5) * scale).to(dtype)
    out, _, sigma, rank = backend.ssge(x, threshold=0.9)
    # The reference cannot square such numbers in float32, so a power of two scales them to about 1.
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
    x = (1e4 + normal(33, 5)).to(dtype)
    out, _, sigma, rank = backend.ssge(x, threshold=0.9)
    assert_ssge_accurate(out, x, sigma, int(rank), 1)


@for_each_backend("ssge")
@pytest.mark.parametrize("multiplier", [1e3, 1e4, 1e5])
def test_a_bandwidth_far_above_the_distances_keeps_the_score(
    backend: Backend, multiplier: float
) -> None:
    x = normal(30, 3)
    scores, _, _, j = backend.ssge(x, multiplier=multiplier, rank=4)
    exact = reference.ssge(x, multiplier=multiplier, rank=4)[0]
    assert int(j) == 4 and exact.abs().max() > 1
    assert (scores - exact).abs().max() <= 1e-4 * exact.abs().max()
