"""Table and figures of information removal."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mode

import numpy as np
from matplotlib.figure import Figure

from mige_ext.experiments.common import plots, tables
from mige_ext.experiments.common.runs import Row, Run
from mige_ext.experiments.common.statistics import by_method, by_value, mean_and_error, spread_of
from mige_ext.experiments.data.table_files import TABLES
from mige_ext.experiments.removal.methods import METHODS
from mige_ext.experiments.removal.training import Epoch

#: The figure shows accuracies down to this many margins below the accuracy without removal.
CUT = 8
#: Nuisances that are categories.
CATEGORICAL = {name for of in TABLES.values() for name in of.nuisances if name in of.categories}


@dataclass(frozen=True)
class Result(Row):
    """A row of results.csv: a finished run."""

    data: str
    nuisance: str
    method: str  # this and the next two columns are the ``Run``
    beta: float
    seed: int
    val_accuracy: float  # fraction of right labels on the validation part
    val_leak_nats: float  # lower bound of I(z; s), validation part; NaN if β is chosen without s
    val_leak_score: float  # R² of s, validation part; accuracy above chance if s is categorical
    accuracy: float  # this and the next four columns: on the test part; NaN before the test
    shifted_accuracy: float  # least accuracy within a bin or class of s; NaN in older results
    leak_nats: float
    leak_error: float  # standard error of leak_nats over the test rows
    leak_score: float
    attacker: str  # the strongest attacker in nats
    ms_per_step: float  # training time; NaN for a run that diverged before the test

    @property
    def diverged(self) -> bool:
        """Whether the run reached numbers that are not finite, in training or at the test."""
        return super().diverged or (not math.isnan(self.accuracy) and math.isnan(self.leak_nats))


def format_table(tested: Sequence[Result]) -> str:
    """A line for each method at its β: means over the seeds ± standard error, on test data.

    If β was chosen without s, there is a column with the shifted accuracy.
    """
    attacker = "strongest attacker"
    shifted = {"if s\nshifts, %": tables.percent_cell("shifted_accuracy", 1)}
    columns = {
        "accuracy, %": tables.percent_cell("accuracy", 2),
        **(shifted if all(math.isnan(row.val_leak_nats) for row in tested) else {}),
        "leak, nats": lambda rows: tables.format_mean(
            [row.leak_nats for row in tables.finished(rows)], 3
        ),
        f"leak,\n{score_name(tested)}": tables.number_cell("leak_score", ".3f"),
        "ms a\nstep": tables.number_cell("ms_per_step", ".1f", of=np.median),
        attacker: lambda rows: mode([row.attacker for row in tables.finished(rows)]),
    }
    return tables.method_table(tested, METHODS, "β", columns, left=[attacker])


def score_name(results: Sequence[Result]) -> str:
    """Name of ``leak_score`` in the table and the figure."""
    nuisance = results[0].nuisance.split(" given ")[0] if results else ""
    return "acc. − chance" if nuisance in CATEGORICAL else "R²"


def draw(results: Sequence[Result], tested: Sequence[Result], margin: float) -> Figure:
    """Accuracy against leak: a curve through the β of each method, and the final runs on test data.

    If β was chosen without s, the validation leaks are NaN, and the curves show accuracy against β.
    A method without a β is then a point at 0.

    Args:
        results: Results of all runs.
        tested: Results of the final runs.
        margin: Accuracy that removal may cost.
    """
    fig, ((left, middle, right),) = plots.figure(1, 3, panel=(3.6, 3.4))
    shown, final = -math.inf, by_method(tested)
    measured = any(not math.isnan(row.val_leak_nats) for row in results)
    searched = _common_seeds(results)
    for method, rows in by_method(results).items():
        label = METHODS[method].label
        style = {"label": label, "color": plots.PALETTE[label], "marker": "o", "markersize": 4}
        curve = _means_of_the_grid(rows, "val_leak_nats" if measured else "beta", searched)
        left.plot(*zip(*curve, strict=True), **style)
        if method == "none":
            left.axhline(curve[0][1] - 100 * margin, color="#999999", linestyle=":")
            shown = curve[0][1] - 100 * CUT * margin
        of_method = final.get(method, [])
        if not of_method or any(row.diverged for row in of_method):  # the table lists diverged runs
            continue
        accuracy, error = mean_and_error([100 * row.accuracy for row in of_method])
        for ax, column in ((middle, "leak_nats"), (right, "leak_score")):
            leak, leak_error = mean_and_error([getattr(row, column) for row in of_method])
            plots.errorbar(ax, leak, accuracy, label, xerr=leak_error, yerr=error)
    if left.get_ylim()[0] < shown:
        best = max(100 * row.val_accuracy for row in results if not row.diverged)
        left.set_ylim(shown, best + 0.05 * (best - shown))
    left.set(title="every β, validation", ylabel="accuracy, %")
    if measured:
        left.set(xlabel="leak, nats")
    else:
        # The scale is linear below the least β above 0, so methods without a β are visible at 0.
        betas = [row.beta for row in results if row.beta] or [1.0]
        left.set_xscale("symlog", linthresh=min(betas))
        decades = range(math.ceil(math.log10(min(betas))), math.floor(math.log10(max(betas))) + 1)
        ticks = [0.0, *(10.0**decade for decade in decades[:: len(decades) // 5 + 1])]
        left.set(xlabel="β", xlim=(-min(betas) / 2, 2 * max(betas)), xticks=ticks)
    plain = [100 * row.accuracy for row in final.get("none", []) if not row.diverged]
    if plain and measured:
        lowest = float(np.mean(plain)) - 100 * CUT * margin
        for ax in (middle, right):
            ax.set_ylim(bottom=max(ax.get_ylim()[0], lowest))
    middle.set(title="the chosen β, test", xlabel="leak, nats")
    right.set(title="the chosen β, test", xlabel=f"leak, {score_name(results)}")
    plots.legend(fig, columns=5)
    data, nuisance = (results[0].data, results[0].nuisance) if results else ("", "")
    plots.caption(
        fig,
        f"{data}, {nuisance}. The leak in nats, H(s) − cross-entropy of the strongest attacker, "
        "is a lower bound. Better is up and left.",
        "Left: mean over the seeds of the search; the dotted line is "
        f"{100 * margin:g} points below no removal.",
        f"Middle and right: {spread_of(len({row.seed for row in tested}))}.",
        f"What costs more than {100 * CUT * margin:g} points of accuracy is outside the "
        f"{'panels' if measured else 'left panel'}.",
    )
    return fig


def draw_curves(metrics: Sequence[Epoch], shown: Sequence[Run]) -> Figure:
    """Learning curves: cross-entropy and accuracy of the label over the steps.

    Args:
        metrics: Rows of metrics.csv.
        shown: Runs that are drawn, with one β for each method.
    """
    fig, ((left, right),) = plots.figure(1, 2, panel=(4.2, 3.0))
    axes = {"cross_entropy": left, "accuracy": right}
    plots.learning_curves(axes, metrics, shown, METHODS, x="step", percent=["accuracy"])
    left.set(ylabel="training cross-entropy, nats")
    right.set(ylabel="validation accuracy, %")
    if shown:
        plots.legend(fig, columns=4)
        seeds = len({run.seed for run in shown})
        plots.caption(fig, f"At the chosen β: {spread_of(seeds, 'standard deviation')}.")
    return fig


def _common_seeds(results: Sequence[Result]) -> set[int]:
    """The seeds of the search: those of every β of every method."""
    seeds: dict[tuple[str, float], set[int]] = {}
    for row in results:
        seeds.setdefault((row.method, row.beta), set()).add(row.seed)
    return set.intersection(*seeds.values()) if seeds else set()


def _means_of_the_grid(
    rows: Sequence[Result], column: str, seeds: set[int]
) -> list[tuple[float, float]]:
    """Means of a column and of accuracy in % for each β, over these seeds."""
    means = []
    for of_beta in by_value(rows).values():
        of = [row for row in of_beta if row.seed in seeds]
        at = float(np.mean([getattr(row, column) for row in of]))
        means.append((at, 100 * float(np.mean([row.val_accuracy for row in of]))))
    return means
