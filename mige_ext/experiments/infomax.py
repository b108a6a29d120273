"""InfoMax as a command: encoders trained without labels, and what probes find in their layers.

Objectives are in `infomax_methods`, encoder and probes in `infomax_training`. The probes learn on
the frozen encoder by one protocol for all methods. The test part is read once, after all runs.
Everything is on disk after each epoch: stop or kill it at any time, continue with ``--resume``.

``--quick`` takes scikit-learn's digits as they are, of 8×8 pixels and one channel, and small
layers: it shows that everything runs, and says nothing about the methods.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from matplotlib.figure import Figure

from mige_ext.experiments import data, plots
from mige_ext.experiments.bottleneck_methods import ESTIMATORS
from mige_ext.experiments.data import ImageData
from mige_ext.experiments.infomax_methods import METHODS
from mige_ext.experiments.infomax_training import (
    NORMALISATIONS,
    Epoch,
    Run,
    Settings,
    Trainer,
    accuracy_of,
    epochs_of,
    inputs_of,
    objective_overhead,
    probe_of,
    train,
    train_probe,
)
from mige_ext.experiments.runs import (
    Table,
    atomic,
    cpu_threads,
    device_of,
    mean_and_error,
    open_folder,
)
from mige_ext.experiments.training import Progress

LAYERS = {"pixels": "pixels", "conv": "conv", "fc": "fc", "y": "Y"}
QUICK_METHODS = ("random", "pca", "infonce", "mige", "entropy")
QUICK: dict[str, Any] = {"data": "digits", "epochs": 10, "width": 16, "hidden": 128, "latent": 16}


@dataclass(frozen=True)
class Result:
    """A row of results.csv: a probe of a finished run.

    Attributes:
        method: name in `METHODS`.
        seed: of weights, batches and probes.
        epochs: of the encoder.
        layer: what the probe reads.
        val_accuracy: share of right labels on the validation part.
        accuracy: on the test part; NaN until all runs are finished.
        rank: effective rank of z on the validation part; NaN without an encoder.
        overhead: what the objective adds to a step, as a share of a step without one.
        seconds: of training the encoder.
    """

    method: str
    seed: int
    epochs: int
    layer: str
    val_accuracy: float
    accuracy: float
    rank: float
    overhead: float = field(compare=False)
    seconds: float = field(compare=False)


class Comparison:
    """The runs of a folder: trained, probed, tested.

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

    def run_missing(self, grid: Sequence[Run]) -> None:
        """Train and probe every run of the grid that has no result yet."""
        finished = {Run(row.method, row.seed) for row in self.results.rows}
        missing = [run for run in grid if run not in finished]
        # A run writes its result last: figures without one are in its checkpoint, or void.
        self.metrics.replace(
            row for row in self.metrics.rows if Run(row.method, row.seed) in finished
        )
        steps = len(self.images.train) // self.settings.batch
        with Progress(sum(epochs_of(run, self.settings) * steps for run in missing)) as bar:
            for run in missing:
                bar.begin(f"{METHODS[run.method].label} seed {run.seed}")
                self._run(run, bar)

    def _run(self, run: Run, bar: Progress) -> None:
        def on_epoch(epoch: Epoch) -> None:
            self.metrics.append([epoch])
            bar.show(linear=epoch.linear_accuracy, rank=epoch.rank)

        images, settings = self.images, self.settings
        trainer, epochs = train(
            images,
            run,
            settings,
            checkpoint=self.checkpoint,
            on_epoch=on_epoch,
            on_step=bar.step,
        )
        known = inputs_of(trainer, run, images.train)
        asked = inputs_of(trainer, run, images.validation)
        probes = {
            layer: train_probe(inputs, images.train.labels, images.classes, settings, run.seed)
            for layer, inputs in known.items()
        }
        path = self._path(run)
        path.parent.mkdir(exist_ok=True)
        with atomic(path) as draft:
            weights = {layer: probe.state_dict() for layer, probe in probes.items()}
            torch.save({"encoder": trainer.encoder.state_dict(), "probes": weights}, draft)
        overhead = 0.0
        if METHODS[run.method].objective:
            overhead = objective_overhead(images, run, settings)
        self.results.append(
            Result(
                *run,
                len(epochs),
                layer,
                val_accuracy=accuracy_of(probe, asked[layer], images.validation.labels),
                accuracy=math.nan,
                rank=epochs[-1].rank if epochs else math.nan,
                overhead=overhead,
                seconds=sum(epoch.seconds for epoch in epochs),
            )
            for layer, probe in probes.items()
        )
        self.checkpoint.unlink(missing_ok=True)

    def read_test(self, grid: Sequence[Run]) -> list[Result]:
        """Put the test accuracies of these runs into the results, where they are not there yet."""
        for run in grid:
            rows = [row for row in self.results.rows if Run(row.method, row.seed) == run]
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
        return [row for row in self.results.rows if Run(row.method, row.seed) in grid]

    def _path(self, run: Run) -> Path:
        return self.folder / "models" / f"{run.method}-seed{run.seed}.pt"


