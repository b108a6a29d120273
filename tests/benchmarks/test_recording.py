"""The benchmark of recordings."""

import pytest
import torch

from benchmarks.recording import measure, median_ratio


def test_each_pair_has_two_positive_times() -> None:
    plain, recorded = measure(None, 8, 2, 4)
    assert plain.shape == recorded.shape == (4,)
    assert (plain > 0).all() and (recorded > 0).all()


def test_the_interval_contains_the_median() -> None:
    median, low, high = median_ratio(torch.linspace(0, 1, 201, dtype=torch.float64))
    assert median == pytest.approx(0.5)
    assert 0.35 < low < median < high < 0.65
