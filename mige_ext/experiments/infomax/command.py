"""InfoMax as a command: encoders trained without labels, and what probes find in their layers.

Objectives are in `infomax_methods`, the encoder in `infomax_encoders`, its training in
`infomax_training`, probes in `infomax_probes`, table and figure in `infomax_report`. Here is the
comparison:

* The probes learn on the frozen encoder, by one protocol for all methods.
* Each trained method has the learning rate whose probes do best on the validation images, mean over
  layers and seeds; all choose from the same grid.
* With ``--retrain`` the chosen settings are trained again on training and validation images.
* The test set is read once, after that, by the chosen runs alone.
* Everything is on disk after each epoch: stop or kill it at any time, continue with ``--resume``.

``--quick`` takes scikit-learn's digits as they are, of 8×8 pixels and one channel, and small
layers: it shows that everything runs, and says nothing about the methods.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
import typer
from torch import Tensor, nn

from mige_ext.experiments.common import plots
from mige_ext.experiments.common.comparison import ComparisonOnImages, OnStep
from mige_ext.experiments.common.estimators import ESTIMATORS, require_option
from mige_ext.experiments.common.runs import cpu_threads, device_of, open_folder
from mige_ext.experiments.data import images as data
from mige_ext.experiments.data.images import Split
from mige_ext.experiments.infomax.encoders import (
    NORMALIZATIONS,
    Features,
    Pixels,
    PrincipalComponents,
    frozen,
)
from mige_ext.experiments.infomax.methods import LEARNING_RATES, METHODS
from mige_ext.experiments.infomax.probes import accuracy_of, probe_of, train_probe
from mige_ext.experiments.infomax.report import Result, draw, format_table
from mige_ext.experiments.infomax.training import (
    Epoch,
    Run,
    Settings,
    epochs_of,
    network,
    objective_overhead,
    train,
)

QUICK_METHODS = ("random", "pca", "infonce", "mige", "entropy")
QUICK: dict[str, Any] = {"data": "digits", "epochs": 10, "width": 16, "hidden": 128, "latent": 16}


class Encoders(ComparisonOnImages[Run, Epoch, Result]):
    """Runs of InfoMax: trained, probed, chosen, tested."""

    run_type, epoch_type, result_type = Run, Epoch, Result
    progress: ClassVar = {"linear": "linear_accuracy", "rank": "rank"}
    validated = ("linear_accuracy",)

    def name_of(self, run: Run) -> str:
        """What the progress bar calls it."""
        return f"{METHODS[run.method].label} rate {run.learning_rate:g} seed {run.seed}"

    def train(
        self, run: Run, epochs: int, on_epoch: Callable[[Epoch], object], on_step: OnStep
    ) -> list[Result]:
        """Train an encoder and its probes, and save them; a result for each probe."""
        images, settings = self.images_of(run), replace(self.settings, epochs=epochs)
        rows: list[Epoch] = []
        encoder: nn.Module
        if (fixed := self.fixed(run)) is None:
            trainer, rows = train(
                images,
                run,
                settings,
                checkpoint=self.checkpoint,
                on_epoch=on_epoch,
                on_step=on_step,
            )
            encoder = trainer.encoder
        else:
            fixed.fit(images.normalize(images.train.images))
            encoder = fixed
        labels, passes = images.train.labels, settings.probe_epochs
        probes = {
            layer: train_probe(features, labels, images.classes, passes, run.seed)
            for layer, features in self.features(encoder, images.train).items()
        }
        weights = {layer: probe.state_dict() for layer, probe in probes.items()}
        self.save(run, encoder=encoder.state_dict(), probes=weights)
        accuracies = dict.fromkeys(probes, math.nan)
        if not self.is_final(run):
            asked, labels = self.features(encoder, images.validation), images.validation.labels
            accuracies = {
                layer: accuracy_of(probe, asked[layer], labels) for layer, probe in probes.items()
            }
        overhead = 0.0
        if METHODS[run.method].objective:
            overhead = objective_overhead(images, run, settings)
        return [
            Result(
                *run,
                epochs,
                layer,
                val_accuracy=accuracy,
                accuracy=math.nan,
                rank=rows[-1].rank if rows else math.nan,
                overhead=overhead,
                seconds=sum(row.seconds for row in rows),
            )
            for layer, accuracy in accuracies.items()
        ]

    def diverged(self, run: Run, epochs: int) -> list[Result]:
        """No figures, for any layer."""
        nan = math.nan
        return [
            Result(*run, epochs, layer, nan, nan, rank=nan, overhead=nan, seconds=nan)
            for layer in Features._fields
        ]

    def fixed(self, run: Run) -> Pixels | PrincipalComponents | None:
        """What stands in the place of an encoder where the method has none."""
        if METHODS[run.method].encoder:
            return None
        if run.method == "pixels":
            return Pixels()
        inputs, device = math.prod(self.images.shape), self.images.train.images.device
        return PrincipalComponents(inputs, self.settings.latent).to(device)

    def features(self, encoder: nn.Module, part: Split) -> dict[str, Tensor]:
        """What the probes read of a part, by layer."""
        return frozen(encoder, self.images, part.images, bf16=self.settings.bf16)

    def choose_rates(self, grid: Sequence[Run]) -> dict[str, float]:
        """The learning rate of each method: the best probes, mean over layers and seeds."""
        accuracies = self.by_setting(grid, "learning_rate", "val_accuracy")
        return {method: _best(of_method) for method, of_method in accuracies.items()}

    def read_test(self, chosen: Sequence[Run]) -> list[Result]:
        """Put the test accuracies of these runs into the results, where they are not there yet."""
        part, classes = self.images.test, self.images.classes
        for run in chosen:
            rows = self.results_of([run])
            if not any(math.isnan(row.accuracy) for row in rows):
                continue
            accuracy = {row.layer: 0.0 for row in rows if row.diverged}  # never right
            if not accuracy:
                weights = self.load(run)
                encoder = self.fixed(run) or network(self.images, self.settings)
                encoder.load_state_dict(weights["encoder"])
                for layer, features in self.features(encoder.to(part.images.device), part).items():
                    probe = probe_of(features.shape[1], classes).to(features.device)
                    probe.load_state_dict(weights["probes"][layer])
                    accuracy[layer] = accuracy_of(probe.eval(), features, part.labels)
            self.results.replace(
                replace(row, accuracy=accuracy[row.layer]) if row in rows else row
                for row in list(self.results.rows)
            )
        return self.results_of(chosen)

    def save_figure(self, shown: Sequence[Run], tested: Sequence[Result]) -> tuple[Path, Path]:
        """Draw the learning curves of some runs, and the tests of these or others."""
        return plots.save(draw(self.metrics.rows, tested, shown), self.folder / "infomax")


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
        int | None, typer.Option(min=1, help="Seeds that the rate is chosen by (all of them).")
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
        str | None, typer.Option(help=f"Of z: {', '.join(NORMALIZATIONS)} (batch).")
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
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1, ...")] = "auto",
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
        if threshold is not None:
            require_option(settings.estimator, "threshold")
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
            "device": str(images.train.images.device),
        }
        agreed = {
            **asdict(settings),
            "retrain": retrain,
            "threads": threads,
            "checksum": images.checksum(),
        }
        open_folder(out, agreed, about, resume=resume)
        runs = Encoders(out, images, settings)
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
    with cpu_threads(threads):
        try:
            runs.run_missing(grid, epochs_of(methods, settings.epochs))
            rate_of = runs.choose_rates(grid)
            if retrain:
                number += len(images.validation)
            chosen = [Run(name, rate_of[name], s, number) for s in range(seeds) for name in methods]
            runs.run_missing(chosen, epochs_of(methods, retrain or settings.epochs))
            tested = runs.read_test(chosen)
        except KeyboardInterrupt:
            runs.save_unfinished("encoder")
            runs.save_figure(runs.latest(), [])
            typer.echo(
                f"Stopped. {out} holds all whole epochs, and their figure and encoders; "
                "--resume continues.",
                err=True,
            )
            raise typer.Exit(130) from None
    # The curves of runs that were trained on the validation part would say less.
    of_grid = [run for run in grid if run.learning_rate == rate_of[run.method]]
    png, pdf = runs.save_figure(runs.sound(of_grid if retrain else chosen), tested)
    typer.echo(
        f"\n{images.name}: test accuracy of probes on the frozen layers, after "
        f"{retrain or settings.epochs} epochs without labels on {number} images; seeds: {seeds}, "
        f"mean ± standard error; learning rates chosen on the validation images.\n\n"
        f"{format_table(tested, settings.data)}\n\n{runs.results.path}\n{png}\n{pdf}"
    )


def _rates(method: str, given: Sequence[float] | None, quick: bool) -> list[float]:
    """The learning rates that a method chooses from; 0 alone where nothing is trained."""
    if method not in METHODS:
        raise ValueError(f"method must be one of {list(METHODS)}, got {method!r}")
    for rate in given or ():
        if not 0 < rate < math.inf:
            raise ValueError(f"learning_rate must be positive and finite, got {rate}")
    if METHODS[method].objective is None:
        return [0.0]
    return sorted(set(given or LEARNING_RATES[-1 if quick else 0 :]))
