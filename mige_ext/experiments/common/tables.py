"""Tables for the terminal, with one line for each method of a comparison."""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np

from mige_ext.experiments.common.statistics import by_method, mean_and_error

#: A function that makes the cell of a method from the results of the method.
Cell = Callable[[Sequence[Any]], str]


def method_table(
    tested: Sequence[Any],
    methods: Mapping[str, Any],
    setting: str,
    columns: Mapping[str, Cell],
    *,
    more: Sequence[Sequence[str]] = (),
    left: Sequence[str] = (),
) -> str:
    """A table with one line for each method at its chosen setting.

    A line ends with the number of diverged runs, if there are any.

    Args:
        tested: Results of the final runs.
        methods: Methods by name; each has a ``label``.
        setting: Heading of the setting that was searched.
        columns: Functions that make the cells after the setting, by heading.
        more: Cells of further lines.
        left: Headings whose columns are aligned to the left.
    """
    lines = []
    for name, rows in by_method(tested).items():
        diverged = {row.run: row.diverged for row in rows}
        lines.append([
            methods[name].label,
            format_number(rows[0].run.value or None, "g"),
            *(cell(rows) for cell in columns.values()),
            f"{sum(diverged.values())} of {len(diverged)} diverged" * any(diverged.values()),
        ])  # fmt: skip
    heads = ["method", setting, *columns]
    at_left = [0, *map(heads.index, left)]
    return format_columns(heads, [*lines, *more], left=at_left)


def percent_cell(column: str, digits: int) -> Cell:
    """Mean ± standard error of a column in percent, over all runs."""
    return lambda rows: format_mean([100 * getattr(row, column) for row in rows], digits)


def number_cell(
    column: str, spec: str, *, of: Callable[[list[float]], Any] = np.mean, factor: float = 1
) -> Cell:
    """A statistic of a column over the runs that did not diverge, by default the mean."""
    return lambda rows: format_number(
        factor * float(of([getattr(row, column) for row in finished(rows)])), spec
    )


def overhead_cell(of: Callable[[list[float]], Any]) -> Cell:
    """A statistic of ``overhead`` in percent, or "–" for a method that adds nothing to a step."""
    cell = number_cell("overhead", ".0f", of=of, factor=100)
    return lambda rows: cell(rows) if any(row.overhead for row in rows) else "–"


def finished(rows: Sequence[Any]) -> list[Any]:
    """The results of runs that did not diverge, or all results if every run diverged."""
    return [row for row in rows if not row.diverged] or list(rows)


def format_columns(
    heads: Sequence[str], rows: Sequence[Sequence[str]], *, left: Sequence[int] = (0,)
) -> str:
    """Align cells in columns that are two spaces apart.

    Args:
        heads: Heading of each column. A heading may have several lines.
        rows: Cells of each row, from the left. A cell beyond the last column is not aligned.
        left: Columns that are aligned to the left.
    """
    stacks = [head.split("\n") for head in heads]
    height = max(map(len, stacks))
    above = zip(*([""] * (height - len(stack)) + stack for stack in stacks), strict=True)
    lines = [*above, *rows]
    columns = list(zip_longest(*lines, fillvalue=""))[: len(heads)]
    widths = [max(map(len, column)) for column in columns]

    def aligned(at: int, cell: str) -> str:
        if at >= len(heads):
            return cell
        return cell.ljust(widths[at]) if at in left else cell.rjust(widths[at])

    return "\n".join(
        "  ".join(aligned(at, cell) for at, cell in enumerate(line)).rstrip() for line in lines
    )


def format_number(value: float | None, spec: str) -> str:
    """A number in this format, or "–" for None and NaN, or "∞" for infinity."""
    if value is None or math.isnan(value):
        return "–"
    return "∞" if math.isinf(value) else format(value, spec)


def format_mean(values: Sequence[float], digits: int) -> str:
    """Mean ± standard error with this many decimals. One value has no error. No value gives "–"."""
    if not values:
        return "–"
    mean, error = mean_and_error(values)
    spread = "" if math.isnan(error) else f" ± {error:.{digits}f}"
    return f"{mean:.{digits}f}{spread}"
