"""The report of the tasks: tables, bounds, and a figure."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.tables import Bounds, print_table
from benchmarks.tasks.task import CONTROL, DEFAULT, Row, Task
from mige_ext.experiments.common import plots

#: Bounds of the default relative to the best of ``Task.rivals``: points of accuracy, and the factor
#: of a leak or an energy distance.
POINTS, FACTOR = 1.0, 1.2
#: The same bounds relative to the Gaussian control.
CONTROL_POINTS, CONTROL_FACTOR = 0.5, 1.1
#: Least fraction of the tasks on which the default is better than every rival.
BETTER = 1 / 3
#: Largest ratio of the leak after 3,000 steps to the leak after 500 steps.
LONG = 1.5
#: Leaks and distances below these values count as equal, because their standard errors are larger.
LEAST = {"leak, nats": 0.02, "energy distance, 1e-3": 1.0}


def values(rows: Sequence[Row], task: Task, method: str, measure: str | None = None) -> np.ndarray:
    """The values of a measure, one for each seed. The default measure is ``task.measure``."""
    wanted = (task.name, method, measure or task.measure)
    return np.array([r.value for r in rows if (r.task, r.method, r.measure) == wanted])


def report(rows: Sequence[Row], tasks: Sequence[Task], *, markdown: bool = False) -> list[str]:
    """Print a table for each task and the bounds, and return the names of the missed bounds."""
    for task in tasks:
        measures = list(dict.fromkeys(r.measure for r in rows if r.task == task.name))
        lines = [
            [method, *(_mean(values(rows, task, method, measure)) for measure in measures)]
            for method in task.methods
            if len(values(rows, task, method))
        ]
        if lines:
            seeds = max(len(values(rows, task, method)) for method in task.methods)
            title = f"{task.name} ({task.half}; mean ± standard error, {seeds} seeds)"
            print_table(title, ("method", *measures), lines, markdown=markdown)
    return bounds_of(rows, tasks).report(markdown=markdown)


def _mean(found: np.ndarray) -> str:
    if len(found) == 0:
        return "–"
    error = found.std(ddof=1) / len(found) ** 0.5 if len(found) > 1 else float("nan")
    digits = 1 if found.mean() > 10 else 3
    return f"{found.mean():.{digits}f} ± {error:.{digits}f}"


def bounds_of(rows: Sequence[Row], tasks: Sequence[Task]) -> Bounds:
    """The bounds of the default, for tasks in which the default and all rivals were measured."""
    bounds, better, judged = Bounds(), 0, 0
    for task in tasks:
        needed = {DEFAULT, CONTROL, *task.rivals}
        if any(len(values(rows, task, method)) == 0 for method in needed):
            continue
        mean = {method: float(values(rows, task, method).mean()) for method in needed}
        rivals = [mean[rival] for rival in task.rivals]
        judged += 1
        if task.higher:
            best = max(rivals)
            better += mean[DEFAULT] > best
            unit = "points behind"
            bounds.at_most(f"{task.name}, {unit} the best rival", best - mean[DEFAULT], POINTS)
            behind = mean[CONTROL] - mean[DEFAULT]
            bounds.at_most(f"{task.name}, {unit} the control", behind, CONTROL_POINTS)
        else:
            least = LEAST[task.measure]
            value, best = max(mean[DEFAULT], least), max(min(rivals), least)
            better += value < best
            bounds.at_most(f"{task.name}, relative to the best rival", value / best, FACTOR)
            control = max(mean[CONTROL], least)
            bounds.at_most(f"{task.name}, relative to the control", value / control, CONTROL_FACTOR)
        early = values(rows, task, DEFAULT, "leak after 500 steps, nats")
        if len(early):
            early_mean = max(float(early.mean()), LEAST["leak, nats"])
            ratio = max(mean[DEFAULT], LEAST["leak, nats"]) / early_mean
            bounds.at_most(f"{task.name}, after 3,000 steps / after 500", ratio, LONG)
    if judged and judged == len(tasks):
        bounds.at_least("fraction of tasks in which the default is best", better / judged, BETTER)
    return bounds


def draw(rows: Sequence[Row], tasks: Sequence[Task], path: Path) -> Path:
    """Draw a panel for each task, with the mean and the seeds of each method, to ``path``."""
    shown = [task for task in tasks if any(row.task == task.name for row in rows)]
    fig, panels = plots.figure(-(-len(shown) // 3), 3, panel=(3.6, 2.6))
    for ax in panels.flat[len(shown) :]:
        ax.set_visible(False)
    for ax, task in zip(panels.flat, shown, strict=False):
        methods = [method for method in task.methods if len(values(rows, task, method))][::-1]
        for height, method in enumerate(methods):
            found = values(rows, task, method)
            color = _COLORS.get(method, "#0072B2")
            ax.plot(found, np.full(len(found), height), "|", color=color, markersize=8)
            ax.plot(found.mean(), height, "o", color=color, markersize=5)
        ax.set_yticks(range(len(methods)), methods)
        ax.set_title(f"{task.name} ({task.half})", fontsize=9)
        ax.set_xlabel(f"{task.measure} ({'→' if task.higher else '←'} better)")
    fig.savefig(path, dpi=150)
    return path


_COLORS = {DEFAULT: "#D55E00", CONTROL: "#AA3377"}
