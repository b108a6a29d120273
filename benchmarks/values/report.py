"""The report of the values: tables, bounds, and a figure."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.tables import Bounds, print_table
from benchmarks.values.estimators import ESTIMATORS, VALUES
from mige_ext.experiments.common import plots

#: Tasks of the package benchmark-mi.
PACKAGE = ("even", "odd")
#: Labels of the figure, by source of a task.
LABELS = {"even": "benchmark-mi, even", "odd": "benchmark-mi, odd", "own": "our own"}
#: Bound of the mean absolute error over the 40 tasks, by number of samples.
ERRORS = {256: 0.16, 1000: 0.11}
#: At least ``WITHIN`` of ``TASKS`` tasks must have an error below ``CLOSE`` nats for N = 1000.
TASKS, CLOSE, WITHIN = 40, 0.1, 26
#: Least fraction of a copula's data sets with an error of at most 2 standard errors; upper bound of
#: |estimate| − 2 standard errors for independent pairs.
COVERAGE, INDEPENDENT = 0.9, 0.02


@dataclass(frozen=True)
class Row:
    """An estimate, a line of values.csv.

    Attributes:
        source: ``Task.source`` of the task.
        task: Name of the task.
        truth: The mutual information in nats.
        samples: Number of samples.
        seed: Seed of the samples and of the estimator.
        method: Name of the estimator.
        value: The estimate in nats.
        standard_error: Standard error of the estimate; NaN if the estimator has none.
        detail: The method that was chosen, or the number of training steps.
    """

    source: str
    task: str
    truth: float
    samples: int
    seed: int
    method: str
    value: float
    standard_error: float
    detail: str


def errors(rows: Sequence[Row]) -> dict[str, float]:
    """Mean absolute error of each task over the seeds."""
    found: dict[str, list[float]] = {}
    for row in rows:
        found.setdefault(row.task, []).append(abs(row.value - row.truth))
    return {task: float(np.mean(each)) for task, each in found.items()}


def selected(
    rows: Sequence[Row], method: str, samples: int, sources: Sequence[str] = PACKAGE
) -> list[Row]:
    """The rows of a method with this number of samples, for tasks of these sources."""
    wanted = (method, samples)
    return [r for r in rows if (r.method, r.samples) == wanted and r.source in sources]


def report(rows: Sequence[Row], *, markdown: bool = False) -> list[str]:
    """Print the tables, and return the names of the missed bounds."""
    sizes = sorted({row.samples for row in rows if row.source in PACKAGE})
    lines = []
    for n in sizes:
        for method in ESTIMATORS:
            found = [errors(selected(rows, method, n, [half])) for half in PACKAGE]
            every = {**found[0], **found[1]}
            if every:
                means = [_mean(each) for each in (every, *found)]
                close = sum(error < CLOSE for error in every.values())
                lines.append([n, method, len(every), *means, close])
    if lines:
        header = ("N", "method", "tasks", "error", *PACKAGE, "within .1")
        print_table("Tasks of benchmark-mi", header, lines, markdown=markdown)
    for source, title in (("own", "Tasks of our own"), ("package", "benchmark-mi by task")):
        _print_tasks(rows, PACKAGE if source == "package" else (source,), title, markdown)
    return bounds_of(rows).report(markdown=markdown)


def _mean(found: dict[str, float]) -> float | str:
    return float(np.mean(list(found.values()))) if found else "–"


def _print_tasks(rows: Sequence[Row], sources: Sequence[str], title: str, markdown: bool) -> None:
    sizes = sorted({row.samples for row in rows if row.source in sources})
    for n in sizes:
        methods = [m for m in ESTIMATORS if selected(rows, m, n, sources)]
        tasks = {r.task: r.truth for r in rows if r.source in sources and r.samples == n}
        lines = []
        for task, truth in tasks.items():
            means = [
                [row.value for row in selected(rows, m, n, sources) if row.task == task]
                for m in methods
            ]
            lines.append(
                [task, f"{truth:.2f}", *(f"{np.mean(v):.2f}" if v else "–" for v in means)]
            )
        if lines:
            print_table(f"{title}, N = {n}", ("task", "truth", *methods), lines, markdown=markdown)


def bounds_of(rows: Sequence[Row]) -> Bounds:
    """The bounds of the values, for all measurements that are complete."""
    bounds = Bounds()
    for n, bound in ERRORS.items():
        found = errors(selected(rows, VALUES, n))
        if len(found) == TASKS:
            mean = float(np.mean(list(found.values())))
            bounds.at_most(f"mean absolute error, N = {n}", mean, bound)
            if n == 1000:
                close = sum(error < CLOSE for error in found.values())
                bounds.at_least(f"tasks within {CLOSE} nats, N = {n}", close, WITHIN)
    copulas = [row for row in rows if row.source == "copula" and row.method == VALUES]
    for task in dict.fromkeys(row.task for row in copulas):
        covered = [
            abs(row.value - row.truth) <= 2 * row.standard_error
            for row in copulas
            if row.task == task
        ]
        bounds.at_least(f"coverage of 2 standard errors, {task}", float(np.mean(covered)), COVERAGE)
    for row in rows:
        if row.source == "independent" and row.method == VALUES and row.seed == 0:
            excess = abs(row.value) - 2 * row.standard_error
            bounds.at_most(f"absolute value − 2 standard errors, {row.task}", excess, INDEPENDENT)
    return bounds


def draw(rows: Sequence[Row], path: Path) -> Path:
    """Draw estimates against the truth up to 1.9 nats, for each method and N, to ``path``."""
    sources = (*PACKAGE, "own")
    sizes = sorted({row.samples for row in rows if row.source in sources})
    methods = [m for m in ESTIMATORS if any(selected(rows, m, n, sources) for n in sizes)]
    fig, panels = plots.figure(len(sizes), len(methods), panel=(2.2, 2.3), sharex=True, sharey=True)
    for line, n in zip(panels, sizes, strict=True):
        for ax, method in zip(line, methods, strict=True):
            ax.plot([0, 1.8], [0, 1.8], color="0.6", linewidth=0.8)
            for source, color in zip(sources, ("#0072B2", "#D55E00", "#009E73"), strict=True):
                found = selected(rows, method, n, [source])
                truth, value = [row.truth for row in found], [row.value for row in found]
                ax.plot(
                    truth, value, "o", color=color, markersize=3, alpha=0.7, label=LABELS[source]
                )
            ax.set_title(f"{method}, N = {n}", fontsize=9)
            ax.set(xlim=(-0.1, 1.9), ylim=(-0.1, 1.9))
            ax.set_visible(bool(selected(rows, method, n, sources)))
    for ax in panels[-1]:
        ax.set_xlabel("true I, nats")
    for ax in panels[:, 0]:
        ax.set_ylabel("estimate, nats")
    panels[0, 0].legend(fontsize=7, loc="upper left")
    fig.savefig(path, dpi=150)
    return path
