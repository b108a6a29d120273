"""Table and figures of information removal."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

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
from mige_ext.experiments.removal.methods import METHODS
from mige_ext.experiments.removal.training import Epoch

#: How far below the accuracy without removal the figure shows every β, in margins.
CUT = 8


@dataclass(frozen=True)
class Result(Row):
    """A row of results.csv: a finished run."""

    data: str
    nuisance: str
    method: str  # this and the next two columns are the ``Run``
    beta: float
    seed: int
    val_accuracy: float  # fraction of right labels on the validation part
    val_leak_nats: float  # lower bound of I(z; s) there, by the strongest attacker
    val_leak_r2: float  # fraction of the variance of s that is explained there
    accuracy: float  # these three on the test part; NaN before the test
    leak_nats: float
    leak_r2: float
    attacker: str  # the strongest attacker in nats
    ms_per_step: float  # training time; NaN for a diverged run


def format_table(tested: Sequence[Result]) -> str:
    """A line for each method at its β: means over the seeds ± standard error, on test data."""
    lines = [
        f"{'method':26}{'β':>7}{'accuracy, %':>16}{'leak, nats':>17}{'leak, R²':>10}"
        f"{'ms a step':>11}  strongest attacker"
    ]
    for method, rows in by_method(tested).items():
        measured = finished(rows)
        attackers = [row.attacker for row in measured]
        lines.append(
            f"{METHODS[method].label:26}{f'{rows[0].beta:g}' if rows[0].beta else '–':>7}"
            f"{format_mean([100 * row.accuracy for row in rows], 2):>16}"
            f"{format_mean([row.leak_nats for row in measured], 3):>17}"
            f"{np.mean([row.leak_r2 for row in measured]):>10.3f}"
            f"{np.median([row.ms_per_step for row in measured]):>11.1f}"
            f"  {max(attackers, key=attackers.count)}{divergence_note(rows)}"
        )
    return "\n".join(lines)


def draw(results: Sequence[Result], tested: Sequence[Result], margin: float) -> Figure:
    """Accuracy against leak: a curve through the β of each method, and the final runs on test data.

    Args:
        results: Results of all runs.
        tested: Results of the final runs.
        margin: Accuracy that removal may cost.

    Returns:
        The figure.
    """
    fig, ((left, middle, right),) = plots.figure(1, 3, panel=(3.6, 3.4))
    shown, final = -math.inf, by_method(tested)
    for method, rows in by_method(results).items():
        label = METHODS[method].label
        style = {"label": label, "color": plots.PALETTE[label], "marker": "o", "markersize": 4}
        curve = _means_of_the_grid(rows)
        left.plot(*zip(*curve, strict=True), **style)
        if method == "none":
            left.axhline(curve[0][1] - 100 * margin, color="#999999", linestyle=":")
            shown = curve[0][1] - 100 * CUT * margin
        of_method = final.get(method, [])
        if not of_method or any(row.diverged for row in of_method):  # the table names those
            continue
        accuracy, error = mean_and_error([100 * row.accuracy for row in of_method])
        for ax, column in ((middle, "leak_nats"), (right, "leak_r2")):
            leak, leak_error = mean_and_error([getattr(row, column) for row in of_method])
            ax.errorbar(
                leak,
                accuracy,
                xerr=np.nan_to_num(leak_error),
                yerr=np.nan_to_num(error),
                color=plots.PALETTE[label],
                marker="o",
            )
    if left.get_ylim()[0] < shown:
        left.set_ylim(bottom=shown)
    left.set(title="every β, validation", ylabel="accuracy, %", xlabel="leak, nats")
    middle.set(title="the chosen β, test", xlabel="leak, nats")
    right.set(title="the chosen β, test", xlabel="leak, R²")
    plots.legend(fig, columns=6)
    data, nuisance = (results[0].data, results[0].nuisance) if results else ("", "")
    seeds = len({row.seed for row in tested})
    spread = f"mean ± standard error of {seeds} seeds" if seeds > 1 else "one seed"
    fig.supxlabel(
        f"{data}, {nuisance}. The leak in nats, log 16 − cross-entropy of the strongest attacker, "
        f"is a lower bound.\nLeft: seeds of the search, at most {100 * CUT * margin:g} points "
        f"below no removal; dotted: {100 * margin:g} points below. Middle and right: {spread}. "
        "Better is up and left.",
        fontsize=8,
        color="#555555",
    )
    return fig


def draw_curves(metrics: Sequence[Epoch], shown: Sequence[Run]) -> Figure:
    """Learning curves: cross-entropy and accuracy of the label over the steps.

    Args:
        metrics: Rows of metrics.csv.
        shown: Runs that are drawn, with one β for each method.

    Returns:
        The figure.
    """
    fig, ((left, right),) = plots.figure(1, 2, panel=(4.2, 3.0))
    axes = {"cross_entropy": left, "accuracy": right}
    draw_learning_curves(axes, metrics, shown, METHODS, x="step", percent=["accuracy"])
    left.set(xlabel="step", ylabel="training cross-entropy, nats")
    right.set(xlabel="step", ylabel="validation accuracy, %")
    if shown:
        plots.legend(fig, columns=4)
    return fig


def _means_of_the_grid(rows: Sequence[Result]) -> list[tuple[float, float]]:
    """Leak in nats and accuracy in % for each β, over the seeds that every β of a method has."""
    seeds = {row.beta: {r.seed for r in rows if r.beta == row.beta} for row in rows}
    shared = set.intersection(*seeds.values())
    means = []
    for beta in sorted(seeds):
        of = [row for row in rows if row.beta == beta and row.seed in shared]
        leak = float(np.mean([row.val_leak_nats for row in of]))
        means.append((leak, 100 * float(np.mean([row.val_accuracy for row in of]))))
    return means
