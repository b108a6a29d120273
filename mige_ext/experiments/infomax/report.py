"""Table and figure of InfoMax."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mige_ext.experiments.common import plots, tables
from mige_ext.experiments.common.runs import Row, Run
from mige_ext.experiments.common.statistics import by_method, mean_and_error, spread_of
from mige_ext.experiments.infomax.methods import METHODS
from mige_ext.experiments.infomax.training import Epoch

LAYERS = {"pixels": "pixels", "conv": "conv", "fc": "fc", "z": "z"}

#: Accuracy of MIGE in Table 1 of Wen et al. (ICLR 2020), in %.
PUBLISHED = {"cifar10": {"conv": 57.95, "fc": 57.09, "z": 53.75}}


@dataclass(frozen=True)
class Result(Row):
    """A row of results.csv: a probe of a finished run."""

    setting = "learning_rate"

    method: str  # this and the next three columns are the ``Run``
    learning_rate: float
    seed: int
    images: int
    epochs: int  # number of epochs of the encoder
    layer: str  # layer that the probe reads
    val_accuracy: float  # accuracy on the validation part; NaN if the run trains on this part
    accuracy: float  # accuracy on the test part; NaN before the test
    rank: float  # effective rank of z on the validation part; NaN without an encoder
    #: Time that the objective adds to a step, as a fraction of the step without an objective.
    overhead: float = field(compare=False)
    #: Training time of the encoder, without the measurements; NaN for a diverged run.
    seconds: float = field(compare=False)


def format_table(tested: Sequence[Result], data: str) -> str:
    """A table like Table 1 of Wen et al.: test accuracy by method and layer, ± standard error.

    Args:
        tested: Results of the final runs.
        data: Name of the image set. The table of CIFAR-10 has a line with the paper's numbers.
    """
    columns = {f"{label}, %": _accuracy_cell(layer) for layer, label in LAYERS.items()}
    columns |= {
        "rank": tables.number_cell("rank", ".1f"),
        "time of the\nobjective,\n% of a step": tables.overhead_cell(np.mean),
        "time,\ns": tables.number_cell("seconds", ".0f"),
    }
    more = []
    if data in PUBLISHED:
        published = (tables.format_number(PUBLISHED[data].get(layer), ".2f") for layer in LAYERS)
        more.append(["MIGE, the paper", "", *published])
    return tables.method_table(tested, METHODS, "rate", columns, more=more)


def _accuracy_cell(layer: str) -> tables.Cell:
    cell = tables.percent_cell("accuracy", 1)
    return lambda rows: cell([row for row in rows if row.layer == layer])


def draw(metrics: Sequence[Epoch], tested: Sequence[Result], shown: Sequence[Run]) -> Figure:
    """Learning curves of ``linear_accuracy`` and of the rank of z, and the accuracy of each probe.

    Args:
        metrics: Rows of metrics.csv.
        tested: Results of the final runs.
        shown: Runs whose learning curves are drawn, with one learning rate for each method.
    """
    fig, ((left, middle, right),) = plots.figure(1, 3, panel=(3.4, 3.0))
    plots.learning_curves(
        {"linear_accuracy": left, "rank": middle},
        metrics,
        shown,
        METHODS,
        percent=["linear_accuracy"],
        levels=[name for name, method in METHODS.items() if method.make is None],
    )
    draw_probes(right, tested)
    left.set(title="least squares, validation", ylabel="accuracy from z, %")
    middle.set_ylabel("effective rank of z")
    for ax in (left, middle):
        ax.set_xlim(left=0)
    if shown or tested:
        plots.legend(fig, columns=4)
    plots.caption(
        fig,
        "Left: a least-squares classifier on z, on validation images after each epoch. Dotted "
        "lines are methods without training. Right: networks on each frozen layer, on test images.",
        f"Lines and points: {spread_of(len({row.seed for row in tested}))}. Bands: standard "
        "deviation.",
    )
    return fig


def draw_probes(ax: Axes, tested: Sequence[Result]) -> None:
    """Draw the test accuracy of each probe, with a line through the layers for each method.

    Args:
        ax: Axes to draw in.
        tested: Results of the final runs.
    """
    layers = [layer for layer in LAYERS if any(row.layer == layer for row in tested)]
    for name, rows in by_method(tested).items():
        points = []
        for at, layer in enumerate(layers):
            accuracies = [100 * row.accuracy for row in rows if row.layer == layer]
            if accuracies:
                points.append((at, *mean_and_error(accuracies)))
        x, means, errors = zip(*points, strict=True)
        plots.errorbar(ax, x, means, METHODS[name].label, yerr=errors, markersize=4)
    ax.set(title="probes, test", ylabel="accuracy, %")
    ax.set_xticks(range(len(layers)), [LAYERS[layer] for layer in layers])
