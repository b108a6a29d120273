"""Information removal as a command: choice of β, stop and resume, growing grids."""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from typer.testing import CliRunner

from mige_ext.experiments.common import comparison
from mige_ext.experiments.common.folder import Table
from mige_ext.experiments.common.runs import Run
from mige_ext.experiments.common.training import train
from mige_ext.experiments.removal import command
from mige_ext.experiments.removal import training as removal_training
from mige_ext.experiments.removal.blind import VIB
from mige_ext.experiments.removal.command import Options, Removals, choose_beta, longer, removal
from mige_ext.experiments.removal.erasure import QuadraticErasedModel
from mige_ext.experiments.removal.methods import METHODS
from mige_ext.experiments.removal.models import Model
from mige_ext.experiments.removal.report import Result, draw, score_name
from mige_ext.experiments.removal.training import Epoch, Settings, measure, model_type
from tests.support.process import assert_fits

pytestmark = pytest.mark.usefixtures("one_thread")  # the networks are too small for more threads


def row(method: str, beta: float, accuracy: float, leak: float) -> Result:
    nan = math.nan
    return Result("d", "n", method, beta, 0, accuracy, leak, 0.0, *5 * (nan,), "a", 1.0)


def test_beta_removes_most_within_half_a_point() -> None:
    rows = [
        row("none", 0.0, 0.9, 1.0),
        row("hsic", 1.0, 0.9, 0.5),
        row("hsic", 2.0, 0.896, 0.2),
        row("hsic", 4.0, 0.89, 0.1),
        row("mine", 1.0, 0.8, 0.1),
        row("mine", 2.0, 0.7, 0.0),
    ]
    assert choose_beta(rows, "hsic") == 2.0
    assert choose_beta(rows, "mine") == 1.0  # none is accurate enough: the most accurate
    assert choose_beta(rows, "none") == 0.0


def test_a_blind_choice_is_the_largest_beta_within_half_a_point() -> None:
    rows = [
        row("none", 0.0, 0.9, 1.0),
        row("vib", 1.0, 0.9, 0.1),
        row("vib", 2.0, 0.896, 0.5),
        row("vib", 4.0, 0.89, 0.0),
        row("center", 1.0, 0.7, 0.1),
        row("center", 2.0, 0.8, 0.3),
        row("center", 4.0, 0.6, 0.0),
    ]
    assert choose_beta(rows, "vib") == 1.0
    assert choose_beta(rows, "vib", blind=True) == 2.0
    assert choose_beta(rows, "center", blind=True) == 2.0  # the most accurate


def test_results_name_the_condition_and_its_score(tmp_path: Path) -> None:
    settings = Settings(data="adult", nuisance="sex", given="label")
    runs = Removals(Options(out=tmp_path, seeds=1), replace(settings, data="structural"))
    made = runs.result(Run("none", 0.0, 0), leak_nats=0.1)
    assert made.nuisance == "sex given label"
    assert score_name([made]) == "acc. − chance"
    assert score_name([replace(made, nuisance="age given label")]) == "R²"


OPTIONS = ["--data", "digits", "--method", "mige", "--method", "mine", "--beta", "0.05"]
OPTIONS += [
    "--beta",
    "0.1",
    "--steps",
    "10",
    "--batch",
    "64",
    "--codes",
    "200",
    "--test-codes",
    "300",
    "--seeds",
    "2",
]


def invoke(out: Path, *more: str) -> Any:
    app = typer.Typer()
    app.command()(removal)
    return CliRunner().invoke(app, [*OPTIONS, "--out", str(out), *more])


