"""Table and figures of the Information Bottleneck."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from mige_ext.experiments.bottleneck.methods import METHODS
from mige_ext.experiments.bottleneck.training import Epoch
from mige_ext.experiments.common import plots, tables
from mige_ext.experiments.common.runs import Row, Run
from mige_ext.experiments.common.statistics import by_method, by_value, mean_and_error, spread_of


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
    average_val_error: float  # this and the next with averaged weights; NaN without them
    average_test_error: float
    information: float  # nats, upper bound of I(z; x) on the validation part
    test_cross_entropy: float  # nats, of the last weights; NaN before the test
    rank: float  # this and the next are those of the last epoch in metrics.csv
    calibration: float
    overhead: float  # time that the penalty adds to a step, as a fraction of the step without it
    seconds: float  # training time, without the measurements; NaN for a diverged run


def format_table(tested: Sequence[Result], *, published: bool = False) -> str:
    """A line for each method at its β: means over the seeds; test errors have standard errors.

    Args:
        tested: Results of the final runs.
        published: Whether to print the paper's numbers, which are of MNIST.

    Returns:
        The table.
    """
    columns: dict[str, tables.Cell] = {"test\nerror, %": tables.percent_cell("test_error", 2)}
    if any(not math.isnan(row.average_test_error) for row in tested):
        columns["test error\nof average, %"] = tables.percent_cell("average_test_error", 2)
    if published:
        columns["the paper,\n%"] = lambda rows: tables.format_number(
            METHODS[rows[0].method].published, ".2f"
        )
    columns |= {
        "I(z; x) ≤,\nnats": tables.number_cell("information", ".1f"),
        "time of the\npenalty,\n% of a step": tables.overhead_cell(np.median),
        "time,\ns": tables.number_cell("seconds", ".1f"),
    }
    return tables.method_table(tested, METHODS, "β", columns)


def draw(results: Sequence[Result], metrics: Sequence[Epoch], shown: Sequence[Run]) -> Figure:
    """Learning curves, and error against information for every β.

    Args:
        results: Results of the search.
        metrics: Rows of metrics.csv.
        shown: Runs whose learning curves are drawn, with one β for each method.
    """
    fig, panels = plots.figure(2, 2, panel=(3.8, 2.7))
    *over_epochs, trade_off = panels.flat
    labels = {
        "val_error": "validation error, %",
        "cross_entropy": "cross-entropy, nats",
        "information": "upper bound of I(z; x), nats",
    }
    axes = dict(zip(labels, over_epochs, strict=True))
    plots.learning_curves(axes, metrics, shown, METHODS, percent=["val_error"])
    for column, ax in axes.items():
        ax.set_ylabel(labels[column])
    methods = by_method(shown)
    for name, rows in by_method(results).items():
        if name in methods:
            _draw_trade_off(trade_off, rows, METHODS[name].label)
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
    plots.caption(
        fig,
        f"{betas}; {spread_of(len({run.seed for run in shown}), 'standard deviation')}.",
        "Below right: every β, mean ± standard error. A dashed line is the least mean error of a "
        "method whose code is deterministic: its information is infinite.",
    )
    return fig


def _draw_trade_off(ax: Axes, rows: Sequence[Result], label: str) -> None:
    points = []
    for of_beta in by_value(rows).values():
        information = float(np.mean([row.information for row in of_beta]))
        points.append([information, *mean_and_error([100 * row.val_error for row in of_beta])])
    at, error, uncertainty = np.array(points).T
    if np.isinf(at).all():
        ax.axhline(error.min(), color=plots.PALETTE[label], linestyle="--")
    else:
        plots.errorbar(ax, at, error, label, yerr=uncertainty, markersize=4)


def draw_tests(tested: Sequence[Result], *, published: bool = False) -> Figure:
    """The table as a figure: test errors of the methods, mean over the seeds ± standard error.

    Args:
        tested: Results of the final runs.
        published: Whether to draw the paper's numbers, which are of MNIST.
    """
    methods = by_method(tested)
    fig, ((ax,),) = plots.figure(1, 1, panel=(6.0, 1.0 + 0.3 * len(methods)))
    for at, (name, runs) in enumerate(methods.items()):
        label = METHODS[name].label
        average: dict[str, Any] = {"label": "averaged weights", "markerfacecolor": "white"}
        for column, below, drawn in (
            ("test_error", 0.0, {"label": "last weights"}),
            ("average_test_error", 0.2, average),
        ):
            mean, error = mean_and_error([100 * getattr(row, column) for row in runs])
            if not math.isnan(mean):  # NaN without averaged weights
                plots.errorbar(ax, mean, at + below, label, xerr=error, **drawn)
        paper = METHODS[name].published
        if published and paper is not None:
            ax.plot(paper, at, "x", color="#000000", label="the paper")
    ax.set_yticks(range(len(methods)), [METHODS[name].label for name in methods])
    ax.set_ylim(len(methods) - 0.5, -0.5)  # the first method at the top, none on an axis
    ax.set_xlabel("test error, %")
    plots.legend(fig)
    return fig
