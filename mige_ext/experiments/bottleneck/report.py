"""Table and figure of the Information Bottleneck."""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from mige_ext.experiments.bottleneck.methods import METHODS
from mige_ext.experiments.bottleneck.training import Epoch, Run
from mige_ext.experiments.common import plots
from mige_ext.experiments.common.runs import mean_and_error, run_of, told_of_divergence

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Result:
    """A row of results.csv: a finished run; the first four fields say which.

    Attributes:
        method: name in `METHODS`.
        beta: β; 0 for a method without a penalty.
        seed: of weights, batches and noise.
        images: number of training images.
        epochs: their number.
        val_error: share of wrong predictions on the validation part, after the last epoch; NaN for
            a run that was trained on it.
        test_error: the same on the test part; NaN unless the run was chosen.
        average_val_error: with the averaged weights; NaN without them.
        average_test_error: likewise.
        information: upper bound of I(z; x) on the validation part, in nats.
        test_cross_entropy: of the last weights, in nats; NaN unless the run was chosen.
        rank: of the last epoch, as in metrics.csv.
        calibration: likewise.
        overhead: what the penalty adds to a step, as a share of a step without it.
        seconds: of training, without the measurements; NaN of a run that diverged.
    """

    method: str
    beta: float
    seed: int
    images: int
    epochs: int
    val_error: float
    test_error: float
    average_val_error: float
    average_test_error: float
    information: float
    test_cross_entropy: float
    rank: float
    calibration: float
    overhead: float
    seconds: float

    @property
    def diverged(self) -> bool:
        """Whether the run came to numbers that are not finite."""
        return math.isnan(self.seconds)


def format_table(chosen: Sequence[Result], *, published: bool = False) -> str:
    """A line for each method at its β: means over the seeds, errors with their standard error.

    Args:
        chosen: the runs at the chosen β.
        published: whether to print the numbers of the paper, which are of MNIST.

    Returns:
        The lines.
    """
    averaged = any(not math.isnan(row.average_test_error) for row in chosen)
    columns = [f"{'method':16}{'β':>8}{'test error, %':>17}"]
    columns += [f"{'of average, %':>17}"] * averaged + [f"{'paper, %':>10}"] * published
    columns += [f"{'I(z; x) ≤, nats':>18}{'penalty, %':>12}{'seconds':>10}"]
    lines = ["".join(columns)]
    for method in dict.fromkeys(row.method for row in chosen):
        runs, of = [row for row in chosen if row.method == method], METHODS[method]
        sound = [row for row in runs if not row.diverged] or runs
        information = np.mean([row.information for row in sound])
        overhead = np.median([row.overhead for row in sound])
        cells = [
            f"{of.label:16}",
            f"{f'{runs[0].beta:g}' if runs[0].beta else '–':>8}",
            f"{_percent([row.test_error for row in runs]):>17}",
        ]
        cells += [f"{_percent([row.average_test_error for row in runs]):>17}"] * averaged
        cells += [f"{'–' if of.published is None else f'{of.published:.2f}':>10}"] * published
        cells += [
            f"{'∞' if math.isinf(information) else f'{information:.1f}':>18}",
            f"{'–' if of.penalty is None else f'{100 * overhead:.0f}':>12}",
            f"{np.mean([row.seconds for row in sound]):10.1f}{told_of_divergence(runs)}",
        ]
        lines.append("".join(cells))
    return "\n".join(lines)


def _percent(errors: Sequence[float]) -> str:
    mean, spread = mean_and_error([100 * error for error in errors])
    return f"{mean:.2f}" if math.isnan(spread) else f"{mean:.2f} ± {spread:.2f}"


