"""The toy as a command: table, numbers, figure, stop and resume."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from matplotlib.image import imread
from typer.testing import CliRunner

from mige_ext.experiments.toy import command as module
from mige_ext.experiments.toy.command import LABELS
from mige_ext.experiments.toy.methods import (
    METHODS,
    QUICK,
    relative_rmse,
    run_bound,
)

app = typer.Typer()
app.command()(module.toy)


def run(out: Path, *options: str, exit_code: int = 0) -> str:
    tiny = ["--quick", "--steps", "2", "--samples", "16", "--dims", "2", "--out", str(out)]
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, [*tiny, *options])
    assert result.exit_code == exit_code, result.output
    return result.output


def read(out: Path) -> list[dict[str, str]]:
    with (out / "toy.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_command_writes_table_numbers_and_figure(tmp_path: Path) -> None:
    output = run(tmp_path, "--dims", "2,3")
    assert "small version" in output
    table = output[output.index("relative RMSE of dI/dρ") :].splitlines()
    assert table[0].split()[-6:] == ["d", "=", "2", "d", "=", "3"]
    for line, label in zip(table[1 : 1 + len(METHODS)], LABELS.values(), strict=True):
        assert line.startswith(f"{label} ")
        assert line.count("±") == 2

    rows = read(tmp_path)
    assert list(rows[0]) == ["dim", "rho", "seed", "method", "mi", "mi_true", "dmi", "dmi_true"]
    assert len(rows) == 2 * len(METHODS) * 2 * QUICK.points
    for row in rows:
        rho, dim = float(row["rho"]), int(row["dim"])
        assert float(row["dmi_true"]) == pytest.approx(dim * rho / (1 - rho**2))
        assert np.isfinite([float(row["mi"]), float(row["dmi"])]).all()

    assert json.loads((tmp_path / "config.json").read_text())["settings"]["steps"] == 2
    image = imread(tmp_path / "toy.png")
    assert min(image.shape[:2]) > 500
    assert np.ptp(image[..., :3]) > 0.9
    assert (tmp_path / "toy.pdf").read_bytes().startswith(b"%PDF")


def test_printed_error_is_that_of_the_numbers(tmp_path: Path) -> None:
    label = LABELS["MIGE"]
    line = next(line for line in run(tmp_path).splitlines() if line.startswith(label))
    rows = [row for row in read(tmp_path) if row["method"] == "MIGE"]
    dmi, truth = (
        np.array([float(row[name]) for row in rows]).reshape(2, QUICK.points)
        for name in ("dmi", "dmi_true")
    )
    errors = relative_rmse(dmi, truth)
    assert line.removeprefix(label).split() == [
        f"{errors.mean():.3f}".lstrip("0"),
        "±",
        f"{np.ptp(errors) / 2:.3f}".lstrip("0"),
    ]


@pytest.mark.thorough
def test_resume_runs_only_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path)
    before = read(tmp_path)
    called: list[tuple[str, int]] = []
    original = run_bound

    def spy(method: str, dim: int, *rest: Any) -> Any:
        called.append((method, dim))
        return original(method, dim, *rest)

    monkeypatch.setattr(module, "run_bound", spy)
    run(tmp_path, "--resume", "--dims", "2,3")
    assert called == [("MINE", 3), ("MINE-f", 3)]
    after = read(tmp_path)
    assert after[: len(before)] == before
    assert len(after) == 2 * len(before)


def test_a_finished_folder_says_that_nothing_was_computed(tmp_path: Path) -> None:
    run(tmp_path)
    output = run(tmp_path, "--resume")
    assert f"Nothing was computed, because {tmp_path} has every result." in output
    assert "0step" not in output
    assert f"see {tmp_path}. Next: python -m mige_ext toy" in output


def test_six_dimensions_fit_into_a_terminal(tmp_path: Path) -> None:
    rows = [
        module.Estimate(dim, rho, seed, method, 0.0, 1.0, 0.1 * seed, 1.0)
        for dim in (5, 8, 10, 16, 20, 32)
        for method in METHODS
        for seed in range(2)
        for rho in (0.1, 0.2)
    ]
    assert max(map(len, module.format_table(rows).splitlines())) <= 100


@pytest.mark.thorough
def test_stopped_run_keeps_what_is_finished_and_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = run_bound

    def stop(method: str, dim: int, *rest: Any) -> Any:
        if method == "MINE-f":
            raise KeyboardInterrupt
        return original(method, dim, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(module, "run_bound", stop)
        assert "--resume" in run(tmp_path, exit_code=130)
    assert {row["method"] for row in read(tmp_path)} == set(METHODS) - {"MINE-f"}
    run(tmp_path, "--resume")
    whole = tmp_path / "at-once"
    run(whole)
    assert read(tmp_path) == read(whole)


def test_folder_with_results_is_neither_overwritten_nor_mixed(tmp_path: Path) -> None:
    run(tmp_path)
    before = (tmp_path / "toy.csv").read_bytes()
    assert "--resume" in run(tmp_path, exit_code=2)
    assert "steps is 3 now and was 2" in run(tmp_path, "--resume", "--steps", "3", exit_code=2)
    assert (tmp_path / "toy.csv").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dims", "5,0"], "--dims must be positive numbers like 5,10,20, got '5,0'"),
        (["--dims", "five"], "got 'five'"),
        (["--dims", ""], "got ''"),
        (["--threshold", "1.5"], "threshold must lie in (0, 1], got 1.5"),
        (["--authors"], "--authors and --quick exclude each other"),
        (["--samples", "1"], "--samples"),
    ],
)
def test_command_rejects_bad_options_before_it_writes(
    options: list[str], message: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert message in run(out, *options, exit_code=2)
    assert not out.exists()
