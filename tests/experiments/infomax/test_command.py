"""InfoMax as a command: stop and resume, choice of the learning rate, the table."""

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
from mige_ext.experiments.common.training import train
from mige_ext.experiments.data import images as data
from mige_ext.experiments.data.images import ImageData
from mige_ext.experiments.data.registry import PUBLISHED
from mige_ext.experiments.infomax.command import infomax
from mige_ext.experiments.infomax.report import Result, format_table
from mige_ext.experiments.infomax.training import Epoch, Settings
from tests.support import image_files
from tests.support.process import assert_fits

pytestmark = pytest.mark.usefixtures("one_thread")  # the networks are too small for more threads
SMALL = Settings("digits", epochs=2, batch=64, latent=4, width=4, hidden=16, projection=6)
OPTIONS = "--data digits --epochs 2 --batch 64 --latent 4 --width 4 --hidden 16 --projection 6"


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return data.load("digits")


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def invoke(
    out: Path,
    *more: str,
    methods: tuple[str, ...] = ("pca", "infonce+pm", "mige"),
    rates: tuple[float, ...] = (5e-4,),
) -> Any:
    app = typer.Typer()
    app.command()(infomax)
    chosen = [part for name in methods for part in ("--method", name)]
    options = [*OPTIONS.split(), "--probe-epochs", "2", "--seeds", "1", *chosen]
    options += [part for rate in rates for part in ("--learning-rate", str(rate))]
    return CliRunner().invoke(app, [*options, "--out", str(out), *more])


@pytest.mark.thorough
def test_the_command_stops_and_resumes_to_the_same_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    result = invoke(whole)
    assert result.exit_code == 0, result.output
    rows, epochs = Table(whole / "results.csv", Result).rows, Table(whole / "metrics.csv", Epoch)
    assert [(row.method, row.layer) for row in rows] == [
        ("pca", "z"),
        *((method, layer) for method in ("infonce+pm", "mige") for layer in ("conv", "fc", "z")),
    ]
    assert all(0 < row.accuracy <= 1 for row in rows)
    assert {(row.method, row.learning_rate) for row in rows} >= {("pca", 0.0), ("mige", 5e-4)}
    assert (whole / "infomax.png").stat().st_size > 1000
    assert "InfoNCE + PM" in result.output
    assert_fits(result.output, tmp_path)

    def stop_after_an_epoch(*arguments: Any, on_epoch: Any, **options: Any) -> Any:
        def once(epoch: Epoch) -> None:
            on_epoch(epoch)
            raise KeyboardInterrupt

        return train(*arguments, on_epoch=once, **options)

    monkeypatch.setattr(comparison, "train", stop_after_an_epoch)
    assert invoke(parts).exit_code == 130
    (stopped,) = (parts / "models").glob("infonce+pm-*.pt")  # the folder is usable
    assert "conv.0.weight" in torch.load(stopped, weights_only=True)["encoder"]
    assert (parts / "infomax.png").exists()
    monkeypatch.undo()
    resumed = invoke(parts, "--resume")
    assert resumed.exit_code == 0, resumed.output
    assert Table(parts / "metrics.csv", Epoch).rows == epochs.rows
    assert repr_of(Table(parts / "results.csv", Result).rows) == repr_of(rows)


@pytest.mark.thorough  # divergence in a search is also tested in removal
def test_a_run_that_diverges_has_no_accuracy_and_the_others_continue(tmp_path: Path) -> None:
    result = invoke(tmp_path, "--retrain", "1", methods=("mige", "pca"), rates=(1e-3, 1e30))
    assert result.exit_code == 0, result.output
    assert "rate 1e+30 seed 0 diverged; its predictions count as wrong: epoch " in result.output
    rows = Table(tmp_path / "results.csv", Result).rows
    failed = [row for row in rows if row.learning_rate == 1e30]
    assert [row.layer for row in failed] == ["conv", "fc", "z"]
    assert all(row.diverged and math.isnan(row.val_accuracy) for row in failed)
    assert {row.learning_rate for row in rows if row.images == 1000} == {0.0, 1e-3}
    result = invoke(tmp_path / "all", methods=("mige",), rates=(1e30,))
    assert result.exit_code == 0 and "1 of 1 diverged" in result.output, result.output
    assert all(row.accuracy == 0 for row in Table(tmp_path / "all/results.csv", Result).rows)