def draw(results: Sequence[Result], metrics: Sequence[Epoch], shown: Sequence[Run]) -> Figure:
    """Learning curves, and error against information for every β.

    Args:
        results: the finished runs of the whole grid.
        metrics: the epochs of all runs.
        shown: the runs whose learning curves are drawn, with one β for each method.

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
    methods = list(dict.fromkeys(run.method for run in shown))
    for method in methods:
        runs = [run for run in shown if run.method == method]
        for ax, (column, (scale, _)) in zip(over_epochs, columns.items(), strict=True):
            samples = scale * _curves(metrics, runs, column)
            at = np.arange(1, samples.shape[1] + 1)
            plots.band(ax, at, samples, label=METHODS[method].label)
        color = over_epochs[0].lines[-1].get_color()
        _draw_trade_off(trade_off, [row for row in results if row.method == method], color)
    for ax, (_, ylabel) in zip(over_epochs, columns.values(), strict=True):
        ax.set(xlabel="epoch", ylabel=ylabel)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    trade_off.set(xlabel="upper bound of I(z; x), nats", ylabel="validation error, %")
    scales = {ax.yaxis: ax.set_yscale for ax in panels.flat} | {
        trade_off.xaxis: trade_off.set_xscale
    }
    for axis, set_scale in scales.items():
        if not math.isfinite(axis.get_minpos()):  # nothing to show: all runs diverged
            continue
        set_scale("log")
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())
    plots.legend(fig, columns=min(len(methods), 5))
    at_beta = {METHODS[run.method].label: f"β = {run.beta:g}" for run in shown if run.beta}
    seeds = len({run.seed for run in shown})
    betas = ", ".join(" ".join(item) for item in at_beta.items()) or "no β"
    note = (
        f"{textwrap.fill(betas, 100)};\n"
        f"{f'mean ± standard deviation of {seeds} seeds' if seeds > 1 else 'one seed'}. "
        "Below right: each β, mean ± standard error;\n"
        "a deterministic code has infinite information, and is a dashed line at its best β."
    )
    fig.supxlabel(note, fontsize=8, color="#555555")
    return fig


def draw_tests(chosen: Sequence[Result], *, published: bool = False) -> Figure:
    """The table as a figure: test errors of the methods, mean over the seeds ± standard error.

    Args:
        chosen: the runs at the chosen β.
        published: whether to draw the numbers of the paper, which are of MNIST.

    Returns:
        The figure.
    """
    methods = list(dict.fromkeys(row.method for row in chosen))
    fig, ((ax,),) = plots.figure(1, 1, panel=(6.0, 1.0 + 0.3 * len(methods)))
    for at, method in enumerate(methods):
        runs = [row for row in chosen if row.method == method]
        color = plots.PALETTE[METHODS[method].label]
        for column, shift, filled in (
            ("test_error", -0.12, True),
            ("average_test_error", 0.12, False),
        ):
            mean, error = mean_and_error([100 * getattr(row, column) for row in runs])
            if math.isnan(mean):  # no averages
                continue
            ax.errorbar(
                mean,
                at + shift,
                xerr=np.nan_to_num(error),
                color=color,
                marker="o",
                markerfacecolor=color if filled else "white",
                label="last weights" if filled else "averaged weights",
            )
        paper = METHODS[method].published
        if published and paper is not None:
            ax.plot(paper, at, "x", color="#000000", label="the paper")
    ax.set_yticks(range(len(methods)), [METHODS[method].label for method in methods])
    ax.invert_yaxis()
    ax.set_xlabel("test error, %")
    plots.legend(fig)
    return fig


def _curves(metrics: Sequence[Epoch], runs: Sequence[Run], column: str) -> Array:
    """A column of metrics.csv as (seeds, epochs), as far as all seeds have come."""
    values = [[getattr(row, column) for row in metrics if run_of(row, Run) == run] for run in runs]
    epochs = min(map(len, values))
    # The information of a deterministic code is infinite: nothing to draw.
    finite = np.array([row[:epochs] for row in values], dtype=float)
    return np.where(np.isinf(finite), np.nan, finite)


def _draw_trade_off(ax: Axes, runs: Sequence[Result], color: str) -> None:
    points = []
    for beta in sorted({run.beta for run in runs}):
        of_beta = [run for run in runs if run.beta == beta]
        information = float(np.mean([run.information for run in of_beta]))
        points.append([information, *mean_and_error([100 * run.val_error for run in of_beta])])
    if not points:
        return
    at, error, uncertainty = np.array(points).T
    if np.isinf(at).all():
        ax.axhline(error.min(), color=color, linestyle="--")
    else:
        ax.errorbar(at, error, np.nan_to_num(uncertainty), color=color, marker="o", markersize=4)