def read(out: Path, timed: bool = True) -> list[dict[str, str]]:
    with (out / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        milliseconds = row.pop("ms_per_step")
        assert not timed or float(milliseconds) > 0
    return rows


@pytest.mark.thorough
def test_the_command_runs_stops_and_resumes_to_the_same_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removal_training, "EPOCH", 3)
    whole = invoke(tmp_path / "whole")
    assert whole.exit_code == 0, whole.output
    rows = read(tmp_path / "whole")
    assert [(r["method"], r["beta"], r["seed"]) for r in rows[:5]] == [
        ("none", "0.0", "0"),
        *((method, beta, "0") for method in ("mige", "mine") for beta in ("0.05", "0.1")),
    ]
    tested = [r for r in rows if r["accuracy"]]
    assert len(rows) == 5 + 3 and len(tested) == 2 * 3  # the chosen β, 2 seeds
    for figure in ("removal.png", "curves.png"):
        assert (tmp_path / "whole" / figure).stat().st_size > 10_000
    assert "MINE" in whole.output and "leak, nats" in whole.output
    assert_fits(whole.output, tmp_path)

    calls = 0

    def stop_in_the_third(*arguments: Any, on_step: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        seen: list[Any] = []

        def step(scalars: Any) -> None:
            on_step(scalars)
            seen.append(scalars)
            if calls == 3 and len(seen) == 8:  # in its third epoch
                raise KeyboardInterrupt

        return train(*arguments, on_step=step, **options)

    monkeypatch.setattr(comparison, "train", stop_in_the_third)
    stopped = invoke(tmp_path / "parts")
    assert stopped.exit_code == 130
    assert len(read(tmp_path / "parts")) == 2
    assert len(Table(tmp_path / "parts" / "metrics.csv", Epoch).rows) == 4 + 4 + 2
    assert len(list((tmp_path / "parts" / "models").iterdir())) == 3  # the stopped one, too
    assert (tmp_path / "parts" / "removal.png").exists()
    assert (tmp_path / "parts" / "curves.png").exists()
    monkeypatch.setattr(comparison, "train", train)
    resumed = invoke(tmp_path / "parts", "--resume")
    assert resumed.exit_code == 0, resumed.output
    assert read(tmp_path / "parts") == rows
    epochs = [Table(tmp_path / name / "metrics.csv", Epoch).rows for name in ("whole", "parts")]
    assert epochs[0] == epochs[1]
    assert [row.step for row in epochs[0][:4]] == [3, 6, 9, 10]


def test_a_grid_grows_beyond_the_end_that_was_chosen() -> None:
    assert longer([0.1, 0.3, 1.0], 1.0) == [0.1, 0.3, 1.0, 3.33]
    assert longer([0.1, 0.2, 0.4], 0.1) == [0.05, 0.1, 0.2, 0.4]
    assert longer([0.1, 0.2, 0.4], 0.2) == [0.1, 0.2, 0.4]
    assert longer([0.0], 0.0) == [0.0] and longer([0.1], 0.1) == [0.1]
    assert longer([0.0, 1.0, 2.0], 2.0) == [0.0, 1.0, 2.0, 4.0]
    assert longer([0.0, 1.0], 0.0) == longer([0.0, 1.0], 1.0) == [0.0, 1.0]


def test_an_integer_grid_grows_by_integers_within_its_limits() -> None:
    for values, largest, expected in [
        ([1.0, 2.0, 3.0, 4.0], 7, [1.0, 2.0, 3.0, 4.0, 5.0]),
        ([1.0, 2.0, 3.0, 4.0], 4, [1.0, 2.0, 3.0, 4.0]),
        ([2.0, 4.0, 8.0, 16.0], math.inf, [2.0, 4.0, 8.0, 16.0, 32.0]),
        ([9.0, 10.0], math.inf, [9.0, 10.0, 11.0]),
    ]:
        assert longer(values, values[-1], integer=True, largest=largest) == expected
    assert longer([1.0, 2.0], 1.0, integer=True) == [1.0, 2.0]  # 0.5 would be rounded to 0
    assert longer([2.0, 4.0], 2.0, integer=True) == [1.0, 2.0, 4.0]
    assert longer([2.0, 2.5], 2.0, integer=True) == [2.0, 2.5]  # 1.6 is rounded to 2
    assert QuadraticErasedModel.largest_strength(8) == 7
    assert all(model_type(name).integer_strength for name in ("leace-quadratic", "kernel-erasure"))
    assert not any(model_type(name).integer_strength for name in ("mige", "leace", "vib"))


@pytest.mark.thorough
def test_the_command_extends_grids_until_the_choice_is_inside(tmp_path: Path) -> None:
    result = invoke(tmp_path, "--seeds", "1", "--extend", "2")
    assert result.exit_code == 0, result.output
    rows = read(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["extend"] == 2 and config["betas"]["mine"] == [0.05, 0.1]
    for method in ("mige", "mine"):
        of_method = [row for row in rows if row["method"] == method]
        betas = sorted(float(row["beta"]) for row in of_method)
        (chosen,) = (float(row["beta"]) for row in of_method if row["accuracy"])
        assert betas[0] in (0.0125, 0.025, 0.05) and betas[-1] in (0.1, 0.2, 0.4)
        assert len(betas) == 4 or chosen not in (betas[0], betas[-1])


def test_a_run_that_diverges_is_never_chosen(tmp_path: Path) -> None:
    result = invoke(tmp_path, "--seeds", "1", "--beta", "1e42")
    assert result.exit_code == 0, result.output
    assert "MINE β=1e+42 seed 0 diverged; its predictions count as wrong: epoch 1" in result.output
    rows = read(tmp_path, timed=False)
    failed = [row for row in rows if row["beta"] == "1e+42"]
    assert [row["method"] for row in failed] == ["mige", "mine"]
    assert {row[name] for row in failed for name in ("val_accuracy", "accuracy")} == {""}
    chosen = [(row["method"], float(row["accuracy"]) > 0) for row in rows if row["accuracy"]]
    assert chosen == [("none", True), ("mige", True), ("mine", True)]
    assert "1e+42" not in result.output[result.output.index("strongest attacker") :]


def test_a_beta_with_a_diverged_run_is_not_chosen_for_a_small_leak() -> None:
    nan = math.nan
    none, small, large = row("none", 0, 0.9, 1), row("hsic", 1, 0.9, 0.5), row("hsic", 2, 0.9, 0.2)
    failed = replace(row("hsic", 4, nan, nan), ms_per_step=nan)
    assert choose_beta([none, small, large, failed], "hsic") == 2
    assert choose_beta([none, small, large, replace(failed, beta=2.0, seed=1)], "hsic") == 1
    assert choose_beta([none, failed, replace(failed, beta=3.0)], "hsic") == 3
    no_none = replace(none, val_accuracy=nan, ms_per_step=nan)
    assert choose_beta([no_none, small, large, failed], "hsic") == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--nuisance", "color"], "--nuisance must be one of"),
        (["--method", "magic"], "--method must be one of"),
        (["--data", "nowhere"], "mnist, structural, got 'nowhere'"),
        (["--data", "structural", "--nuisance", "rotation"], "--nuisance goes with images"),
        (["--data", "structural", "--data-dir", "/"], "--data-dir goes with images"),
        (["--seeds", "1", "--grid-seeds", "2"], "--grid-seeds must be at most the 1 seeds"),
        (["--data", "adult", "--nuisance", "rotation"], "--nuisance of adult must be one of"),
        (["--method", "kernel-erasure"], "--beta must be an integer for kernel-erasure, got 0.05"),
        (["--resume"], "--resume needs a folder with results"),
        (["--device", "abacus"], "--device must be auto, cpu or cuda, got 'abacus'"),
    ],
)
def test_mistakes_are_named(options: list[str], message: str, tmp_path: Path) -> None:
    result = invoke(tmp_path / "out", *options)
    assert result.exit_code == 2
    assert message in " ".join(result.output.replace("│", " ").split())
    assert not (tmp_path / "out").exists()


