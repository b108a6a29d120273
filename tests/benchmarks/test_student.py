"""The benchmark of the Student start."""

from functools import partial

import torch

from benchmarks.student import gaussian, heavy_tailed, measure


def test_both_times_are_positive_and_only_heavy_tails_get_a_finite_nu() -> None:
    for draw, expected in ((gaussian, 0), (partial(heavy_tailed, 3.0), 2)):
        plain, started, finite = measure(draw, 256, 20, 2)
        assert plain > 0 and started > 0
        assert finite == expected


def test_samples_with_heavy_tails_have_large_outliers() -> None:
    torch.manual_seed(0)
    assert heavy_tailed(3.0, 4096, 2).abs().max() > 2 * gaussian(4096, 2).abs().max()
