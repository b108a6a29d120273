"""The Information Bottleneck as a command: choice of β, the test set, stop and resume."""

import csv
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from mige_ext.experiments.bottleneck import command
from mige_ext.experiments.bottleneck.command import Bottlenecks, Options, bottleneck
from mige_ext.experiments.bottleneck.methods import Classifier, Settings
from mige_ext.experiments.bottleneck.report import Result
from mige_ext.experiments.bottleneck.training import Epoch, measure
from mige_ext.experiments.common import comparison
from mige_ext.experiments.common.folder import Table
from mige_ext.experiments.common.runs import Run, row_of
from mige_ext.experiments.common.training import train
from mige_ext.experiments.data.images import ImageData, Split
from tests.support import image_files
from tests.support.process import assert_fits

pytestmark = pytest.mark.usefixtures("one_thread")  # the networks are too small for more threads
SMALL = Settings(epochs=3, draws=2, latent=4, hidden=32)


# --- the comparison ------------------------------------------------------------------------------


def result(method: str, beta: float, seed: int, val_error: float) -> Any:
    run = Run(method, beta, seed, 500)
    return row_of(Result, run, epochs=1, val_error=val_error, seconds=1.0)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [("one-se", {"vib": 0.01, "mige": 0.1}), ("least", {"vib": 0.001, "mige": 0.1})],
)
def test_beta_is_chosen_for_each_method_by_validation_error(
    choice: str, expected: dict[str, float], tmp_path: Path
) -> None:
    errors = {
        "vib": {0.1: (0.3, 0.3), 0.01: (0.1, 0.12), 0.001: (0.1, 0.11)},
        "mige": {0.1: (0.2, 0.2), 0.01: (0.4, 0.4)},
    }
    results = [
        result(method, beta, seed, error)
        for method, grid in errors.items()
        for beta, values in grid.items()
        for seed, error in enumerate(values)
    ]
    runs = Bottlenecks(Options(out=tmp_path, method=list(errors), choice=choice), SMALL)
    runs.open_tables()
    runs.results.append([*results, result("vib", 1.0, 0, 0.0)])
    runs.search_runs = [Run(row.method, row.beta, row.seed, row.images) for row in results]
    assert runs.choose() == expected  # runs outside the search are ignored


def run(out: Path, **options: Any) -> None:
    """The command on a small setting, from Python."""
    small = {
        "method": ["baseline", "vib", "mige"],
        "epochs": 2,
        "draws": 2,
        "latent": 4,
        "hidden": 32,
        "seeds": 2,
        "beta": [0.1, 0.001],
    }
    bottleneck(out=out, **{**small, **options})


