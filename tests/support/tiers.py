"""Selects the combinations of parameters that each tier of tests runs.

A parametrized test has many combinations of sizes, dtypes, back ends and operators, its cases. Most
faults appear at one value of one parameter or at one pair of values.

- The first tier (``make test``) runs a few cases that contain every value of every parameter. It
  leaves out tests marked ``thorough``, which take long.
- The second tier (``make check``, ``pytest --all``) runs all tests. Its cases contain every pair of
  values.

``pytest --rest`` runs the cases that the second tier adds to the first. ``pytest --product`` runs
all combinations. For each back end (the CPU, the emulator, a GPU) the cases are chosen separately.
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
    # Values are compared by identity, because they need not be hashable.
    named = sorted((name, id(value)) for name, value in values.items())
    return set(combinations(named, min(strength, len(named))))


def covering(cases: Sequence[Values], strength: int, start: Iterable[int] = ()) -> list[int]:
    """Positions of a few cases in which every combination of ``strength`` values appears.

    The algorithm is greedy: the next case is the first case with the most missing combinations.

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
    """The tests of the second tier that the first tier does not run in the same way.

    Tests with hypothesis get more examples in the second tier. Tests marked ``library`` get a
    library with CUDA kernels.
    """
    again = {i for i in items if _has_examples(i) or i.get_closest_marker("library") is not None}
    done = set(first(items)) - again
    return [item for item in second(items) if item not in done]


def _has_examples(item: pytest.Item) -> bool:
    """Whether hypothesis runs the test. (Its pytest marker does not exist yet at this time.)"""
    return getattr(getattr(item, "obj", None), "is_hypothesis_test", False)