def format_table(tested: Sequence[Result]) -> str:
    """The paper's Table 1: test accuracy by method and layer, mean ± standard error."""
    heads = "".join(f"{f'{label}, %':>15}" for label in LAYERS.values())
    lines = [f"{'method':17}{heads}{'rank':>7}{'objective, %':>14}{'seconds':>10}"]
    for method in dict.fromkeys(row.method for row in tested):
        rows = [row for row in tested if row.method == method]
        cells = [f"{METHODS[method].label:17}"]
        for layer in LAYERS:
            mean, error = "–", math.nan
            values = [100 * row.accuracy for row in rows if row.layer == layer]
            if values:
                centre, error = mean_and_error(values)
                mean = f"{centre:.1f}"
            cells.append(f"{mean if math.isnan(error) else f'{mean} ± {error:.1f}':>15}")
        rank, _ = mean_and_error([row.rank for row in rows])
        overhead, _ = mean_and_error([100 * row.overhead for row in rows])
        seconds, _ = mean_and_error([row.seconds for row in rows])
        cells.append(f"{'–' if math.isnan(rank) else f'{rank:.1f}':>7}")
        cells.append(f"{f'{overhead:.0f}' if METHODS[method].objective else '–':>14}")
        lines.append("".join(cells) + f"{seconds:10.1f}")
    return "\n".join(lines)


def draw(metrics: Sequence[Epoch]) -> Figure:
    """Learning curves: linear accuracy and effective rank of z, on the validation part."""
    fig, ((left, right),) = plots.figure(1, 2, panel=(3.8, 3.0))
    for method in dict.fromkeys(row.method for row in metrics):
        rows = [row for row in metrics if row.method == method]
        for ax, column, scale in ((left, "linear_accuracy", 100), (right, "rank", 1)):
            curves = [
                [scale * getattr(row, column) for row in rows if row.seed == seed]
                for seed in dict.fromkeys(row.seed for row in rows)
            ]
            shared = min(map(len, curves))
            samples = [curve[:shared] for curve in curves]
            if shared == 1 and METHODS[method].objective is None:
                level = sum(curve[0] for curve in samples) / len(samples)
                color = plots.PALETTE.get(METHODS[method].label, "#404040")
                ax.axhline(level, color=color, linestyle=":", label=METHODS[method].label)
                continue
            plots.band(ax, range(1, shared + 1), samples, label=METHODS[method].label)
    left.set(xlabel="epoch", ylabel="linear accuracy of Y, %")
    right.set(xlabel="epoch", ylabel="effective rank of Y")
    if metrics:
        plots.legend(fig, columns=4)
    return fig


# The command


def infomax(
    dataset: Annotated[
        str | None, typer.Option("--data", help=f"Images: {', '.join(data.names())} (cifar10).")
    ] = None,
    method: Annotated[
        list[str] | None, typer.Option(help=f"Repeatable; by default all: {', '.join(METHODS)}.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Their number (3; quick 1).")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Of the encoder (20).")] = None,
    probe_epochs: Annotated[int | None, typer.Option(min=1, help="Of the probes (10).")] = None,
    batch: Annotated[int | None, typer.Option(min=2, help="Images in a step (128).")] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Of Adam, instead of that of each method.")
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
        for name in methods:
            if name not in METHODS:
                raise ValueError(f"method must be one of {list(METHODS)}, got {name!r}")
        images = data.load(settings.data, data_dir).to(device_of(device))
        if settings.batch > len(images.train):
            raise ValueError(
                f"batch must be at most the {len(images.train)} training images, "
                f"got {settings.batch}"
            )
        about = {
            "methods": methods,
            "seeds": seeds,
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
    grid = [Run(name, seed) for seed in range(seeds) for name in methods]
    with cpu_threads(threads):
        try:
            runs.run_missing(grid)
            tested = runs.read_test(grid)
        except KeyboardInterrupt:
            plots.save(draw(runs.metrics.rows), out / "infomax")
            typer.echo(
                f"Stopped. {out} holds all whole epochs, and their figure; --resume continues.",
                err=True,
            )
            raise typer.Exit(130) from None
    png, pdf = plots.save(draw(runs.metrics.rows), out / "infomax")
    typer.echo(
        f"\n{images.name}: test accuracy of probes on the frozen layers, after {settings.epochs} "
        f"epochs without labels on {len(images.train)} images; seeds: {seeds}, mean ± standard "
        f"error.\n\n{format_table(tested)}\n\n{runs.results.path}\n{png}\n{pdf}"
    )