def test_a_blind_choice_measures_no_leak_before_the_test(tmp_path: Path) -> None:
    options = ["--data", "digits", "--method", "vib", "--beta", "1e-3", "--beta", "1e4"]
    options += ["--steps", "100", "--seeds", "1", "--codes", "200", "--test-codes", "300"]
    app = typer.Typer()
    app.command()(removal)
    options += ["--choice", "blind", "--out", str(tmp_path)]
    result = CliRunner().invoke(app, options)
    assert result.exit_code == 0, result.output
    assert "the largest within 0.5 points" in result.output
    rows = read(tmp_path)
    assert [row["val_leak_nats"] for row in rows] == 3 * [""]
    tested = [row for row in rows if row["accuracy"]]
    assert [(row["method"], row["beta"]) for row in tested] == [("none", "0.0"), ("vib", "0.001")]
    for row in tested:
        assert 0 <= float(row["shifted_accuracy"]) <= float(row["accuracy"])
        assert row["leak_nats"] and row["attacker"] != "–"


def test_a_figure_of_blind_choices_shows_methods_without_a_beta() -> None:
    rows = [
        row("none", 0.0, 0.9, math.nan),
        row("leace", 0.0, 0.88, math.nan),
        row("center", 1.0, 0.89, math.nan),
        row("center", 1000.0, 0.87, math.nan),
    ]
    left = draw(rows, [], 0.005).axes[0]
    lines = {line.get_label(): line for line in left.get_lines()}
    at = {
        name: left.transData.transform(lines[METHODS[name].label].get_xydata())
        for name in ("none", "leace", "center")
    }
    for points in at.values():
        inside = left.bbox.containsx, left.bbox.containsy
        assert all(holds(of) for point in points for holds, of in zip(inside, point, strict=True))
    assert at["none"][0, 0] == at["leace"][0, 0] < at["center"][0, 0] < at["center"][1, 0]


