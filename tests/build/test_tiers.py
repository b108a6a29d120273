"""The choice of parameter combinations for a tier of tests."""

import re
import subprocess
import sys
from itertools import product

import pytest

from tests.support.process import ROOT, environment
from tests.support.tiers import covering

SIZES, DTYPES, BACKENDS = ("one", "two", "three"), ("single", "double"), ("cpu", "emulated")
CASES = [
    {"size": size, "dtype": dtype, "backend": backend}
    for size, dtype, backend in product(SIZES, DTYPES, BACKENDS)
]


def test_the_first_tier_has_every_value() -> None:
    chosen = [CASES[number] for number in covering(CASES, 1)]
    assert len(chosen) == len(SIZES)
    assert {case["size"] for case in chosen} == set(SIZES)
    assert {case["dtype"] for case in chosen} == set(DTYPES)
    assert {case["backend"] for case in chosen} == set(BACKENDS)


def test_the_second_tier_has_every_pair_of_values() -> None:
    chosen = [CASES[number] for number in covering(CASES, 2)]
    assert len(chosen) < len(CASES)
    for a, b in (("size", "dtype"), ("size", "backend"), ("dtype", "backend")):
        pairs = {(case[a], case[b]) for case in CASES}
        assert {(case[a], case[b]) for case in chosen} == pairs


def test_the_second_tier_has_the_cases_of_the_first() -> None:
    first = covering(CASES, 1)
    second = covering(CASES, 2, first)
    assert set(first) < set(second)
    for a, b in (("size", "dtype"), ("size", "backend"), ("dtype", "backend")):
        pairs = {(case[a], case[b]) for case in CASES}
        assert {(CASES[number][a], CASES[number][b]) for number in second} == pairs


def test_a_test_without_parameters_is_covered_by_itself() -> None:
    assert covering([{}], 2) == [0]


@pytest.mark.thorough  # because two processes load torch
def test_the_rest_runs_tests_of_hypothesis_again_with_more_examples() -> None:
    file = "tests/scores/test_properties.py"
    collected = []
    for tier in ("--all", "--rest"):
        command = [sys.executable, "-m", "pytest", tier, "--collect-only", "-q", file]
        result = subprocess.run(
            command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=True
        )
        collected += re.findall(rf"{file}: (\d+)", result.stdout)
    assert len(collected) == 2 and collected[0] == collected[1]
