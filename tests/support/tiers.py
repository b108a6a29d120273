"""Which tests `make test` runs: every behavior once. `make check` (``--all``) runs the rest too.

A parametrized test multiplies sizes, dtypes, back ends and operators. Most faults show at one value
of one parameter, or at a pair of values. So of each test function the first tier takes the fewest
combinations, in their own order, in which every pair of values appears, and the second tier takes
all of them. Tests marked ``thorough`` belong to the second tier as a whole.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

import pytest

Values = Mapping[str, object]  # of the parameters of a test, by name
Combination = tuple[tuple[str, int], ...]


def _combinations(values: Values, strength: int) -> set[Combination]:
    # By identity: parametrized tests share the objects of one list, which need not be hashable.
    named = sorted((name, id(value)) for name, value in values.items())
    return set(combinations(named, min(strength, len(named))))


def covering(cases: Sequence[Values], strength: int = 1) -> list[int]:
    """Numbers of a few cases in which every combination of ``strength`` values appears.

    Greedy: the case with the most combinations that are still missing comes next, the first of
    equals. The result is the same in every process.

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


def first_tier(items: Iterable[pytest.Item]) -> tuple[list[pytest.Item], list[pytest.Item]]:
    """The tests of `make test`, and those that only `make check` runs."""
    groups: dict[str, list[pytest.Item]] = {}
    for item in items:
        groups.setdefault(item.nodeid.partition("[")[0], []).append(item)
    kept: list[pytest.Item] = []
    left: list[pytest.Item] = []
    for group in groups.values():
        parametrized = [item for item in group if hasattr(item, "callspec")]
        plain = [item for item in group if not hasattr(item, "callspec")]
        chosen = covering([item.callspec.params for item in parametrized])  # type: ignore[attr-defined]
        wanted = {id(parametrized[number]) for number in chosen} | set(map(id, plain))
        for item in group:
            quick = id(item) in wanted and item.get_closest_marker("thorough") is None
            (kept if quick else left).append(item)
    return kept, left
