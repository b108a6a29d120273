"""The benchmark of the Student start."""

from functools import partial

import pytest
import torch
from typer.testing import CliRunner

from benchmarks import student
from benchmarks.__main__ import app
from benchmarks.student import gaussian, heavy_tailed, measure


def test_both_times_are_positive_and_only_heavy_tails_get_a_finite_nu() -> None:
    for draw, expected in ((gaussian, 0), (partial(heavy_tailed, 3.0), 2)):
        plain, started, finite = measure(draw, 256, 20, 2)
        assert plain > 0 and started > 0
        assert finite == expected


def test_samples_with_heavy_tails_have_large_outliers() -> None:
    torch.manual_seed(0)
    assert heavy_tailed(3.0, 4096, 2).abs().max() > 2 * gaussian(4096, 2).abs().max()


@pytest.mark.parametrize(("bound", "status", "result"), [(1e9, 0, "ok"), (0.0, 1, "MISSED")])
def test_the_command_prints_a_table_and_compares_with_the_bound(
    bound: float, status: int, result: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(student, "SIZES", ((16, 2),))
    monkeypatch.setattr(student, "RATIO", bound)
    ran = CliRunner().invoke(app, ["student", "--sets", "1"])
    assert ran.exit_code == status, ran.output
    assert "Student's t, ν = 3" in ran.stdout and result in ran.stdout
