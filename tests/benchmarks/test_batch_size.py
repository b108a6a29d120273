"""The benchmark of batch sizes."""

import pytest
import torch

from benchmarks import batch_size
from benchmarks.batch_size import estimate, quality


def test_more_samples_give_a_better_gradient() -> None:
    few, many = quality(8, 2, 24, 8), quality(8, 2, 200, 8)
    assert few.cosine < many.cosine < 1.01
    assert few.length < many.length < 1.1
    assert few.calibration < many.calibration < 1.01


def test_the_exact_gradient_is_the_limit() -> None:
    a = torch.tensor([[1.0, 0.5]])
    exact = a / (a.square().sum() + 0.25)
    gradient, _ = estimate(a, 1000, seed=0)
    assert (gradient - exact).norm() < 0.1 * exact.norm()


def test_the_table_has_a_row_for_each_pair(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_size, "COLUMNS", ((1, 1), (20, 8)))
    monkeypatch.setattr(batch_size, "SIZES", (16, 32))
    batch_size.batch_size(sets=2)
    printed = capsys.readouterr().out
    assert "1 + 1" in printed and "20 + 8" in printed
