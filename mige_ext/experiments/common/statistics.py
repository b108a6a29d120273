"""Means over seeds, their errors, and the choice of a setting by them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean and its standard error, which is NaN for a single value."""
    error = np.std(values, ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return float(np.mean(values)), float(error)


def format_mean(values: Sequence[float], digits: int) -> str:
    """Mean ± standard error with this many decimals. One value has no error; no value gives "–"."""
    if not values:
        return "–"
    mean, error = mean_and_error(values)
    spread = "" if math.isnan(error) else f" ± {error:.{digits}f}"
    return f"{mean:.{digits}f}{spread}"


def by_method(rows: Sequence[Any]) -> dict[str, list[Any]]:
    """Rows or runs grouped by their method, in the order of first appearance."""
    groups: dict[str, list[Any]] = {}
    for row in rows:
        groups.setdefault(row.method, []).append(row)
    return groups


def finished(rows: Sequence[Any]) -> list[Any]:
    """Results that did not diverge, for columns in which a diverged run has no value.

    If every run diverged, all rows are returned, and a table prints NaN.
    """
    return [row for row in rows if not row.diverged] or list(rows)


def settings_without_divergence(rows: Sequence[Any], setting: str) -> list[float]:
    """Values of a setting for which no run diverged, in ascending order.

    Args:
        rows: Results of one method.
        setting: Column of the setting.

    Returns:
        The values; only the smallest value if every value has a diverged run.
    """
    values = sorted({getattr(row, setting) for row in rows})
    diverged = {getattr(row, setting) for row in rows if row.diverged}
    return [value for value in values if value not in diverged] or values[:1]


def divergence_note(rows: Sequence[Any]) -> str:
    """Note of a table's line: the number of its runs that diverged, or "" if none did."""
    number = sum(row.diverged for row in rows)
    return f"{number} of {len(rows)} diverged" if number else ""


def spread_of(seeds: int, deviation: str = "standard error") -> str:
    """Description of the values of a table or figure: a mean over seeds with its ``deviation``."""
    return f"mean ± {deviation} of {seeds} seeds" if seeds > 1 else "one seed"


def one_standard_error_rule(errors: Mapping[float, Sequence[float]]) -> float:
    """Choose the strongest regularization that does no measurable harm (Breiman et al., 1984).

    Args:
        errors: Validation errors over seeds, by strength of the regularization.

    Returns:
        The largest strength whose mean error is within one standard error of the least mean. One
        seed has no standard error; the result is then the largest strength with the least error.
    """
    summary = {strength: mean_and_error(values) for strength, values in errors.items()}
    least, error = min(summary.values())
    limit = least if math.isnan(error) else least + error
    return max(strength for strength, (mean, _) in summary.items() if mean <= limit)
