"""The Information Bottleneck as a command: methods over a grid of β, with several seeds.

The losses, the network and the training are in `bottleneck_training`. Here is the comparison:

* One grid of β for every method. β is chosen by validation error over the seeds and the
  one-standard-error rule: the strongest bottleneck that does no measurable harm.
* The test set is read once, after that, by the chosen runs alone.
* A finished run is on disk: stop at any time, continue with ``--resume``.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from numpy.typing import NDArray
from tqdm import tqdm

from mige_ext.experiments import data, plots
from mige_ext.experiments.bottleneck_training import (
    METHODS,
    Epoch,
    Settings,
    build,
    measure,
    train,
)
from mige_ext.experiments.data import ImageData
from mige_ext.experiments.runs import (
    Table,
    cpu_threads,
    mean_and_error,
    one_standard_error_rule,
    open_folder,
)

#: For every method; from no effect to too much on digits.
BETAS = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
QUICK_BETAS = (1e-3, 1e-2, 1e-1)

Array = NDArray[np.float64]
Key = tuple[str, float, int]


@dataclass(frozen=True)
class Result:
    """A row of results.csv: a finished run.

    Attributes:
        method: name in `METHODS`.
        beta: β; 0 for a method without a penalty.
        seed: of weights, batches and noise.
        epochs: their number.
        val_error: share of wrong predictions on the validation part, after the last epoch.
        test_error: the same on the test part; NaN unless β was chosen.
        information: upper bound of I(z; x) on the validation part, in nats.
        seconds: of training, the measurements after each epoch included.
    """

    method: str
    beta: float
    seed: int
    epochs: int
    val_error: float
    test_error: float
    information: float
    seconds: float


def run_missing(
    images: ImageData,
    settings: Settings,
    grid: Sequence[Key],
    results: Table[Result],
    metrics: Table[Epoch],
) -> None:
    """Train every run of the grid that the results do not list yet, and save its model.

    Args:
        images: the data.
        settings: of every run.
        grid: (method, β, seed) of each run.
        results: receives a row for each finished run.
        metrics: receives its epochs.
    """
    finished = {_key(row) for row in results.rows}
    # A run writes its result last: figures without a result are of a run that was stopped.
    metrics.replace(row for row in metrics.rows if _key(row) in finished)
    missing = [key for key in grid if key not in finished]
    with tqdm(total=len(missing) * settings.epochs, unit="epoch") as bar:

        def show(epoch: Epoch) -> None:
            figures = {"loss": f"{epoch.loss:.3f}", "val_error": f"{epoch.val_error:.1%}"}
            bar.set_postfix(figures, refresh=False)
            bar.update()

        for method, beta, seed in missing:
            bar.set_description(f"{METHODS[method].label} β={beta:g} seed {seed}")
            started = time.perf_counter()
            model, epochs = train(images, method, beta, seed, settings, show)
            result = Result(
                method,
                beta,
                seed,
                settings.epochs,
                val_error=epochs[-1].val_error,
                test_error=math.nan,
                information=epochs[-1].information,
                seconds=time.perf_counter() - started,
            )
            path = _model_path(results, result)
            path.parent.mkdir(exist_ok=True)
            torch.save(model.state_dict(), path)
            metrics.append(epochs)
            results.append([result])


def choose_betas(results: Sequence[Result]) -> dict[str, float]:
    """β of each method by `one_standard_error_rule` on the validation errors."""
    errors: dict[str, dict[float, list[float]]] = {}
    for result in results:
        of_method = errors.setdefault(result.method, {})
        of_method.setdefault(result.beta, []).append(result.val_error)
    return {method: one_standard_error_rule(of_method) for method, of_method in errors.items()}


def read_test(
    images: ImageData, settings: Settings, grid: Sequence[Key], results: Table[Result]
) -> list[Result]:
    """Choose β of each method, and put the test errors of the chosen runs into the results.

    Args:
        images: the data.
        settings: of every run.
        grid: (method, β, seed) of each run, all finished.
        results: the table of finished runs.

    Returns:
        The chosen runs.
    """
    beta_of = choose_betas([row for row in results.rows if _key(row) in grid])
    chosen = [key for key in grid if key[1] == beta_of[key[0]]]

    def with_test_error(result: Result) -> Result:
        if _key(result) not in chosen or not math.isnan(result.test_error):
            return result
        model = build(images, result.method, settings)
        model.load_state_dict(torch.load(_model_path(results, result), weights_only=True))
        return replace(result, test_error=measure(model, images, images.test).error)

    results.replace(map(with_test_error, results.rows))
    return [row for row in results.rows if _key(row) in chosen]


def _key(row: Epoch | Result) -> Key:
    return row.method, row.beta, row.seed


def _model_path(results: Table[Result], run: Result) -> Path:
    return results.path.with_name("models") / f"{run.method}-beta{run.beta}-seed{run.seed}.pt"


# The report


def format_table(chosen: Sequence[Result]) -> str:
    """A line for each method at its β: means over the seeds, the error with its standard error."""
    lines = [f"{'method':15}{'β':>8}{'test error, %':>17}{'I(z; x) ≤, nats':>18}{'seconds':>10}"]
    for method in dict.fromkeys(row.method for row in chosen):
        runs = [row for row in chosen if row.method == method]
        mean, spread = mean_and_error([100 * row.test_error for row in runs])
        information = np.mean([row.information for row in runs])
        cells = (
            f"{METHODS[method].label:15}",
            f"{f'{runs[0].beta:g}' if METHODS[method].penalty else '–':>8}",
            f"{f'{mean:.2f}' if math.isnan(spread) else f'{mean:.2f} ± {spread:.2f}':>17}",
            f"{'∞' if math.isinf(information) else f'{information:.1f}':>18}",
            f"{np.mean([row.seconds for row in runs]):10.1f}",
        )
        lines.append("".join(cells))
    return "\n".join(lines)


def draw(results: Sequence[Result], metrics: Sequence[Epoch], chosen: Sequence[Result]) -> Figure:
    """Learning curves at the chosen β, and error against information for every β.

    Args:
        results: the runs of the whole grid.
        metrics: their epochs.
        chosen: the runs at the chosen β.

    Returns:
        The figure.
    """
    fig, panels = plots.figure(2, 2, panel=(3.8, 2.7))
    *over_epochs, trade_off = panels.flat
    columns = {
        "val_error": (100, "validation error, %"),
        "cross_entropy": (1, "cross-entropy, nats"),
        "information": (1, "upper bound of I(z; x), nats"),
    }
    for method in dict.fromkeys(row.method for row in chosen):
        runs = [row for row in chosen if row.method == method]
        at = np.arange(1, runs[0].epochs + 1)
        for ax, (column, (scale, _)) in zip(over_epochs, columns.items(), strict=True):
            samples = scale * _curves(metrics, runs, column)
            plots.band(ax, at, samples, label=METHODS[method].label)
        color = over_epochs[0].lines[-1].get_color()
        _draw_trade_off(trade_off, [row for row in results if row.method == method], color)
    for ax, (_, ylabel) in zip(over_epochs, columns.values(), strict=True):
        ax.set(xlabel="epoch", ylabel=ylabel, yscale="log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter(NullFormatter())
    trade_off.set(xlabel="upper bound of I(z; x), nats", ylabel="validation error, %")
    plots.legend(fig)
    at_beta = {METHODS[row.method].label: f"β = {row.beta:g}" for row in chosen if row.beta}
    note = (
        f"{', '.join(' '.join(item) for item in at_beta.items()) or 'No β'}; "
        f"mean ± standard deviation of {len({row.seed for row in chosen})} seeds. "
        "Below right: each β, mean ± standard error;\n"
        "a deterministic code has infinite information, and is the dashed line."
    )
    fig.supxlabel(note, fontsize=8, color="#555555")
    return fig


def _curves(metrics: Sequence[Epoch], runs: Sequence[Result], column: str) -> Array:
    """A column of metrics.csv as (seeds, epochs)."""
    values = [[getattr(row, column) for row in metrics if _key(row) == _key(run)] for run in runs]
    # The information of a deterministic code is infinite: nothing to draw.
    return np.where(np.isinf(values), np.nan, values)


def _draw_trade_off(ax: Axes, runs: Sequence[Result], color: str) -> None:
    points = []
    for beta in sorted({run.beta for run in runs}):
        of_beta = [run for run in runs if run.beta == beta]
        information = float(np.mean([run.information for run in of_beta]))
        points.append([information, *mean_and_error([100 * run.val_error for run in of_beta])])
    at, error, uncertainty = np.array(points).T
    if np.isinf(at).all():
        ax.axhline(error[0], color=color, linestyle="--")
    else:
        ax.errorbar(at, error, np.nan_to_num(uncertainty), color=color, marker="o", markersize=4)


# The command


def bottleneck(
    dataset: Annotated[
        str, typer.Option("--data", help=f"Images: {', '.join(data.names())}.")
    ] = Settings.data,
    method: Annotated[
        list[str] | None, typer.Option(help=f"Repeatable; by default all: {', '.join(METHODS)}.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Their number [10; quick 3].")] = None,
    beta: Annotated[
        list[float] | None,
        typer.Option(min=0, help="Repeatable; the grid of β, instead of the default."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Their number [100; quick 60].")] = None,
    batch: Annotated[int, typer.Option(min=2, help="Inputs in a step.")] = Settings.batch,
    draws: Annotated[int, typer.Option(min=1, help="Draws of z for each.")] = Settings.draws,
    latent: Annotated[int, typer.Option(min=1, help="Dimension of z.")] = Settings.latent,
    hidden: Annotated[int, typer.Option(min=1, help="Units of a layer.")] = Settings.hidden,
    learning_rate: Annotated[float, typer.Option(help="Of Adam.")] = Settings.learning_rate,
    normalise: Annotated[
        bool, typer.Option(help="BatchNorm without affine part on μ.")
    ] = Settings.normalise,
    threshold: Annotated[float, typer.Option(help="Of SSGE.")] = Settings.threshold,
    calibrate: Annotated[bool, typer.Option(help="Of SSGE, by Stein.")] = Settings.calibrate,
    conditional: Annotated[
        str, typer.Option(help="H(z|x) for MIGE: analytic, or from the draws.")
    ] = Settings.conditional,
    quick: Annotated[
        bool, typer.Option("--quick", help="A small version, below a minute on 2 cores.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue in --out, with the same settings.")
    ] = False,
    threads: Annotated[
        int, typer.Option(min=1, help="Of the CPU; small networks are fastest with one.")
    ] = 1,
    data_dir: Annotated[Path | None, typer.Option(help="Folder of the images.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("runs/bottleneck"),
) -> None:
    """The Information Bottleneck on images: error and information of MIGE, VIB and a baseline."""
    seeds = seeds or (3 if quick else 10)
    betas = beta or (QUICK_BETAS if quick else BETAS)
    methods = method or list(METHODS)
    try:
        settings = Settings(
            dataset,
            epochs or (60 if quick else Settings.epochs),
            batch,
            draws,
            latent,
            hidden,
            learning_rate,
            normalise,
            threshold,
            calibrate,
            conditional,
        )
        grid = _grid(methods, betas, seeds)
        images = data.load(dataset, data_dir)
        if batch > len(images.train):
            raise ValueError(
                f"batch must be at most the {len(images.train)} training images, got {batch}"
            )
        about = {"methods": methods, "betas": betas, "seeds": seeds, "threads": threads}
        open_folder(out, asdict(settings), about, resume=resume)
        results, metrics = Table(out / "results.csv", Result), Table(out / "metrics.csv", Epoch)
    except (ValueError, ImportError, OSError) as error:
        raise typer.BadParameter(str(error)) from None
    if quick:
        typer.echo("The small version: fewer epochs, seeds and values of β.")
    with cpu_threads(threads):
        try:
            run_missing(images, settings, grid, results, metrics)
        except KeyboardInterrupt:
            typer.echo(f"Stopped. {out} holds the finished runs; --resume continues.", err=True)
            raise typer.Exit(130) from None
        chosen = read_test(images, settings, grid, results)
    runs = [row for row in results.rows if _key(row) in grid]
    png, pdf = plots.save(draw(runs, metrics.rows, chosen), out / "bottleneck")
    typer.echo(
        f"\n{images.name}: {len(images.train)} training, {len(images.validation)} validation and "
        f"{len(images.test)} test images; epochs: {settings.epochs}; seeds: {seeds}.\n"
        f"Means over the seeds ± standard error; β chosen on the validation images.\n\n"
        f"{format_table(chosen)}\n\n{results.path}\n{png}\n{pdf}"
    )


def _grid(methods: Sequence[str], betas: Sequence[float], seeds: int) -> list[Key]:
    """Every run; seed by seed, so that a stopped comparison has whole seeds."""
    for method in methods:
        if method not in METHODS:
            raise ValueError(f"method must be one of {list(METHODS)}, got {method!r}")
    for beta in betas:
        if not 0 <= beta < math.inf:
            raise ValueError(f"beta must be finite and at least 0, got {beta}")
    return [
        (method, beta, seed)
        for seed in range(seeds)
        for method in dict.fromkeys(methods)
        for beta in (sorted(set(betas)) if METHODS[method].penalty else [0.0])
    ]