def read(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def numbers(path: Path) -> list[dict[str, str]]:
    """A table without the columns that differ from run to run."""
    return [
        {name: cell for name, cell in row.items() if name not in ("seconds", "overhead")}
        for row in read(path)
    ]


def test_command_writes_config_tables_models_and_figure(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(bottleneck)
    arguments = "--quick --epochs 2 --seeds 2 --beta 0.1 --beta 0.001 --hidden 32 --latent 4 --out"
    shown = CliRunner().invoke(app, [*arguments.split(), str(tmp_path)])
    assert shown.exit_code == 0, shown.output
    for label in ("deterministic", "VIB", "MIGE", "500 training, 500 validation and 797 test"):
        assert label in shown.output
    assert "paper" not in shown.output  # the paper's numbers are for MNIST
    assert_fits(shown.output, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["settings"]["epochs"] == 2
    assert config["betas"] == {"baseline": [0.0], "vib": [0.001, 0.1], "mige": [0.001, 0.1]}
    results, metrics = read(tmp_path / "results.csv"), read(tmp_path / "metrics.csv")
    columns = "method beta seed images epochs val_error test_error average_val_error"
    assert list(results[0])[:8] == columns.split()
    assert {"loss", "cross_entropy", "val_error", "information", "rank"} < set(metrics[0])
    assert all(float(row["test_cross_entropy"]) > 0 for row in results if row["test_error"])
    assert all(row["rank"] and row["calibration"] for row in results)
    assert len(results) == 2 * (1 + 2 + 2)
    assert len(metrics) == 2 * len(results)
    assert len(list((tmp_path / "models").iterdir())) == len(results)
    figures = {f"{name}.{suffix}" for name in ("bottleneck", "tests") for suffix in ("png", "pdf")}
    for figure in figures:
        assert (tmp_path / figure).stat().st_size > 10_000
    names = {"config.json", "results.csv", "metrics.csv", "models"}
    assert {path.name for path in tmp_path.iterdir()} == names | figures


@pytest.mark.thorough
def test_a_run_that_diverges_counts_as_wrong_and_the_others_continue(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options: dict[str, Any] = {"method": ["vib", "mige"], "epochs": 2, "seeds": 2}
    run(tmp_path, **options, beta=[0.001, 1e39], retrain=0)
    out = capsys.readouterr()
    assert "MIGE β=1e+39 seed 1 diverged; its predictions count as wrong: epoch 1: " in out.err
    for row in read(tmp_path / "results.csv"):
        if row["beta"] == "1e+39":
            assert {row[name] for name in ("val_error", "test_error", "seconds")} == {""}
        else:
            assert row["seconds"] and row["val_error"] + row["test_error"]
    assert "1e+39" not in out.out and "0.001" in out.out  # β = 1e39 is not chosen
    before = read(tmp_path / "results.csv")
    run(tmp_path, **options, beta=[0.001, 1e39], retrain=0, resume=True)
    assert "diverged" not in capsys.readouterr().err  # the run is not repeated
    assert read(tmp_path / "results.csv") == before
    run(tmp_path / "all", **options, beta=[1e39], peek=True)
    (line,) = (x for x in capsys.readouterr().out.splitlines() if x.startswith("VIB"))
    assert line.count("100.00") == 2 and line.endswith("2 of 2 diverged")
    assert (tmp_path / "all" / "bottleneck.png").exists()


@pytest.mark.thorough
def test_any_idx_set_is_trained_with_the_network_of_the_paper(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image_files.put(tmp_path / "set", image_files.idx_files(n=30))
    options = {"data": "idx", "data_dir": tmp_path / "set", "batch": 12, "method": ["mige"]}
    run(tmp_path / "out", **options, draws=None, hidden=None, latent=None, seeds=1, average=0.9)
    settings = json.loads((tmp_path / "out" / "config.json").read_text())["settings"]
    assert (settings["draws"], settings["hidden"], settings["latent"]) == (16, 1024, 256)
    assert settings["normalize"] is False
    assert "averaged, %" in capsys.readouterr().out


def test_test_set_is_read_once_at_the_end_by_the_chosen_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = []

    def spy_train(*arguments: Any, **options: Any) -> Any:
        events.append("train")
        return train(*arguments, **options)

    def spy_measure(model: Classifier, images: ImageData, part: Split) -> Any:
        events.append("test" if part is images.test else "other")
        return measure(model, images, part)

    monkeypatch.setattr(comparison, "train", spy_train)
    monkeypatch.setattr(command, "measure", spy_measure)
    methods = ["baseline", "mige"]
    run(tmp_path, method=methods)
    assert events == ["train"] * 6 + ["test"] * 4
    run(tmp_path, method=methods, resume=True)
    assert len(events) == 10
    tested = [row for row in read(tmp_path / "results.csv") if row["test_error"]]
    assert len({(row["method"], row["beta"]) for row in tested}) == 2


@pytest.mark.thorough
def test_retraining_uses_all_training_images_and_the_best_number_of_epochs(
    tmp_path: Path,
) -> None:
    run(tmp_path, retrain=0, epochs=3, learning_rate=3e-3)
    results, metrics = read(tmp_path / "results.csv"), read(tmp_path / "metrics.csv")
    final = [row for row in results if row["test_error"]]
    assert len(final) == 6
    for row in final:
        assert row["images"] == "1000"
        assert row["val_error"] == ""  # all images are used for training
        curves = [
            [float(r["val_error"]) for r in metrics
             if (r["method"], r["beta"], r["images"], r["seed"])
             == (row["method"], row["beta"], "500", str(seed))]
            for seed in (0, 1)
        ]  # fmt: skip
        mean = [a + b for a, b in zip(*curves, strict=True)]
        assert int(row["epochs"]) == mean.index(min(mean)) + 1


@pytest.mark.thorough
def test_retraining_takes_the_given_numbers_of_epochs_and_seeds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path, epochs=1, retrain=2, grid_seeds=1, seeds=2, method=["baseline", "l2"])
    results, metrics = read(tmp_path / "results.csv"), read(tmp_path / "metrics.csv")
    grid = [row for row in results if row["images"] == "500"]
    final = [row for row in results if row["images"] == "1000"]
    assert [row["seed"] for row in grid] == ["0", "0", "0"]  # the baseline has one β
    assert [(row["method"], row["seed"], row["epochs"]) for row in final] == [
        (method, seed, "2") for seed in "01" for method in ("baseline", "l2")
    ]
    assert all(row["test_error"] and not row["val_error"] for row in final)
    for row in metrics:  # with all images there is no validation part
        assert (row["val_error"] == "") == (row["images"] == "1000")
    assert "tested after 2 epochs on 1000 images" in capsys.readouterr().out


def test_peeking_reports_the_least_test_error_of_all_epochs_beside_the_last(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options: dict[str, Any] = {"method": ["baseline"], "epochs": 4, "seeds": 1, "average": 0.9}
    run(tmp_path, **options, peek=True)
    (result,) = read(tmp_path / "results.csv")
    metrics = read(tmp_path / "metrics.csv")
    for least, last, curve in (
        ("least_test_error", "test_error", "peeked_error"),
        ("least_average_test_error", "average_test_error", "peeked_average_error"),
    ):
        errors = [float(row[curve]) for row in metrics]
        assert float(result[least]) == min(errors)
        assert float(result[last]) == errors[-1]
    assert "least of" in capsys.readouterr().out
    run(tmp_path / "honest", **options)
    assert "least of" not in capsys.readouterr().out


# --- stop and resume ------------------------------------------------------------------------------


@pytest.mark.thorough
def test_stopped_command_resumes_to_the_same_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    methods = ["baseline", "mige"]  # with two β and two seeds: six runs
    run(tmp_path / "straight", method=methods)
    trained: list[Run] = []

    def train_until(last: float) -> Callable[..., Any]:
        def call(trainer: Any, images: ImageData, run: Run, *more: Any, **options: Any) -> Any:
            if len(trained) == last:
                raise KeyboardInterrupt
            trained.append(run)
            return train(trainer, images, run, *more, **options)

        return call

    monkeypatch.setattr(comparison, "train", train_until(4))
    with pytest.raises(typer.Exit) as stopped:
        run(tmp_path / "stopped", method=methods)
    assert stopped.value.exit_code == 130
    assert len(read(tmp_path / "stopped" / "results.csv")) == 4
    # A process that is killed between the two tables leaves metrics of a run without a result.
    orphan = replace(Table(tmp_path / "straight" / "metrics.csv", Epoch).rows[-1], loss=9.0)
    Table(tmp_path / "stopped" / "metrics.csv", Epoch).append([orphan])

    monkeypatch.setattr(comparison, "train", train_until(math.inf))
    run(tmp_path / "stopped", method=methods, resume=True)
    assert len(trained) == len(set(trained)) == 6
    for name in ("results.csv", "metrics.csv"):
        assert numbers(tmp_path / "stopped" / name) == numbers(tmp_path / "straight" / name)


@pytest.mark.thorough
def test_command_stopped_before_the_first_epoch_leaves_a_folder_to_continue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(comparison, "train", stop)
        with pytest.raises(typer.Exit):
            run(tmp_path)
    assert (tmp_path / "bottleneck.png").exists()
    run(tmp_path, resume=True)
    assert len(read(tmp_path / "results.csv")) == 10


@pytest.mark.thorough
def test_resume_may_add_methods_and_seeds_but_not_change_settings(tmp_path: Path) -> None:
    run(tmp_path, method=["baseline"], seeds=1)
    run(tmp_path, method=["baseline", "vib"], seeds=2, beta=[0.1], resume=True)
    assert len(read(tmp_path / "results.csv")) == 4
    with pytest.raises(typer.BadParameter, match="epochs is 3 now and was 2; draws is 1 now"):
        run(tmp_path, epochs=3, draws=1, resume=True)
    with pytest.raises(
        typer.BadParameter, match="threads is 2 now and was 1"
    ):  # threads change the numbers
        run(tmp_path, threads=2, resume=True)
    with pytest.raises(typer.BadParameter, match="continue there with --resume"):
        run(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": ["nonsense"]}, r"method must be one of \['baseline', .*\], got 'nonsense'"),
        ({"data": "cifar"}, r"--data must be one of cifar10, .*, mnist, got 'cifar'"),
        ({"batch": 501}, r"batch must be at most the 500 training images, got 501"),
        ({"batch": 1}, r"batch must be at least 2, got 1"),
        ({"beta": [math.nan]}, r"beta must be finite and at least 0, got nan"),
        (
            {"method": ["dropout"], "beta": [1.0]},
            r"beta must be below 1 as the rate of dropout, got 1\.0",
        ),
        ({"threshold": 1.5}, r"threshold must .* got 1\.5"),
        ({"estimator": "adaptive", "threshold": 0.9}, r"threshold goes with --estimator ssge"),
        ({"learning_rate": -1.0}, r"--learning-rate must be finite and positive, got -1\.0"),
        ({"conditional": "no"}, r"conditional must be one of \['analytic', 'draws'\], got 'no'"),
        ({"conditional": "draws", "draws": 1}, r"draws must be at least 2 .*, got 1"),
        ({"schedule": "line"}, r"schedule must be one of \['step', 'cosine'\], got 'line'"),
        ({"smoothing": 1.0}, r"smoothing must be finite and at least 0 and below 1, got 1\.0"),
        (
            {"method": ["label-smoothing"], "beta": [0.6], "smoothing": 0.4},
            r"smoothing plus β of label-smoothing must be below 1, got 0\.4 \+ 0\.6",
        ),
        ({"choice": "best"}, r"choice must be one of \['one-se', 'least'\], got 'best'"),
        ({"device": "abacus"}, r"abacus"),
    ],
)
def test_bad_options_are_named_before_anything_is_written(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(typer.BadParameter, match=message):
        run(tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
