"""InfoMax as a command: encoders trained without labels, and what probes find in their layers.

Objectives are in `infomax_methods`, the encoder in `infomax_training`, probes in `infomax_probes`,
table and figure in `infomax_report`. Here is the comparison:

* The probes learn on the frozen encoder, by one protocol for all methods.
* Each method has the learning rate whose probes do best on the validation images, mean over layers
  and seeds; all methods choose from grids of the same size.
* With ``--retrain`` the chosen settings are trained again on training and validation images.
* The test set is read once, after that, by the chosen runs alone.
* Everything is on disk after each epoch: stop or kill it at any time, continue with ``--resume``.

``--quick`` takes scikit-learn's digits as they are, of 8×8 pixels and one channel, and small
layers: it shows that everything runs, and says nothing about the methods.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from mige_ext.experiments import data, plots
from mige_ext.experiments.bottleneck_methods import ESTIMATORS
from mige_ext.experiments.data import ImageData
from mige_ext.experiments.infomax_methods import METHODS
from mige_ext.experiments.infomax_probes import accuracy_of, probe_of, train_probe
from mige_ext.experiments.infomax_report import Result, draw, format_table, run_of
from mige_ext.experiments.infomax_training import (
    NORMALISATIONS,
    Epoch,
    Run,
    Settings,
    Trainer,
    epochs_of,
    inputs_of,
    objective_overhead,
    train,
)
from mige_ext.experiments.runs import Table, atomic, cpu_threads, device_of, open_folder
from mige_ext.experiments.training import Progress

QUICK_METHODS = ("random", "pca", "infonce", "mige", "entropy")
QUICK: dict[str, Any] = {"data": "digits", "epochs": 10, "width": 16, "hidden": 128, "latent": 16}


class Comparison:
    """The runs of a folder: trained, probed, chosen, tested.

    Args:
        folder: with results.csv, metrics.csv, checkpoint.pt and models/.
        images: the data, on the device to compute on.
        settings: of every run.

    Raises:
        ValueError: a table in the folder has other columns.
    """

    def __init__(self, folder: Path, images: ImageData, settings: Settings) -> None:
        self.folder, self.images, self.settings = folder, images, settings
        self.results = Table(folder / "results.csv", Result)
        self.metrics = Table(folder / "metrics.csv", Epoch)
        self.checkpoint = folder / "checkpoint.pt"

    def run_missing(self, grid: Sequence[Run], epochs: int) -> None:
        """Train and probe every run of the grid that has no result yet."""
        settings = replace(self.settings, epochs=epochs)
        finished = {run_of(row) for row in self.results.rows}
        missing = [run for run in grid if run not in finished]
        # A run writes its result last: figures without one are in its checkpoint, or void.
        self.metrics.replace(row for row in self.metrics.rows if run_of(row) in finished)
        steps = (epochs_of(run, settings) * (run.images // settings.batch) for run in missing)
        with Progress(sum(steps)) as bar:
            for run in missing:
                bar.begin(f"{METHODS[run.method].label} rate {run.learning_rate:g} seed {run.seed}")
                self._run(run, settings, bar)

    def _run(self, run: Run, settings: Settings, bar: Progress) -> None:
        images, final = self.images, run.images != len(self.images.train)
        if final:
            images = replace(images, train=images.all_training())

        def on_epoch(epoch: Epoch) -> None:
            self.metrics.append([epoch])
            bar.show(linear=epoch.linear_accuracy, rank=epoch.rank)

        trainer, epochs = train(
            images,
            run,
            settings,
            checkpoint=self.checkpoint,
            on_epoch=on_epoch,
            on_step=bar.step,
        )
        labels, passes = images.train.labels, settings.probe_epochs
        probes = {
            layer: train_probe(inputs, labels, images.classes, passes, run.seed)
            for layer, inputs in inputs_of(trainer, run, images.train).items()
        }
        weights = {layer: probe.state_dict() for layer, probe in probes.items()}
        self.save(run, trainer.encoder.state_dict(), weights)
        overhead = 0.0
        if METHODS[run.method].objective:
            overhead = objective_overhead(images, run, settings)
        asked, known = inputs_of(trainer, run, images.validation), images.validation.labels
        self.results.append(
            Result(
                *run,
                len(epochs),
                layer,
                val_accuracy=math.nan if final else accuracy_of(probe, asked[layer], known),
                accuracy=math.nan,
                rank=epochs[-1].rank if epochs else math.nan,
                overhead=overhead,
                seconds=sum(epoch.seconds for epoch in epochs),
            )
            for layer, probe in probes.items()
        )
        self.checkpoint.unlink(missing_ok=True)

    def save(self, run: Run, encoder: object, probes: Mapping[str, object]) -> None:
        """Write weights to models/."""
        path = self._path(run)
        path.parent.mkdir(exist_ok=True)
        with atomic(path) as draft:
            torch.save({"encoder": encoder, "probes": probes}, draft)

    def save_unfinished(self) -> None:
        """Write the encoder of the run that was stopped, as of its last whole epoch."""
        if self.checkpoint.exists():
            state = torch.load(self.checkpoint, weights_only=True)
            self.save(Run(*state["run"]["run"]), state["encoder"], {})

    def choose_rates(self, grid: Sequence[Run]) -> dict[str, float]:
        """The learning rate of each method: the best probes, mean over layers and seeds."""
        accuracies: dict[str, dict[float, list[float]]] = {}
        for row in self.results.rows:
            if run_of(row) in grid:
                of_method = accuracies.setdefault(row.method, {})
                of_method.setdefault(row.learning_rate, []).append(row.val_accuracy)
        return {method: _best(of_method) for method, of_method in accuracies.items()}

    def read_test(self, chosen: Sequence[Run]) -> list[Result]:
        """Put the test accuracies of these runs into the results, where they are not there yet."""
        for run in chosen:
            rows = [row for row in self.results.rows if run_of(row) == run]
            if not any(math.isnan(row.accuracy) for row in rows):
                continue
            weights = torch.load(self._path(run), weights_only=True, map_location="cpu")
            trainer = Trainer(self.images, run, self.settings)
            trainer.encoder.load_state_dict(weights["encoder"])
            inputs, labels = inputs_of(trainer, run, self.images.test), self.images.test.labels
            accuracy = {}
            for layer, features in inputs.items():
                probe = probe_of(features.shape[1], self.images.classes).to(features.device)
                probe.load_state_dict(weights["probes"][layer])
                accuracy[layer] = accuracy_of(probe.eval(), features, labels)
            self.results.replace(
                replace(row, accuracy=accuracy[row.layer]) if row in rows else row
                for row in list(self.results.rows)
            )
        return [row for row in self.results.rows if run_of(row) in chosen]

    def save_figure(self, shown: Sequence[Run]) -> tuple[Path, Path]:
        """Draw what there is of these runs."""
        begun = {run_of(row) for row in self.metrics.rows}
        tested = [row for row in self.results.rows if run_of(row) in shown and row.accuracy >= 0]
        drawn = [run for run in shown if run in begun]
        return plots.save(draw(self.metrics.rows, tested, drawn), self.folder / "infomax")

    def _path(self, run: Run) -> Path:
        return self.folder / "models" / f"{run.stem}.pt"


def _best(accuracies: Mapping[float, Sequence[float]]) -> float:
    """The learning rate with the highest mean; of equal ones, the lowest."""
    return max(accuracies, key=lambda rate: (sum(accuracies[rate]) / len(accuracies[rate]), -rate))


# The command


def infomax(
    dataset: Annotated[
        str | None, typer.Option("--data", help=f"Images: {', '.join(data.names())} (cifar10).")
    ] = None,
    method: Annotated[
        list[str] | None, typer.Option(help=f"Repeatable; by default all: {', '.join(METHODS)}.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Their number (3; quick 1).")] = None,
    grid_seeds: Annotated[
        int | None, typer.Option(min=1, help="Of every learning rate (as many).")
    ] = None,
    retrain: Annotated[
        int | None,
        typer.Option(min=1, help="Epochs of the choice on all training images."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Of the encoder (20).")] = None,
    probe_epochs: Annotated[int | None, typer.Option(min=1, help="Of the probes (10).")] = None,
    batch: Annotated[int | None, typer.Option(min=2, help="Images in a step (128).")] = None,
    learning_rate: Annotated[
        list[float] | None, typer.Option(help="Repeatable; the grid, of Adam (1e-4, 5e-4).")
    ] = None,
    latent: Annotated[int | None, typer.Option(min=1, help="Dimension of z (64).")] = None,
    width: Annotated[
        int | None, typer.Option(min=1, help="Channels of the first convolution (64).")
    ] = None,
    hidden: Annotated[int | None, typer.Option(min=1, help="Units of fc (1024).")] = None,
    normalise: Annotated[
        str | None, typer.Option(help=f"Of z: {', '.join(NORMALISATIONS)} (batch).")
    ] = None,
    projection: Annotated[
        int | None, typer.Option(min=1, help="k, dimensions that x or h is projected to (64).")
    ] = None,
    alpha: Annotated[
        float | None, typer.Option(help="Balance: size of the block of x against that of z (1).")
    ] = None,
    estimator: Annotated[
        str | None, typer.Option(help=f"Of scores: default, {', '.join(ESTIMATORS)}.")
    ] = None,
    threshold: Annotated[float | None, typer.Option(help="Of SSGE (0.99).")] = None,
    prior: Annotated[float | None, typer.Option(help="Weight of prior matching (1).")] = None,
    bf16: Annotated[bool, typer.Option("--bf16", help="Autocast of the encoder.")] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="A small version on digits, below a minute.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue in --out, with the same settings.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="Of the CPU (all; quick 1).")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder of the images.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("runs/infomax"),
) -> None:
    """Unsupervised InfoMax on images: what probes find in encoders trained by MIGE and others."""
    seeds = seeds or (1 if quick else 3)
    threads = threads or (1 if quick else torch.get_num_threads())
    methods = list(dict.fromkeys(method or (QUICK_METHODS if quick else METHODS)))
    given = {
        name: value
        for name, value in {**locals(), "data": dataset}.items()
        if name in {column.name for column in fields(Settings)} and value is not None
    }
    try:
        settings = Settings(**((QUICK if quick else {}) | given))
        rates = {name: _rates(name, learning_rate, quick) for name in methods}
        images = data.load(settings.data, data_dir).to(device_of(device))
        if settings.batch > len(images.train):
            raise ValueError(
                f"batch must be at most the {len(images.train)} training images, "
                f"got {settings.batch}"
            )
        about = {
            "methods": methods,
            "learning_rates": rates,
            "seeds": seeds,
            "grid_seeds": grid_seeds,
            "retrain": retrain,
            "threads": threads,
            "device": str(images.train.images.device),
        }
        open_folder(out, asdict(settings), about, resume=resume)
        runs = Comparison(out, images, settings)
    except (ValueError, ImportError, OSError, RuntimeError) as error:
        raise typer.BadParameter(str(error)) from None
    if quick:
        typer.echo(
            "The small version: digits of 8×8 pixels, small layers, fewer methods, one seed."
        )
    number = len(images.train)
    grid = [
        Run(name, rate, seed, number)
        for seed in range(min(grid_seeds or seeds, seeds))
        for name in methods
        for rate in rates[name]
    ]
    if retrain:
        number += len(images.validation)
    shown = grid
    with cpu_threads(threads):
        try:
            runs.run_missing(grid, settings.epochs)
            rate_of = runs.choose_rates(grid)
            shown = [Run(name, rate_of[name], s, number) for s in range(seeds) for name in methods]
            runs.run_missing(shown, retrain or settings.epochs)
            tested = runs.read_test(shown)
        except KeyboardInterrupt:
            runs.save_unfinished()
            runs.save_figure(shown)
            typer.echo(
                f"Stopped. {out} holds all whole epochs, and their figure and encoders; "
                "--resume continues.",
                err=True,
            )
            raise typer.Exit(130) from None
    png, pdf = runs.save_figure(shown)
    typer.echo(
        f"\n{images.name}: test accuracy of probes on the frozen layers, after "
        f"{retrain or settings.epochs} epochs without labels on {number} images; seeds: {seeds}, "
        f"mean ± standard error; learning rates chosen on the validation images.\n\n"
        f"{format_table(tested, settings.data)}\n\n{runs.results.path}\n{png}\n{pdf}"
    )


def _rates(method: str, given: Sequence[float] | None, quick: bool) -> list[float]:
    """The learning rates that a method chooses from."""
    if method not in METHODS:
        raise ValueError(f"method must be one of {list(METHODS)}, got {method!r}")
    rates = METHODS[method].learning_rates
    if rates == (0.0,):
        return [0.0]
    for rate in given or ():
        if not 0 < rate < math.inf:
            raise ValueError(f"learning_rate must be positive, got {rate}")
    return sorted(set(given or rates[-1 if quick else 0 :]))
