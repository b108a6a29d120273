"""Table and figures of the Information Bottleneck."""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from mige_ext.experiments.bottleneck.methods import METHODS
from mige_ext.experiments.bottleneck.training import Epoch
from mige_ext.experiments.common import plots
from mige_ext.experiments.common.curves import draw_learning_curves
from mige_ext.experiments.common.runs import Row, Run
from mige_ext.experiments.common.statistics import (
    by_method,
    divergence_note,
    finished,
    format_mean,
    mean_and_error,
)


@dataclass(frozen=True)
class Result(Row):
    """A row of results.csv: a finished run."""

    method: str  # this and the next three columns are the ``Run``
    beta: float
    seed: int
    images: int
    epochs: int
    val_error: float  # fraction of wrong predictions on the validation part after the last epoch
    test_error: float  # the same on the test part; NaN before the test
    average_val_error: float  # the same two with the averaged weights; NaN without them
    average_test_error: float
    information: float  # nats, upper bound of I(z; x) on the validation part
    test_cross_entropy: float  # nats, of the last weights; NaN before the test
    rank: float  # this and the next of the last epoch, as in metrics.csv
    calibration: float
    overhead: float  # time that the penalty adds to a step, as a fraction of the step without it
    seconds: float  # training time, without the measurements; NaN for a diverged run


def format_table(tested: Sequence[Result], *, published: bool = False) -> str:
    """A line for each method at its β: means over the seeds, errors with their standard error.

    Args:
        tested: Results of the final runs.
        published: Whether to print the paper's numbers, which are of MNIST.

    Returns:
        The table.
    """
    averaged = any(not math.isnan(row.average_test_error) for row in tested)
    columns = [f"{'method':16}{'β':>8}{'test error, %':>17}"]
    columns += [f"{'of average, %':>17}"] * averaged + [f"{'paper, %':>10}"] * published
    columns += [f"{'I(z; x) ≤, nats':>18}{'penalty, %':>12}{'seconds':>10}"]
    lines = ["".join(columns)]
    for name, runs in by_method(tested).items():
        method, measured = METHODS[name], finished(runs)
        information = np.mean([row.information for row in measured])
        overhead = np.median([row.overhead for row in measured])
        cells = [
            f"{method.label:16}",
            f"{f'{runs[0].beta:g}' if runs[0].beta else '–':>8}",
            f"{format_mean([100 * row.test_error for row in runs], 2):>17}",
        ]
        if averaged:
            cells.append(f"{format_mean([100 * row.average_test_error for row in runs], 2):>17}")
        if published:
            cells.append(f"{'–' if method.published is None else f'{method.published:.2f}':>10}")
        cells += [
            f"{'∞' if math.isinf(information) else f'{information:.1f}':>18}",
            f"{'–' if method.penalty is None else f'{100 * overhead:.0f}':>12}",
            f"{np.mean([row.seconds for row in measured]):10.1f}{divergence_note(runs)}",
        ]
        lines.append("".join(cells))
    return "\n".join(lines)


def draw(results: Sequence[Result], metrics: Sequence[Epoch], shown: Sequence[Run]) -> Figure:
    """Learning curves, and error against information for every β.

    Args:
        results: Results of the search.
        metrics: Rows of metrics.csv.
        shown: Runs whose learning curves are drawn, with one β for each method.

    Returns:
        The figure.
    """
    fig, panels = plots.figure(2, 2, panel=(3.8, 2.7))
    *over_epochs, trade_off = panels.flat
    labels = {
        "val_error": "validation error, %",
        "cross_entropy": "cross-entropy, nats",
        "information": "upper bound of I(z; x), nats",
    }
    axes = dict(zip(labels, over_epochs, strict=True))
    draw_learning_curves(axes, metrics, shown, METHODS, percent=["val_error"])
    for column, ax in axes.items():
        ax.set(xlabel="epoch", ylabel=labels[column])
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    methods = by_method(shown)
    for name, rows in by_method(results).items():
        if name in methods:
            _draw_trade_off(trade_off, rows, plots.PALETTE[METHODS[name].label])
    trade_off.set(xlabel=labels["information"], ylabel=labels["val_error"])
    scales = {ax.yaxis: ax.set_yscale for ax in panels.flat} | {
        trade_off.xaxis: trade_off.set_xscale
    }
    for axis, set_scale in scales.items():
        if not math.isfinite(axis.get_minpos()):  # an empty panel: all runs diverged
            continue
        set_scale("log")
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())
    plots.legend(fig, columns=min(len(methods), 5))
    at_beta = {METHODS[run.method].label: f"β = {run.value:g}" for run in shown if run.value}
    betas = ", ".join(" ".join(item) for item in at_beta.items()) or "no β"
    seeds = len({run.seed for run in shown})
    spread = f"mean ± standard deviation of {seeds} seeds" if seeds > 1 else "one seed"
    note = (
        f"{textwrap.fill(betas, 100)}; {spread}.\n"
        "Below right: every β, mean ± standard error. A deterministic code has infinite "
        "information: a dashed line at its best β."
    )
    fig.supxlabel(note, fontsize=8, color="#555555")
    return fig


def _draw_trade_off(ax: Axes, rows: Sequence[Result], color: str) -> None:
    points = []
    for beta in sorted({row.beta for row in rows}):
        of_beta = [row for row in rows if row.beta == beta]
        information = float(np.mean([row.information for row in of_beta]))
        points.append([information, *mean_and_error([100 * row.val_error for row in of_beta])])
    at, error, uncertainty = np.array(points).T
    if np.isinf(at).all():
        ax.axhline(error.min(), color=color, linestyle="--")
    else:
        ax.errorbar(at, error, np.nan_to_num(uncertainty), color=color, marker="o", markersize=4)


def draw_tests(tested: Sequence[Result], *, published: bool = False) -> Figure:
    """The table as a figure: test errors of the methods, mean over the seeds ± standard error.

    Args:
        tested: Results of the final runs.
        published: Whether to draw the paper's numbers, which are of MNIST.

    Returns:
        The figure.
    """
    methods = by_method(tested)
    fig, ((ax,),) = plots.figure(1, 1, panel=(6.0, 1.0 + 0.3 * len(methods)))
    for at, (name, runs) in enumerate(methods.items()):
        color = plots.PALETTE[METHODS[name].label]
        for column, shift, filled in (
            ("test_error", -0.12, True),
            ("average_test_error", 0.12, False),
        ):
            mean, error = mean_and_error([100 * getattr(row, column) for row in runs])
            if math.isnan(mean):  # no averaged weights
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
        paper = METHODS[name].published
        if published and paper is not None:
            ax.plot(paper, at, "x", color="#000000", label="the paper")
    ax.set_yticks(range(len(methods)), [METHODS[name].label for name in methods])
    ax.invert_yaxis()
    ax.set_xlabel("test error, %")
    plots.legend(fig)
    return fig
