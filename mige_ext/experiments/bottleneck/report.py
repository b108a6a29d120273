"""Table and figures of the Information Bottleneck."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from mige_ext.experiments.bottleneck.methods import METHODS
from mige_ext.experiments.bottleneck.training import Epoch
from mige_ext.experiments.common import plots, tables
from mige_ext.experiments.common.runs import Row, Run
from mige_ext.experiments.common.statistics import (
    by_method,
    by_value,
    mean_and_error,
    spread_of,
    spread_of_methods,
)

#: Axis label of each learning curve, by column of metrics.csv.
CURVES = {
    "val_error": "validation error, %",
    "cross_entropy": "cross-entropy, nats",
    "information": "upper bound of I(z; x), nats",
}


@dataclass(frozen=True)
class Result(Row):
    """A row of results.csv: a finished run."""

    method: str  # this and the next three columns are the ``Run``
    beta: float
    seed: int
    images: int
    epochs: int
    val_error: float  # fraction of wrong predictions on the validation part after the last epoch
    test_error: float  # fraction of wrong predictions on the test part; NaN before the test
    average_val_error: float  # ``val_error`` with averaged weights; NaN without averaged weights
    average_test_error: float  # ``test_error`` with averaged weights
    least_test_error: float  # least test error of all epochs; NaN without ``--peek``
    least_average_test_error: float  # ``least_test_error`` with averaged weights
    information: float  # nats, upper bound of I(z; x) on the validation part
    test_cross_entropy: float  # nats, of the final weights; NaN before the test
    rank: float  # ``rank`` of the last epoch in metrics.csv
    calibration: float  # ``calibration`` of the last epoch in metrics.csv
    overhead: float  # time that the penalty adds to a step, relative to a step without penalty
    seconds: float  # training time, without the measurements; NaN for a diverged run


def format_table(tested: Sequence[Result], *, published: bool = False) -> str:
    """A table with a line for each method at the chosen β, with means over the seeds.

    Args:
        tested: Results of the final runs.
        published: Whether to print the paper's numbers for MNIST.
    """
    columns: dict[str, tables.Cell] = {"test\nerror, %": tables.percent_cell("test_error", 2)}
    if any(not math.isnan(row.average_test_error) for row in tested):
        columns["test error,\naveraged, %"] = tables.percent_cell("average_test_error", 2)
    if any(not math.isnan(row.least_test_error) for row in tested):
        columns["least of\nepochs,\n%"] = tables.number_cell("least_test_error", ".2f", factor=100)
    if published:
        columns["paper,\n%"] = lambda rows: tables.format_number(
            METHODS[rows[0].method].published, ".2f"
        )
    columns |= {
        "I(z; x)\n≤, nats": tables.number_cell("information", ".1f"),
        "time of the\npenalty,\n% of a step": tables.overhead_cell(np.median),
        "time,\ns": tables.number_cell("seconds", ".1f"),
    }
    return tables.method_table(tested, METHODS, "β", columns)


def draw(results: Sequence[Result], metrics: Sequence[Epoch], shown: Sequence[Run]) -> Figure:
    """Learning curves, and error against information for every β.

    Args:
        results: Results of the search, drawn if a method has several β.
        metrics: Rows of metrics.csv. Without rows, there are no learning curves.
        shown: Runs whose learning curves are drawn, with one β for each method.
    """
    methods = by_method(shown)
    searched = {name: rows for name, rows in by_method(results).items() if name in methods}
    grid = any(len({row.beta for row in rows}) > 1 for rows in searched.values())
    curves = list(CURVES) if metrics else []
    rows, columns = (2, 2) if curves and grid else (1, len(curves) or 1)
    panel = (3.8, 2.7 if grid else 3.2) if curves else (6.0, 3.6)
    fig, panels = plots.figure(rows, columns, panel=panel)
    axes = dict(zip(curves, panels.flat, strict=False))
    plots.learning_curves(axes, metrics, shown, METHODS, percent=["val_error"])
    for column, ax in axes.items():
        ax.set_ylabel(CURVES[column])
        _logarithmic(ax, "y")
    sentences = []
    if curves:
        at_beta = {METHODS[run.method].label: f"β = {run.value:g}" for run in shown if run.value}
        betas = ", ".join(" ".join(item) for item in at_beta.items()) or "no β"
        seeds = len({run.seed for run in shown})
        sentences.append(f"{betas}; {spread_of(seeds, 'standard deviation')}.")
    if grid:
        trade_off = panels[-1, -1]
        for name, of_method in searched.items():
            _draw_trade_off(trade_off, of_method, METHODS[name].label)
        trade_off.set(xlabel=CURVES["information"], ylabel=CURVES["val_error"])
        _logarithmic(trade_off, "x", "y")
        where = "Below right: every" if curves else "Every"
        sentences.append(
            f"{where} β, mean ± standard error. A dashed line is the least mean error of a method "
            "with a deterministic code, for which the information is infinite."
        )
    plots.legend(fig, columns=min(len(methods), 5))
    plots.caption(fig, *sentences)
    return fig


def _logarithmic(ax: Axes, *names: Literal["x", "y"]) -> None:
    """Make axes logarithmic, with numbers at the ticks. An axis without values stays linear."""
    for name in names:
        axis = ax.xaxis if name == "x" else ax.yaxis
        if not math.isfinite(axis.get_minpos()):  # all runs diverged
            continue
        ax.set(**{f"{name}scale": "log"})
        low, high = axis.get_view_interval()
        narrow = high < 10 * low
        axis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7) if narrow else (1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())


def _draw_trade_off(ax: Axes, rows: Sequence[Result], label: str) -> None:
    points = []
    for of_beta in by_value(rows).values():
        information = float(np.mean([row.information for row in of_beta]))
        points.append([information, *mean_and_error([100 * row.val_error for row in of_beta])])
    at, error, uncertainty = np.array(points).T
    if np.isinf(at).all():
        ax.axhline(error.min(), color=plots.PALETTE[label], linestyle="--", label=label)
    else:
        plots.errorbar(ax, at, error, label, yerr=uncertainty, markersize=4)


def draw_tests(tested: Sequence[Result], *, published: bool = False) -> Figure:
    """Test errors of the methods as a figure, mean over the seeds ± standard error.

    Args:
        tested: Results of the final runs.
        published: Whether to draw the paper's numbers for MNIST.
    """
    methods = by_method(tested)
    peeked = any(not math.isnan(row.least_test_error) for row in tested)
    height = 0.5 if peeked else 0.3
    fig, ((ax,),) = plots.figure(1, 1, panel=(6.0, 1.0 + height * len(methods)))
    for at, (name, runs) in enumerate(methods.items()):
        label = METHODS[name].label
        average: dict[str, Any] = {"label": "averaged weights", "markerfacecolor": "white"}
        least: dict[str, Any] = {"label": "least of all epochs"}
        for column, below, drawn in (
            ("test_error", 0.0, {"label": "last weights"}),
            ("average_test_error", 0.2, average),
            ("least_test_error", 0.4, least | {"marker": "<", "color": "#999999"}),
        ):
            mean, error = mean_and_error([100 * getattr(row, column) for row in runs])
            if not math.isnan(mean):  # NaN without averaged weights, or without ``--peek``
                plots.errorbar(ax, mean, at + below, label, xerr=error, **drawn)
        paper = METHODS[name].published
        if published and paper is not None:
            ax.plot(paper, at, "x", color="#000000", label="the paper")
    ax.set_yticks(range(len(methods)), [METHODS[name].label for name in methods])
    ax.set_ylim(len(methods) - 0.4, -0.5)  # the first method is at the top
    ax.set_xlabel("test error, %")
    plots.legend(fig, columns=2 if peeked else None)
    sentences = [f"At the chosen β: {spread_of_methods(tested)}."]
    if peeked:
        sentences.append("The least error of all epochs is a choice on the test set.")
    plots.caption(fig, *sentences)
    return fig
