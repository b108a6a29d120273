"""Learning curves, drawn in the same way for all experiments."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from mige_ext.experiments.common import plots
from mige_ext.experiments.common.runs import Run
from mige_ext.experiments.common.statistics import by_method


def draw_learning_curves(
    axes: Mapping[str, Axes],
    metrics: Sequence[Any],
    shown: Sequence[Run],
    methods: Mapping[str, Any],
    *,
    x: str = "epoch",
    percent: Sequence[str] = (),
    levels: Sequence[str] = (),
) -> None:
    """Draw mean ± standard deviation over the seeds of columns of metrics.csv, a line a method.

    A curve ends where its shortest run ends. Infinite values are not drawn.

    Args:
        axes: Where each column is drawn.
        metrics: Rows of metrics.csv.
        shown: Runs to draw, with one setting for each method.
        methods: Methods by name, for their labels.
        x: Column of the positions.
        percent: Columns that are drawn in percent.
        levels: Methods that are drawn as a dotted line at their first value.
    """
    for method, runs in by_method(shown).items():
        begun = [[row for row in metrics if row.run == run] for run in runs]
        begun = [rows for rows in begun if rows]
        if not begun:
            continue
        shared, label = min(map(len, begun)), methods[method].label
        for column, ax in axes.items():
            values = _column(begun, column, shared) * (100 if column in percent else 1)
            if method in levels:
                level = values[:, 0].mean()
                ax.axhline(level, color=plots.PALETTE[label], linestyle=":", label=label)
            else:
                at = _column(begun[:1], x, shared)[0]
                marker = "o" if shared == 1 else ""  # a line of one point is invisible
                plots.band(ax, at, values, label=label, marker=marker)


def _column(runs: Sequence[Sequence[Any]], column: str, length: int) -> NDArray[np.float64]:
    values = np.array([[getattr(row, column) for row in rows[:length]] for rows in runs], float)
    return np.where(np.isinf(values), np.nan, values)
