"""Tables for the terminal: alignment, long headings, notes."""

import math

from mige_ext.experiments.common.tables import format_columns, format_number


def test_columns_are_aligned_below_headings_of_several_lines() -> None:
    table = format_columns(
        ["name", "time,\ns", "who"], [["a", "1.5", "x"], ["bcdef", "10.5", "yz"]]
    )
    assert table.splitlines() == [
        "       time,",
        "name       s  who",
        "a        1.5    x",
        "bcdef   10.5   yz",
    ]


def test_a_row_may_be_short_or_end_with_a_note() -> None:
    table = format_columns(["a", "b"], [["x"], ["y", "2", "1 of 3 diverged"]])
    assert table.splitlines()[1:] == ["x", "y  2  1 of 3 diverged"]


def test_numbers_without_a_value_are_dashes() -> None:
    values = (None, math.nan, math.inf, 0.25)
    assert [format_number(value, ".1f") for value in values] == ["–", "–", "∞", "0.2"]
