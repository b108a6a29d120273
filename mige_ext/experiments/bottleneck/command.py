"""The Information Bottleneck as a command: methods over their grids of β, with several seeds.

The losses and the network are in `bottleneck_methods`, the training in `bottleneck_training`, table
and figure in `bottleneck_report`. Here is the comparison:

* β is chosen by validation error over the seeds: the strongest bottleneck that does no measurable
  harm (the one-standard-error rule), or with ``--choice least`` the least error.
* With ``--retrain`` the chosen settings are trained again on training and validation images: for
  that many epochs, or with 0 for as many as had the least validation error.
* The test set is read once, after that, by the chosen runs alone.
* Everything is on disk after each epoch: stop or kill it at any time, continue with ``--resume``.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
import typer

from mige_ext.experiments.bottleneck.methods import METHODS, PAPER, Settings
from mige_ext.experiments.bottleneck.report import Result, draw, draw_tests, format_table
from mige_ext.experiments.bottleneck.training import (
    Epoch,
    Run,
    build,
    measure,
    penalty_overhead,
    train,
)
from mige_ext.experiments.common import plots
from mige_ext.experiments.common.comparison import ComparisonOnImages, OnStep
from mige_ext.experiments.common.estimators import ESTIMATORS, require_option
from mige_ext.experiments.common.runs import (
    cpu_threads,
    device_of,
    mean_and_error,
    one_standard_error_rule,
    open_folder,
)
from mige_ext.experiments.data import images as data

QUICK_METHODS = ("baseline", "vib", "mige")
CHOICES = ("one-se", "least")


class Bottlenecks(ComparisonOnImages[Run, Epoch, Result]):
    """Runs of the Information Bottleneck: trained, chosen, tested."""

    run_type, epoch_type, result_type = Run, Epoch, Result
    progress: ClassVar = {"val_error": "val_error", "information": "information"}
    validated = ("cross_entropy", "val_error", "average_error")

    def name_of(self, run: Run) -> str:
        """What the progress bar calls it."""
        return f"{METHODS[run.method].label} β={run.beta:g} seed {run.seed}"

    def train(
        self, run: Run, epochs: int, on_epoch: Callable[[Epoch], object], on_step: OnStep
    ) -> list[Result]:
        """Train and save a classifier, and the averaged one where there is one."""
        images, settings = self.images_of(run), replace(self.settings, epochs=epochs)
        trained, rows = train(
            images, run, settings, checkpoint=self.checkpoint, on_epoch=on_epoch, on_step=on_step
        )
        averaged = trained.averaged and trained.averaged.state_dict()
        self.save(run, model=trained.model.state_dict(), average=averaged)
        last = self.told(run, rows[-1])
        result = Result(
            *run,
            epochs,
            val_error=last.val_error,
            test_error=math.nan,
            average_val_error=last.average_error,
            average_test_error=math.nan,
            information=last.information,
            test_cross_entropy=math.nan,
            rank=last.rank,
            calibration=last.calibration,
            overhead=penalty_overhead(images, run, settings),
            seconds=sum(row.seconds for row in rows),
        )
        return [result]

    def diverged(self, run: Run, epochs: int) -> list[Result]:
        """No figures."""
        nan = math.nan
        return [Result(*run, epochs, nan, nan, nan, nan, nan, nan, nan, nan, nan, seconds=nan)]

    def choose_betas(self, grid: Sequence[Run], choice: str) -> dict[str, float]:
        """β of each method by the validation errors of the runs of the grid."""
        errors = self.by_setting(grid, "beta", "val_error")
        return {method: choose_beta(of_method, choice) for method, of_method in errors.items()}

    def choose_epochs(self, runs: Sequence[Run]) -> dict[str, int]:
        """The number of epochs with the least validation error of each method, mean over seeds."""
        errors: dict[str, list[list[float]]] = {}
        for run in self.sound(runs):
            curve = [row.val_error for row in self.metrics.rows if self.run_of(row) == run]
            errors.setdefault(run.method, []).append(curve)
        return {method: int(np.mean(of, axis=0).argmin()) + 1 for method, of in errors.items()}

    def read_test(self, chosen: Sequence[Run]) -> list[Result]:
        """Put the test errors of these runs into the results, where they are not there yet."""

        def with_test_error(result: Result) -> Result:
            run = self.run_of(result)
            if run not in chosen or not math.isnan(result.test_error):
                return result
            if result.diverged:  # never right
                average_error = 1.0 if self.settings.average else math.nan
                return replace(result, test_error=1.0, average_test_error=average_error)
            weights = self.load(run)
            model = build(self.images, run, self.settings).model
            model.load_state_dict(weights["model"])
            last = measure(model, self.images, self.images.test)
            average_error = math.nan
            if weights["average"] is not None:
                model.load_state_dict(weights["average"])
                average_error = measure(model, self.images, self.images.test).error
            return replace(
                result,
                test_error=last.error,
                average_test_error=average_error,
                test_cross_entropy=last.cross_entropy,
            )

        self.results.replace(map(with_test_error, self.results.rows))
        return self.results_of(chosen)


def choose_beta(errors: Mapping[float, Sequence[float]], choice: str) -> float:
    """β by validation errors over seeds; of equal ones, the strongest."""
    if len(errors) == 1:
        return next(iter(errors))
    if choice == "one-se":
        return one_standard_error_rule(errors)
    return min(errors, key=lambda beta: (mean_and_error(errors[beta])[0], -beta))


# The command


def bottleneck(
    dataset: Annotated[
        str, typer.Option("--data", help=f"Images: {', '.join(data.names())}.")
    ] = Settings.data,
    method: Annotated[
        list[str] | None, typer.Option(help=f"Repeatable; by default all: {', '.join(METHODS)}.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Their number (digits 10, otherwise 3; quick 3).")
    ] = None,
    beta: Annotated[
        list[float] | None,
        typer.Option(min=0, help="Repeatable; the grid of β, instead of that of each method."),
    ] = None,
    choice: Annotated[
        str, typer.Option(help="Of β: one-se, the strongest that does no harm, or least error.")
    ] = "one-se",
    grid_seeds: Annotated[
        int | None, typer.Option(min=1, help="Seeds that β is chosen by (all of them).")
    ] = None,
    retrain: Annotated[
        int | None,
        typer.Option(min=0, help="Epochs of the choice on all training images; 0: the best."),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Their number (digits 100, otherwise 20; quick 60).")
    ] = None,
    batch: Annotated[int | None, typer.Option(min=2, help="Inputs in a step (100).")] = None,
    draws: Annotated[
        int | None, typer.Option(min=1, help="Draws of z for each (digits 4, otherwise 16).")
    ] = None,
    latent: Annotated[
        int | None, typer.Option(min=1, help="Dimension of z (digits 16, otherwise 256).")
    ] = None,
    hidden: Annotated[
        int | None, typer.Option(min=1, help="Units of a layer (digits 256, otherwise 1024).")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Of Adam (digits 1e-3, otherwise 1e-4).")
    ] = None,
    normalise: Annotated[
        bool | None, typer.Option(help="BatchNorm without affine part on μ (digits alone).")
    ] = None,
    estimator: Annotated[
        str, typer.Option(help=f"Of scores: {', '.join(ESTIMATORS)}.")
    ] = Settings.estimator,
    threshold: Annotated[
        float | None, typer.Option(help=f"Of SSGE ({Settings.threshold}).")
    ] = None,
    calibrate: Annotated[bool, typer.Option(help="Of the scores, by Stein.")] = Settings.calibrate,
    conditional: Annotated[
        str, typer.Option(help="H(z|x) for MIGE: analytic, or from the draws.")
    ] = Settings.conditional,
    marginals: Annotated[
        int, typer.Option(min=1, help="Draws that H(z) is the mean of, at most.")
    ] = Settings.marginals,
    average: Annotated[
        float, typer.Option(help="Decay of averaged weights, measured beside the others.")
    ] = Settings.average,
    quick: Annotated[
        bool, typer.Option("--quick", help="A small version, below a minute on 2 cores.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue in --out, with the same settings.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1, ...")] = "auto",
    threads: Annotated[
        int | None, typer.Option(min=1, help="Of the CPU (digits 1, otherwise all).")
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder of the images.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("runs/bottleneck"),
) -> None:
    """The Information Bottleneck on images: error and information of MIGE and what it is up to."""
    small = dataset == "digits"
    seeds = seeds or (10 if small and not quick else 3)
    threads = threads or (1 if small else torch.get_num_threads())
    methods = method or list(QUICK_METHODS if quick else METHODS)
    given: dict[str, Any] = {
        "epochs": epochs or (60 if quick else None),
        "batch": batch,
        "draws": draws,
        "latent": latent,
        "hidden": hidden,
        "learning_rate": learning_rate,
        "normalise": normalise,
        "estimator": estimator,
        "threshold": threshold,
        "calibrate": calibrate,
        "conditional": conditional,
        "marginals": marginals,
        "average": average,
    }
    try:
        settings = replace(
            Settings() if small else PAPER,
            data=dataset,
            **{name: value for name, value in given.items() if value is not None},
        )
        if threshold is not None:
            require_option(estimator, "threshold")
        if choice not in CHOICES:
            raise ValueError(f"choice must be one of {list(CHOICES)}, got {choice!r}")
        betas = {name: _betas(name, beta, quick) for name in methods}
        if "mige-draws" in methods and settings.draws < 2:
            raise ValueError(f"draws must be at least 2 for mige-draws, got {settings.draws}")
        images = data.load(dataset, data_dir).to(device_of(device))
        if settings.batch > len(images.train):
            raise ValueError(
                f"batch must be at most the {len(images.train)} training images, "
                f"got {settings.batch}"
            )
        about = {
            "methods": methods,
            "betas": betas,
            "seeds": seeds,
            "grid_seeds": grid_seeds,
            "choice": choice,
            "device": str(images.train.images.device),
        }
        agreed = {
            **asdict(settings),
            "retrain": retrain,
            "threads": threads,
            "checksum": images.checksum(),
        }
        open_folder(out, agreed, about, resume=resume)
        runs = Bottlenecks(out, images, settings)
    except (ValueError, ImportError, OSError, RuntimeError) as error:
        raise typer.BadParameter(str(error)) from None
    if quick:
        typer.echo("The small version: fewer methods, epochs, seeds and values of β.")
    # Seed by seed, so that a stopped comparison has whole seeds.
    number = len(images.train)
    grid = [
        Run(name, value, seed, number)
        for seed in range(min(grid_seeds or seeds, seeds))
        for name in betas
        for value in betas[name]
    ]
    with cpu_threads(threads):
        try:
            runs.run_missing(grid, dict.fromkeys(betas, settings.epochs))
            beta_of = runs.choose_betas(grid, choice)
            shown = runs.sound([run for run in grid if run.beta == beta_of[run.method]])
            epochs_of = dict.fromkeys(betas, retrain or settings.epochs)
            if retrain == 0:
                epochs_of |= runs.choose_epochs(shown)
            if retrain is not None:
                number += len(images.validation)
            chosen = [Run(name, beta_of[name], s, number) for s in range(seeds) for name in betas]
            runs.run_missing(chosen, epochs_of)
            tested = runs.read_test(chosen)
        except KeyboardInterrupt:
            runs.save_unfinished("model")
            _save_figure(runs, grid, runs.latest())
            typer.echo(
                f"Stopped. {out} holds all whole epochs, and their figure and models; "
                "--resume continues.",
                err=True,
            )
            raise typer.Exit(130) from None
    # Of runs that were trained on the validation part, curves say nothing.
    png, _ = _save_figure(runs, grid, shown if retrain is not None else runs.sound(chosen))
    published = dataset == "mnist"
    tests, _ = plots.save(draw_tests(tested, published=published), out / "tests")
    typer.echo(
        f"\n{images.name}: {len(images.train)} training, {len(images.validation)} validation and "
        f"{len(images.test)} test images; "
        f"tested after {_range(epochs_of.values())} epochs on {number} images; "
        f"seeds: {seeds}.\n"
        f"Means over the seeds ± standard error; β chosen on the validation images.\n\n"
        f"{format_table(tested, published=published)}\n\n"
        f"{runs.results.path}\n{png}\n{tests}"
    )


def _betas(method: str, given: Sequence[float] | None, quick: bool) -> list[float]:
    """The grid of a method."""
    if method not in METHODS:
        raise ValueError(f"method must be one of {list(METHODS)}, got {method!r}")
    strengths = METHODS[method].strengths
    if strengths == (0.0,):
        return [0.0]
    for beta in given or ():
        if not 0 <= beta < math.inf:
            raise ValueError(f"beta must be finite and at least 0, got {beta}")
        if METHODS[method].dropout and beta >= 1:
            raise ValueError(f"beta is the rate of dropout, and must be below 1, got {beta}")
    return sorted(set(given or strengths[:: 2 if quick else 1]))


def _range(values: Collection[int]) -> str:
    least, most = min(values), max(values)
    return f"{least}" if least == most else f"{least} to {most}"


def _save_figure(runs: Bottlenecks, grid: Sequence[Run], shown: Sequence[Run]) -> tuple[Path, Path]:
    return plots.save(
        draw(runs.results_of(grid), runs.metrics.rows, shown), runs.folder / "bottleneck"
    )
