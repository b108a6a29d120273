"""Selects the combinations of parameters that each tier of tests runs.

A parametrized test multiplies sizes, dtypes, back ends and operators. Most faults appear at one
value of one parameter, and most of the others at one pair of values. There are two tiers:

- The first tier, ``make test``: each test function runs with a few cases that contain every value
  of every parameter.
- The second tier, ``make check`` or ``pytest --all``: the cases contain every pair of values.

``pytest --product`` runs all combinations.

Each back end (the CPU, the emulator, a GPU) is covered by itself, because each has its own code.

Tests marked ``thorough`` take long, for example because they kill processes. The first tier leaves
them out.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

import pytest

Values = Mapping[str, object]  # of the parameters of a test, by name
Combination = tuple[tuple[str, int], ...]

thorough = False  # set by conftest.py before tests are imported: whether the second tier runs


def examples(first_tier: int, second_tier: int) -> int:
    """The number of examples of a test with hypothesis."""
    return second_tier if thorough else first_tier


def _combinations(values: Values, strength: int) -> set[Combination]:
    # Values are compared by identity, because they need not be hashable. The cases of one
    # parametrized test have the same objects.
    named = sorted((name, id(value)) for name, value in values.items())
    return set(combinations(named, min(strength, len(named))))


def covering(cases: Sequence[Values], strength: int) -> list[int]:
    """Positions of a few cases in which every combination of ``strength`` values appears.

    The algorithm is greedy: the next case is the one with the most combinations that are still
    missing. If several cases have equally many, the first of them is next. The result is the same
    in every process.

    Args:
        cases: the values of the parameters of each case.
        strength: 2 covers all pairs, 1 each value by itself.

    Returns:
        Positions in ``cases``, ascending.
    """
    remaining = {number: _combinations(case, strength) for number, case in enumerate(cases)}
    missing = set[Combination]().union(*remaining.values())
    chosen: list[int] = []
    while missing:
        best = max(remaining, key=lambda number: (len(remaining[number] & missing), -number))
        missing -= remaining.pop(best)
        chosen.append(best)
    return sorted(chosen)


def _values(item: pytest.Item) -> Values:
    values: Values = item.callspec.params if hasattr(item, "callspec") else {}
    return values


def split(
    items: Iterable[pytest.Item], strength: int, thorough: bool
) -> tuple[list[pytest.Item], list[pytest.Item]]:
    """Split the tests into those of a tier and all others.

    Args:
        items: all tests.
        strength: see :func:`covering`.
        thorough: whether the tests marked ``thorough`` belong to the tier.
    """
    groups: dict[tuple[str, int], list[pytest.Item]] = {}
    for item in items:
        if thorough or item.get_closest_marker("thorough") is None:
            key = item.nodeid.partition("[")[0], id(_values(item).get("backend"))
            groups.setdefault(key, []).append(item)
    chosen: set[pytest.Item] = set()
    for group in groups.values():
        numbers = covering([_values(item) for item in group], strength)
        chosen |= {group[number] for number in numbers}
    return [i for i in items if i in chosen], [i for i in items if i not in chosen]
