"""Table and figures of information removal."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from mige_ext.experiments.common import plots
from mige_ext.experiments.common.runs import mean_and_error, run_of, told_of_divergence
from mige_ext.experiments.removal.methods import METHODS
from mige_ext.experiments.removal.training import Epoch, Run

#: Margins below the accuracy without removal, down to where the figure shows every β.
CUT = 8


@dataclass(frozen=True)
class Result:
    """A row of results.csv: a finished run.

    Attributes:
        data: data set.
        nuisance: what was to be removed.
        method: name in `METHODS`.
        beta: β; 0 without a penalty.
        seed: of weights, batches and noise.
        val_accuracy: share of right labels on the validation part.
        val_leak_nats: lower bound of I(z; s) there, by the strongest attacker.
        val_leak_r2: share of the variance of s that is explained there.
        accuracy: on the test part, as the next two; NaN unless the run was chosen.
        leak_nats: likewise.
        leak_r2: likewise.
        attacker: the strongest in nats.
        ms_per_step: of training; NaN of a run that diverged.
    """

    data: str
    nuisance: str
    method: str
    beta: float
    seed: int
    val_accuracy: float
    val_leak_nats: float
    val_leak_r2: float
    accuracy: float
    leak_nats: float
    leak_r2: float
    attacker: str
    ms_per_step: float

    @property
    def diverged(self) -> bool:
        """Whether the run came to numbers that are not finite."""
        return math.isnan(self.ms_per_step)


def format_table(tested: Sequence[Result]) -> str:
    """A line for each method at its β: means over the seeds ± standard error, on test data."""
    lines = [
        f"{'method':26}{'β':>7}{'accuracy, %':>16}{'leak, nats':>17}{'leak, R²':>10}"
        f"{'ms a step':>11}  strongest attacker"
    ]
    for method in dict.fromkeys(row.method for row in tested):
        rows = [row for row in tested if row.method == method]
        sound = [row for row in rows if not row.diverged] or rows
        attackers = [row.attacker for row in sound]
        lines.append(
            f"{METHODS[method].label:26}{f'{rows[0].beta:g}' if rows[0].beta else '–':>7}"
            f"{_spread([100 * row.accuracy for row in rows], 2):>16}"
            f"{_spread([row.leak_nats for row in sound], 3):>17}"
            f"{np.mean([row.leak_r2 for row in sound]):>10.3f}"
            f"{np.median([row.ms_per_step for row in sound]):>11.1f}"
            f"  {max(attackers, key=attackers.count)}{told_of_divergence(rows)}"
        )
    return "\n".join(lines)


def _spread(values: Sequence[float], digits: int) -> str:
    mean, error = mean_and_error(values)
    spread = "" if math.isnan(error) else f" ± {error:.{digits}f}"
    return f"{mean:.{digits}f}{spread}"


def draw(results: Sequence[Result], chosen: Sequence[Run], margin: float) -> Figure:
    """Leak against accuracy: a curve through the β of each method, and the chosen on test data.

    Args:
        results: all runs.
        chosen: those with the chosen β.
        margin: accuracy that may be lost.

    Returns:
        The figure.
    """
    fig, ((left, middle, right),) = plots.figure(1, 3, panel=(3.6, 3.4))
    shown = -math.inf
    for method in dict.fromkeys(row.method for row in results):
        rows = [row for row in results if row.method == method]
        label = METHODS[method].label
        style = {"label": label, "color": plots.PALETTE[label], "marker": "o", "markersize": 4}
        curve = _means_of_the_grid(rows)
        left.plot(*zip(*curve, strict=True), **style)
        if method == "none":
            left.axhline(curve[0][1] - 100 * margin, color="#999999", linestyle=":")
            shown = curve[0][1] - 100 * CUT * margin
        tested = [row for row in rows if run_of(row, Run) in chosen]
        if any(row.diverged for row in tested):  # the table tells of them
            tested = []
        for ax, column in ((middle, "leak_nats"), (right, "leak_r2")):
            if not tested:
                continue
            leak, leak_error = mean_and_error([getattr(row, column) for row in tested])
            accuracy, error = mean_and_error([100 * row.accuracy for row in tested])
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
    seeds = len({run.seed for run in chosen})
    fig.supxlabel(
        f"{data}, {nuisance}: leak in nats is log 16 − cross-entropy of the strongest attacker, "
        f"a lower bound. Left the seeds of the grid; dotted: {100 * margin:g} points below no "
        f"removal (to {100 * CUT * margin:g} shown).\nMiddle and right "
        f"{f'mean ± standard error of {seeds} seeds' if seeds > 1 else 'one seed'}. "
        "Better is up and left.",
        fontsize=8,
        color="#555555",
    )
    return fig


def draw_curves(metrics: Sequence[Epoch], shown: Sequence[Run]) -> Figure:
    """Learning curves: cross-entropy and accuracy of the label over the steps.

    Args:
        metrics: the epochs of all runs.
        shown: the runs that are drawn, as far as they have come, with one β for each method.

    Returns:
        The figure.
    """
    fig, ((left, right),) = plots.figure(1, 2, panel=(4.2, 3.0))
    for method in dict.fromkeys(run.method for run in shown):
        of = [[row for row in metrics if run_of(row, Run) == run] for run in shown]
        curves = [rows for rows in of if rows and rows[0].method == method]
        if not curves:
            continue
        shared = min(map(len, curves))
        steps = [row.step for row in curves[0][:shared]]
        for ax, column, scale in ((left, "cross_entropy", 1), (right, "accuracy", 100)):
            values = [[scale * getattr(row, column) for row in rows[:shared]] for rows in curves]
            plots.band(ax, steps, values, label=METHODS[method].label)
    left.set(xlabel="step", ylabel="training cross-entropy, nats")
    right.set(xlabel="step", ylabel="validation accuracy, %")
    if shown:
        plots.legend(fig, columns=4)
    return fig


def _means_of_the_grid(rows: Sequence[Result]) -> list[tuple[float, float]]:
    """Leak in nats and accuracy in % for each β, over the seeds that all β of a method have."""
    seeds = {row.beta: {r.seed for r in rows if r.beta == row.beta} for row in rows}
    shared = set.intersection(*seeds.values())
    means = []
    for beta in sorted(seeds):
        of = [row for row in rows if row.beta == beta and row.seed in shared]
        leak = float(np.mean([row.val_leak_nats for row in of]))
        means.append((leak, 100 * float(np.mean([row.val_accuracy for row in of]))))
    return means
