"""Selects the combinations of parameters that each tier of tests runs.

A parametrized test multiplies sizes, dtypes, back ends and operators. Most faults appear at one
value of one parameter, and most other faults at one pair of values. There are two tiers:

- The first tier, ``make test``: each test function runs with a few cases that contain every value
  of every parameter.
- The second tier, ``make check`` or ``pytest --all``: the first tier, and more cases until every
  pair of values has occurred.

``pytest --rest`` runs the cases that the second tier adds to the first. ``pytest --product`` runs
all combinations.

Each back end (the CPU, the emulator, a GPU) is covered by itself, because each has its own code.

Tests marked ``thorough`` take long, for example because they kill processes. The first tier leaves
them out.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

import pytest

Values = Mapping[str, object]  # the values of a test's parameters, by name
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


def covering(cases: Sequence[Values], strength: int, start: Iterable[int] = ()) -> list[int]:
    """Positions of a few cases in which every combination of ``strength`` values appears.

    The algorithm is greedy: the next case is the one with the most combinations that are still
    missing. If several cases have equally many, the first of them is next. The result is the same
    in every process.

    Args:
        cases: the values of the parameters of each case.
        strength: 2 covers all pairs of values, 1 covers all values.
        start: positions that are chosen in any case.

    Returns:
        Positions in ``cases``, ascending.
    """
    remaining = {number: _combinations(case, strength) for number, case in enumerate(cases)}
    missing = set[Combination]().union(*remaining.values())
    chosen = list(start)
    for number in chosen:
        missing -= remaining.pop(number)
    while missing:
        best = max(remaining, key=lambda number: (len(remaining[number] & missing), -number))
        missing -= remaining.pop(best)
        chosen.append(best)
    return sorted(chosen)


def _values(item: pytest.Item) -> Values:
    values: Values = item.callspec.params if hasattr(item, "callspec") else {}
    return values


def _cover(
    items: Sequence[pytest.Item], strength: int, start: Iterable[pytest.Item] = ()
) -> list[pytest.Item]:
    """Some of the tests, which cover the parameters of all tests.

    Args:
        items: the tests.
        strength: see :func:`covering`.
        start: tests that are chosen in any case.
    """
    groups: dict[tuple[str, int], list[pytest.Item]] = {}
    for item in items:
        key = item.nodeid.partition("[")[0], id(_values(item).get("backend"))
        groups.setdefault(key, []).append(item)
    started, chosen = set(start), set[pytest.Item]()
    for group in groups.values():
        begin = [number for number, item in enumerate(group) if item in started]
        numbers = covering([_values(item) for item in group], strength, begin)
        chosen |= {group[number] for number in numbers}
    return [item for item in items if item in chosen]


def first(items: Sequence[pytest.Item]) -> list[pytest.Item]:
    """The tests of the first tier."""
    return _cover([i for i in items if i.get_closest_marker("thorough") is None], 1)


def second(items: Sequence[pytest.Item]) -> list[pytest.Item]:
    """The tests of the second tier, which has all tests of the first."""
    return _cover(items, 2, first(items))


def rest(items: Sequence[pytest.Item]) -> list[pytest.Item]:
    """The tests of the second tier that the first one does not have.

    Tests with hypothesis are among them, because the second tier runs them with more examples, and
    tests marked ``library``, because ``make check`` builds the library again with the CUDA kernels.
    """
    again = {i for i in items if _has_examples(i) or i.get_closest_marker("library") is not None}
    done = set(first(items)) - again
    return [item for item in second(items) if item not in done]


def _has_examples(item: pytest.Item) -> bool:
    """Whether hypothesis runs the test. (It sets its marker after the tests are chosen.)"""
    return getattr(getattr(item, "obj", None), "is_hypothesis_test", False)
