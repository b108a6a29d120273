"""The choice of parameter combinations for a tier of tests."""

from itertools import product

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
