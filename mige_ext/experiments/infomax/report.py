"""Table and figure of InfoMax."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

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
from mige_ext.experiments.infomax.methods import METHODS
from mige_ext.experiments.infomax.training import Epoch

LAYERS = {"pixels": "pixels", "conv": "conv", "fc": "fc", "y": "Y"}

#: MIGE in the paper's Table 1, in %.
PUBLISHED = {"cifar10": {"conv": 57.95, "fc": 57.09, "y": 53.75}}


@dataclass(frozen=True)
class Result(Row):
    """A row of results.csv: a probe of a finished run."""

    setting = "learning_rate"

    method: str  # this and the next three columns are the ``Run``
    learning_rate: float
    seed: int
    images: int
    epochs: int  # of the encoder
    layer: str  # that the probe reads
    val_accuracy: float  # fraction of right labels on the validation part; NaN if trained on it
    accuracy: float  # the same on the test part; NaN before the test
    rank: float  # effective rank of z on the validation part; NaN without an encoder
    #: Time that the objective adds to a step, as a fraction of the step without it.
    overhead: float = field(compare=False)
    #: Training time of the encoder, without the measurements; NaN for a diverged run.
    seconds: float = field(compare=False)


def format_table(tested: Sequence[Result], data: str) -> str:
    """The paper's Table 1: test accuracy by method and layer, mean ± standard error.

    Args:
        tested: Results of the final runs.
        data: Image set; the table of CIFAR-10 has a line with the paper's numbers.

    Returns:
        The table.
    """
    heads = "".join(f"{f'{label}, %':>15}" for label in LAYERS.values())
    lines = [f"{'method':18}{'rate':>8}{heads}{'rank':>7}{'objective, %':>14}{'seconds':>10}"]
    for name, rows in by_method(tested).items():
        method, rate = METHODS[name], rows[0].learning_rate
        cells = [f"{method.label:18}{f'{rate:g}' if rate else '–':>8}"]
        for layer in LAYERS:
            values = [100 * row.accuracy for row in rows if row.layer == layer]
            cells.append(f"{format_mean(values, 1):>15}")
        rank, overhead, seconds = (
            float(np.mean([getattr(row, column) for row in finished(rows)]))
            for column in ("rank", "overhead", "seconds")
        )
        cells.append(f"{'–' if math.isnan(rank) else f'{rank:.1f}':>7}")
        cells.append(f"{f'{100 * overhead:.0f}' if method.objective else '–':>14}")
        runs = [row for row in rows if row.layer == rows[0].layer]
        lines.append("".join(cells) + f"{seconds:10.1f}{divergence_note(runs)}")
    if data in PUBLISHED:
        published = (f"{PUBLISHED[data].get(layer, '–'):>15}" for layer in LAYERS)
        lines.append(f"{'MIGE, the paper':26}{''.join(published)}")
    return "\n".join(lines)


def draw(metrics: Sequence[Epoch], tested: Sequence[Result], shown: Sequence[Run]) -> Figure:
    """Learning curves of the read-out and of the rank of z, and what probes find in each layer.

    Args:
        metrics: Rows of metrics.csv.
        tested: Results of the final runs.
        shown: Runs whose learning curves are drawn, with one learning rate for each method.

    Returns:
        The figure.
    """
    fig, ((left, middle, right),) = plots.figure(1, 3, panel=(3.4, 3.0))
    draw_learning_curves(
        {"linear_accuracy": left, "rank": middle},
        metrics,
        shown,
        METHODS,
        percent=["linear_accuracy"],
        levels=[name for name, method in METHODS.items() if method.objective is None],
    )
    layers = [layer for layer in LAYERS if any(row.layer == layer for row in tested)]
    for name, rows in by_method(tested).items():
        label, values = METHODS[name].label, dict[int, tuple[float, float]]()
        for at, layer in enumerate(layers):
            accuracies = [100 * row.accuracy for row in rows if row.layer == layer]
            if accuracies:
                values[at] = mean_and_error(accuracies)
        means, errors = zip(*values.values(), strict=True)
        right.errorbar(
            list(values),
            means,
            np.nan_to_num(errors),
            color=plots.PALETTE[label],
            marker="o",
            markersize=4,
            label=label,
        )
    left.set(xlabel="epoch", ylabel="linear accuracy of Y, %")
    middle.set(xlabel="epoch", ylabel="effective rank of Y")
    for ax in (left, middle):
        ax.set_xlim(left=0)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    right.set(ylabel="test accuracy, %")
    right.set_xticks(range(len(layers)), [LAYERS[layer] for layer in layers])
    if shown or tested:
        plots.legend(fig, columns=4)
    return fig
