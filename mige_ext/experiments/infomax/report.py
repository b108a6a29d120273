"""Table and figure of InfoMax."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mige_ext.experiments.common import plots
from mige_ext.experiments.common.runs import mean_and_error, run_of, told_of_divergence
from mige_ext.experiments.infomax.methods import METHODS
from mige_ext.experiments.infomax.training import Epoch, Run

LAYERS = {"pixels": "pixels", "conv": "conv", "fc": "fc", "y": "Y"}

#: MIGE in the paper's Table 1, in %.
PUBLISHED = {"cifar10": {"conv": 57.95, "fc": 57.09, "y": 53.75}}


@dataclass(frozen=True)
class Result:
    """A row of results.csv: a probe of a finished run; the first four fields say which run.

    Attributes:
        method: name in `METHODS`.
        learning_rate: of Adam; 0 where nothing is trained.
        seed: of weights, batches and probes.
        images: number of training images.
        epochs: of the encoder.
        layer: what the probe reads.
        val_accuracy: share of right labels on the validation part; NaN for a run that was trained
            on it.
        accuracy: the same on the test part; NaN unless the run was chosen.
        rank: effective rank of z on the validation part; NaN without an encoder.
        overhead: what the objective adds to a step, as a share of a step without one.
        seconds: of training the encoder, without the measurements; NaN of a run that diverged.
    """

    method: str
    learning_rate: float
    seed: int
    images: int
    epochs: int
    layer: str
    val_accuracy: float
    accuracy: float
    rank: float
    overhead: float = field(compare=False)
    seconds: float = field(compare=False)

    @property
    def diverged(self) -> bool:
        """Whether the run came to numbers that are not finite."""
        return math.isnan(self.seconds)


def format_table(tested: Sequence[Result], data: str) -> str:
    """The paper's Table 1: test accuracy by method and layer, mean ± standard error.

    Args:
        tested: the chosen runs.
        data: the data set; for CIFAR-10 a line has the paper's numbers.

    Returns:
        The lines.
    """
    heads = "".join(f"{f'{label}, %':>15}" for label in LAYERS.values())
    lines = [f"{'method':18}{'rate':>8}{heads}{'rank':>7}{'objective, %':>14}{'seconds':>10}"]
    for method in dict.fromkeys(row.method for row in tested):
        rows = [row for row in tested if row.method == method]
        rate = rows[0].learning_rate
        cells = [f"{METHODS[method].label:18}{f'{rate:g}' if rate else '–':>8}"]
        for layer in LAYERS:
            mean, error = "–", math.nan
            values = [100 * row.accuracy for row in rows if row.layer == layer]
            if values:
                centre, error = mean_and_error(values)
                mean = f"{centre:.1f}"
            cells.append(f"{mean if math.isnan(error) else f'{mean} ± {error:.1f}':>15}")
        sound = [row for row in rows if not row.diverged] or rows
        rank, _ = mean_and_error([row.rank for row in sound])
        overhead, _ = mean_and_error([100 * row.overhead for row in sound])
        seconds, _ = mean_and_error([row.seconds for row in sound])
        cells.append(f"{'–' if math.isnan(rank) else f'{rank:.1f}':>7}")
        cells.append(f"{f'{overhead:.0f}' if METHODS[method].objective else '–':>14}")
        runs = [row for row in rows if row.layer == rows[0].layer]
        lines.append("".join(cells) + f"{seconds:10.1f}{told_of_divergence(runs)}")
    if data in PUBLISHED:
        told = (f"{PUBLISHED[data].get(layer, '–'):>15}" for layer in LAYERS)
        lines.append(f"{'MIGE, the paper':26}{''.join(told)}")
    return "\n".join(lines)


def draw(metrics: Sequence[Epoch], tested: Sequence[Result], shown: Sequence[Run]) -> Figure:
    """Learning curves of the read-out and of the rank of z, and what probes find in each layer.

    Args:
        metrics: the epochs of all runs.
        tested: the runs that were tested.
        shown: the runs whose learning curves are drawn, with one learning rate for each method.

    Returns:
        The figure.
    """
    fig, ((left, middle, right),) = plots.figure(1, 3, panel=(3.4, 3.0))
    for method in dict.fromkeys(run.method for run in shown):
        label = METHODS[method].label
        for ax, column, scale in ((left, "linear_accuracy", 100), (middle, "rank", 1)):
            curves = [
                [scale * getattr(row, column) for row in metrics if run_of(row, Run) == run]
                for run in shown
                if run.method == method
            ]
            curves = [curve for curve in curves if curve]  # of runs that have begun
            if not curves:
                continue
            shared = min(map(len, curves))
            samples = [curve[:shared] for curve in curves]
            if METHODS[method].objective is not None:
                dot = "o" if shared == 1 else ""  # a line of one point is not seen
                plots.band(ax, range(1, shared + 1), samples, label=label, marker=dot)
            else:
                level = sum(curve[0] for curve in samples) / len(samples)
                ax.axhline(level, color=plots.PALETTE[label], linestyle=":", label=label)
    layers = [layer for layer in LAYERS if any(row.layer == layer for row in tested)]
    for method in dict.fromkeys(row.method for row in tested):
        rows, label = [row for row in tested if row.method == method], METHODS[method].label
        at = [layer for layer in layers if any(row.layer == layer for row in rows)]
        means, errors = zip(
            *(mean_and_error([100 * row.accuracy for row in rows if row.layer == o]) for o in at),
            strict=True,
        )
        right.errorbar(
            [layers.index(layer) for layer in at],
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
