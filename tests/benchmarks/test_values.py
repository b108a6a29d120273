"""The benchmark of values: exact values, other estimators, bounds, and the command."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from benchmarks.__main__ import app
from benchmarks.values import tasks
from benchmarks.values.estimators import ESTIMATORS, VALUES, critic, ksg
from benchmarks.values.report import Row, bounds_of, errors
from benchmarks.values.samples import key
from mige_ext.values.neighbors import neighbor_information

# --- exact values ---------------------------------------------------------------------------------


def test_information_on_a_grid_is_that_of_a_gaussian_channel() -> None:
    z = np.linspace(-12, 12, 4001)
    conditional = tasks._normal(z, 0.8 * tasks._GRID, 0.6)
    found = tasks._grid_information(conditional, z)
    assert found == pytest.approx(-math.log(0.36) / 2, rel=1e-6)


def test_copies_of_a_channel_add_up() -> None:
    truth = {task.name: task.truth for task in tasks.own()}
    assert truth["square-4-4"] == pytest.approx(4 * truth["square-1-1"])
    assert truth["sign-3-3"] == pytest.approx(3 * truth["sign-1-1"])
    assert all(0 < value < 5 for value in truth.values())


def test_information_of_the_scale_mixture_by_its_entropies() -> None:
    """x and z have only the radius in common, so log ‖x‖ and log ‖z‖ have all information."""
    x, z = tasks._scale_mixture(4000, 1, 2)
    a, b = (torch.from_numpy(np.linalg.norm(v, axis=1, keepdims=True)).log() for v in (x, z))
    (truth,) = (task.truth for task in tasks.own() if task.name == "laplace-2-2")
    assert abs(float(neighbor_information(a, b).value) - truth) < 0.05


def test_samples_depend_on_the_seed_only() -> None:
    for task in tasks.own():
        x, z = task.sample(50, 3)
        again, other = task.sample(50, 3), task.sample(50, 4)
        assert len(x) == len(z) == 50
        assert (x == again[0]).all() and (z == again[1]).all()
        assert (x != other[0]).any()


def test_tasks_of_a_file(tmp_path: Path) -> None:
    arrays = {}
    for name in ("a", "b"):
        arrays[f"{name}|truth"] = np.array(0.5)
        for variable in "xz":
            arrays[key(name, 9, 0, variable)] = np.arange(9.0).reshape(9, 1)
    np.savez(tmp_path / "samples.npz", allow_pickle=False, **arrays)
    first, second = tasks.of_package(tmp_path / "samples.npz")
    assert (first.name, first.source, first.truth) == ("a", "even", 0.5)
    assert (second.name, second.source) == ("b", "odd")
    assert second.sample(9, 0)[1].shape == (9, 1)


# --- other estimators -----------------------------------------------------------------------------


def test_ksg_is_the_estimate_of_the_library() -> None:
    x, z = tasks.gaussian("own", 2, 0.7).sample(200, 0)
    a, b = (torch.from_numpy((v - v.mean(0)) / v.std(0)) for v in (x, z))
    expected = float(neighbor_information(a, b, k=10).value)
    assert ksg(x, z, 0).value == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("bound", ["MINE", "InfoNCE"])
def test_critics_find_information_and_stop(bound: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.values.estimators._STEPS", 300)
    x, z = tasks.gaussian("own", 1, 0.9).sample(400, 0)
    found = critic(bound, x, z, 0)
    assert 0.4 < found.value < 1.1 and found.detail.endswith(" steps")


# --- report ---------------------------------------------------------------------------------------


def rows(error: float, source: str, count: int, samples: int = 1000) -> list[Row]:
    return [
        Row(source, f"t{i}", 1.0, samples, 0, VALUES, 1 + error, 0.1, "kernel")
        for i in range(count)
    ]


def test_bounds_need_all_tasks() -> None:
    assert bounds_of(rows(0.05, "even", 39)).rows == []
    assert bounds_of(rows(0.05, "even", 40)).report() == []
    assert len(bounds_of(rows(0.2, "odd", 40)).report()) == 2
    assert len(bounds_of(rows(0.2, "odd", 40, samples=256)).report()) == 1


def test_bounds_of_coverage_and_of_independent_samples() -> None:
    assert bounds_of(rows(0.19, "copula", 5)).report() == []
    assert len(bounds_of(rows(0.21, "copula", 5)).report()) == 5
    independent = [
        Row("independent", "i", 0.0, 1000, 0, VALUES, value, 0.1, "")
        for value in (0.21, -0.21, 0.23, -0.23)
    ]
    assert [row[3] for row in bounds_of(independent).rows] == ["ok", "ok", "MISSED", "MISSED"]


def test_errors_are_means_over_seeds() -> None:
    both = [*rows(0.2, "own", 2), *rows(-0.4, "own", 1)]
    assert errors(both) == pytest.approx({"t0": 0.3, "t1": 0.2})


def test_the_command_continues_and_says_what_it_skips(tmp_path: Path) -> None:
    call = ["values", "--samples", "60", "--task", "uniform-noise-1-1", "--out", str(tmp_path)]
    call += ["--method", VALUES, "--method", "KSG", "--method", "Gaussian"]
    result = CliRunner().invoke(app, call)
    assert result.exit_code == 0, result.output
    assert "benchmark-mi are skipped" in result.output
    table = (tmp_path / "values.csv").read_text()
    assert table.count("\n") == 4 and (tmp_path / "values.png").exists()
    assert CliRunner().invoke(app, call).exit_code == 0
    assert (tmp_path / "values.csv").read_text() == table


def test_the_command_refuses_unknown_names(tmp_path: Path) -> None:
    for option in ("--task", "--method"):
        result = CliRunner().invoke(app, ["values", option, "nothing", "--out", str(tmp_path)])
        assert result.exit_code == 2 and "there is no nothing" in result.output
    assert set(ESTIMATORS) == {VALUES, "KSG", "Gaussian", "MINE", "InfoNCE"}
