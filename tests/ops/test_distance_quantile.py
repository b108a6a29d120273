"""Quantiles of the distances, such as the median."""

import numpy as np
import pytest
import torch
from torch import Tensor

from mige_ext import reference
from tests.support.accuracy import rounding
from tests.support.backends import Backend, for_each_backend
from tests.support.inputs import for_each_dtype, normal


def expected_quantile(backend: Backend, x: Tensor, quantile: float) -> Tensor:
    """NumPy's quantile of the pairwise distances, or of the positive distances if it is 0."""
    i, j = torch.triu_indices(x.shape[0], x.shape[0], 1)
    squares = backend.squared_distances(x)[i, j].numpy()
    value = np.quantile(squares, quantile, method="inverted_cdf")
    if value == 0 and squares.any():
        value = np.quantile(squares[squares > 0], quantile, method="inverted_cdf")
    return torch.tensor(np.sqrt(np.float64(value)), dtype=x.dtype)


def point_sets(dtype: torch.dtype) -> dict[str, Tensor]:
    """Point sets that are difficult for a selection."""
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
    if dtype == torch.float64 or points not in ("large", "small"):  # squares in range
        assert torch.equal(got, expected_quantile(backend, x, quantile))
    exact = reference.distance_quantile(x.double(), quantile)
    assert abs(got.double() - exact) <= rounding(dtype, x.shape[1]) * exact


@pytest.mark.parametrize("m", [2, 31, 33, 64, 97, 130])
@for_each_backend("distance_quantile", "squared_distances")
def test_distance_quantiles_of_all_ranks_are_the_sorted_distances(backend: Backend, m: int) -> None:
    x = normal(m, 2)
    i, j = torch.triu_indices(m, m, 1)
    # NumPy's root is correctly rounded; torch's vectorized one need not be.
    ascending = np.sqrt(backend.squared_distances(x)[i, j].sort().values.numpy())
    pairs = len(ascending)
    for rank in range(1, pairs + 1, max(1, pairs // 20)):
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
