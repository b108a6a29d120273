"""Means over seeds, their standard errors, and the choice of a setting."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean and its standard error, which is NaN for a single value."""
    error = np.std(values, ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return float(np.mean(values)), float(error)


def by_method(rows: Sequence[Any]) -> dict[str, list[Any]]:
    """Rows or runs grouped by their method, in the order of first appearance."""
    groups: dict[str, list[Any]] = {}
    for row in rows:
        groups.setdefault(row.method, []).append(row)
    return groups


def by_value(rows: Sequence[Any]) -> dict[float, list[Any]]:
    """Rows grouped by the value of the setting that is searched, in ascending order."""
    values = sorted({row.run.value for row in rows})
    return {value: [row for row in rows if row.run.value == value] for value in values}


def without_divergence(rows: Sequence[Any]) -> dict[float, list[Any]]:
    """The rows of one method by value, without the values at which a run diverged.

    If a run diverged at every value, the smallest value is kept.
    """
    grid = by_value(rows)
    whole = {value: of for value, of in grid.items() if not any(row.diverged for row in of)}
    return whole or dict(list(grid.items())[:1])


def spread_of(seeds: int, deviation: str = "standard error") -> str:
    """Description of values in a table or figure, like "mean ± standard error of 3 seeds"."""
    return f"mean ± {deviation} of {seeds} seeds" if seeds > 1 else "one seed"


def spread_of_methods(rows: Sequence[Any]) -> str:
    """``spread_of`` for the results of methods that may have different numbers of seeds."""
    counts = [len({row.seed for row in of}) for of in by_method(rows).values()]
    low, high = min(counts, default=1), max(counts, default=1)
    if low == high:
        return spread_of(high)
    return f"mean ± standard error of {low} to {high} seeds"


def one_standard_error_rule(errors: Mapping[float, Sequence[float]]) -> float:
    """Choose the strongest regularization that does no measurable harm (Breiman et al., 1984).

    Args:
        errors: Validation errors over seeds, by strength of the regularization.

    Returns:
        The largest strength whose mean error is within one standard error of the least mean. With
        one seed, there is no standard error, and the result is the largest strength with the least
        error.
    """
    summary = {strength: mean_and_error(values) for strength, values in errors.items()}
    least, error = min(summary.values())
    limit = least if math.isnan(error) else least + error
    return max(strength for strength, (mean, _) in summary.items() if mean <= limit)