def test_cifar100_in_its_official_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = image_files.cifar100_files()
    published = PUBLISHED["cifar100"]
    layout = image_files.layout_of(published, files)
    monkeypatch.setitem(PUBLISHED, "cifar100", replace(published, layout=layout))
    monkeypatch.setenv("MIGE_DATA", str(tmp_path / "cache"))
    image_files.put(tmp_path / published.folder, files)
    options = ("--data", "cifar100", "--data-dir", str(tmp_path), "--epochs", "1")
    result = invoke(tmp_path / "out", *options, methods=("pixels", "mige-ii"))
    assert result.exit_code == 0, result.output
    rows = Table(tmp_path / "out" / "results.csv", Result).rows
    assert [row.layer for row in rows] == ["pixels", "conv", "fc", "z"]
    assert all(row.images == 160 and 0 <= row.accuracy <= 1 for row in rows)
    (model,) = (tmp_path / "out" / "models").glob("mige-ii-*")
    probe = torch.load(model, weights_only=True)["probes"]["conv"]
    assert len(probe["4.bias"]) == 100


def test_each_method_is_tested_at_its_best_learning_rate_after_retraining(tmp_path: Path) -> None:
    options, rates = ("--seeds", "2", "--grid-seeds", "1", "--retrain", "1"), (1e-6, 2e-3)
    result = invoke(tmp_path / "out", *options, methods=("mige", "pca"), rates=rates)
    assert result.exit_code == 0, result.output
    rows = Table(tmp_path / "out" / "results.csv", Result).rows
    components = [row.accuracy for row in rows if row.method == "pca" and row.images == 1000]
    # Chance is 0.1. The test must use the components on which the probe was trained.
    assert len(components) == 2 and min(components) > 0.3
    rows = [row for row in rows if row.method == "mige"]
    grid, final = rows[:6], rows[6:]
    assert all(
        row.images == 500 and row.epochs == 2 and row.accuracy != row.accuracy for row in grid
    )
    means = {
        rate: sum(row.val_accuracy for row in grid if row.learning_rate == rate) for rate in rates
    }
    best = max(means, key=means.__getitem__)
    assert {(row.learning_rate, row.seed) for row in final} == {(best, 0), (best, 1)}
    for row in final:  # trained on the validation part, and tested
        assert (row.images, row.epochs) == (1000, 1)
        assert row.val_accuracy != row.val_accuracy and 0 < row.accuracy <= 1
    again = invoke(tmp_path / "out", *options[:-1], "2", "--resume", methods=("mige",), rates=rates)
    assert again.exit_code == 2 and "retrain is 2 now and was 1" in " ".join(
        again.output.replace("│", " ").split()
    )
    epochs = Table(tmp_path / "out" / "metrics.csv", Epoch).rows
    for epoch in epochs:
        assert math.isnan(epoch.linear_accuracy) == (epoch.images == 1000)


def test_the_table_has_the_paper_s_numbers_of_cifar10_alone() -> None:
    row = Result("mige", 5e-4, 0, 50_000, 1, "conv", 0.5, 0.5, 60.0, 0.02, 1.0)
    assert "57.95" in format_table([row], "cifar10").splitlines()[-1]
    assert "57.95" not in format_table([row], "cifar100")


def repr_of(rows: list[Result]) -> list[str]:
    """The compared columns; NaN is not equal to itself."""
    return [repr(replace(row, overhead=0.0, seconds=0.0)) for row in rows]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "magic"], "--method must be one of"),
        (["--estimator", "magic"], "--estimator must be one of ['default', 'ssge'"),
        (["--threshold", "0.9"], "--threshold goes with --estimator ssge, got 'default'"),
        (["--alpha", "0"], "--alpha must be finite and positive"),
        (["--learning-rate", "0"], "--learning-rate must be finite and positive, got 0"),
        (["--normalize", "magic"], "--normalize must be one of"),
    ],
)
def test_mistakes_are_named(options: list[str], message: str, tmp_path: Path) -> None:
    result = invoke(tmp_path / "out", *options)
    assert result.exit_code == 2
    assert message in " ".join(result.output.replace("│", " ").split())