BLIND = ["--data", "digits", "--method", "vib", "--beta", "1e-3", "--beta", "1e-2"]
BLIND += ["--steps", "10", "--seeds", "1", "--codes", "200", "--test-codes", "300"]
BLIND += ["--choice", "blind"]


def invoke_blind(out: Path, *more: str) -> Any:
    app = typer.Typer()
    app.command()(removal)
    return CliRunner().invoke(app, [*BLIND, "--out", str(out), *more])


def spoil(model: Model) -> None:
    with torch.no_grad():
        next(model.encoder.parameters()).fill_(torch.inf)


def test_a_blind_choice_leaves_out_codes_that_are_not_finite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def finish(self: VIB, problem: Any, settings: Any, seed: int) -> None:
        if self.strength == 1e-2:
            spoil(self)

    monkeypatch.setattr(VIB, "finish", finish)
    result = invoke_blind(tmp_path)
    assert result.exit_code == 0, result.output
    assert "the codes of the validation part are not finite" in result.output
    rows = read(tmp_path, timed=False)
    assert [row["val_accuracy"] == "" for row in rows] == [False, False, True]
    assert [row["beta"] for row in rows if row["accuracy"]] == ["0.0", "0.001"]


def test_codes_that_are_not_finite_at_the_test_count_as_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(model: Model, problem: Any, part: str, *arguments: Any) -> Any:
        if isinstance(model, VIB) and part == "test":
            spoil(model)
        return measure(model, problem, part, *arguments)

    monkeypatch.setattr(command, "measure", failing)
    result = invoke_blind(tmp_path)
    assert result.exit_code == 0, result.output
    assert "the codes of the test part are not finite" in result.output
    assert "1 of 1 diverged" in result.output
    rows = read(tmp_path)
    (failed,) = (row for row in rows if row["method"] == "vib" and row["accuracy"])
    assert (failed["accuracy"], failed["shifted_accuracy"]) == ("0.0", "0.0")
    assert failed["leak_nats"] == ""
    resumed = invoke_blind(tmp_path, "--resume")  # the test does not change the choice
    assert resumed.exit_code == 0, resumed.output
    assert "Nothing was computed" in resumed.output and "1 of 1 diverged" in resumed.output
    assert read(tmp_path) == rows


@pytest.mark.thorough
def test_the_structural_table_is_a_problem_of_its_own(tmp_path: Path) -> None:
    result = invoke(tmp_path, "--data", "structural", "--method", "none", "--seeds", "1")
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "config.json").read_text())["settings"]["nuisance"] == "attribute"
