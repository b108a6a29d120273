"""Means with their errors, and the rule that chooses a setting by them."""

import math

from hypothesis import given
from hypothesis import strategies as st

from mige_ext.experiments.common.runs import Run
from mige_ext.experiments.common.statistics import (
    mean_and_error,
    one_standard_error_rule,
    spread_of_methods,
)


def test_mean_and_error_of_known_values() -> None:
    assert mean_and_error([1.0, 2.0, 3.0, 6.0]) == (3.0, math.sqrt(14 / 3 / 4))
    mean, error = mean_and_error([2.0])
    assert mean == 2.0
    assert math.isnan(error)


def test_the_description_of_a_spread_names_all_numbers_of_seeds() -> None:
    rows = [Run("vib", 0.1, 0), Run("vib", 0.1, 1), Run("mige", 0.1, 0)]
    assert spread_of_methods(rows) == "mean ± standard error of 1 to 2 seeds"
    assert spread_of_methods(rows[:2]) == "mean ± standard error of 2 seeds"
    assert spread_of_methods(rows[2:]) == spread_of_methods([]) == "one seed"


def test_one_standard_error_rule_takes_the_strongest_that_does_no_measurable_harm() -> None:
    errors = {0.1: [0.30, 0.31], 0.01: [0.11, 0.13], 0.001: [0.10, 0.14], 0.0001: [0.09, 0.13]}
    assert one_standard_error_rule(errors) == 0.01  # least mean .11, standard error .02
    assert one_standard_error_rule({**errors, 0.1: [0.11, 0.14]}) == 0.1


def test_one_standard_error_rule_with_one_seed_takes_the_strongest_of_the_best() -> None:
    assert one_standard_error_rule({0.1: [0.2], 0.01: [0.1], 0.001: [0.1]}) == 0.01


@given(
    st.dictionaries(
        st.floats(1e-4, 1), st.lists(st.floats(0, 1), min_size=3, max_size=3), min_size=1
    )
)
def test_one_standard_error_rule_never_takes_a_weaker_one_than_the_best(
    errors: dict[float, list[float]],
) -> None:
    best = min(errors, key=lambda strength: mean_and_error(errors[strength]))
    assert one_standard_error_rule(errors) >= best
