"""The measurement of all estimators and the oracle on one family at one M.

NMSE is the mean squared error of a score, divided by the mean square of the true score. The oracle
is the setting with the lowest mean NMSE among the settings of ``oracle.py`` and the Gaussian
scores. This choice uses the true score and a few data sets, so no estimator is expected to reach a
ratio of 1 to the oracle.
"""

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from benchmarks.accuracy import oracle
from benchmarks.accuracy.estimators import Candidate, candidates
from benchmarks.accuracy.families import Family, stream
from benchmarks.accuracy.merit import Merit, evaluate
from benchmarks.accuracy.oracle import Setting
from benchmarks.accuracy.report import Row
from mige_ext import compat
from mige_ext.experiments.common.statistics import mean_and_error

TOLERANCE = 1.02  # an NMSE above this multiple of the control's NMSE counts as worse

#: Errors of a setting over the data sets: mean and standard error.
Found = dict[Setting, tuple[float, float]]


def measure(
    family: Family, m: int, seeds: int, after: Callable[[], object] = lambda: None
) -> tuple[list[Row], Found]:
    """The rows of a family, and the errors of every setting of the grid.

    Args:
        family: The family that is sampled.
        m: Number of samples M.
        seeds: Number of data sets.
        after: Called after the grid of each data set.
    """
    distribution = family.distribution
    draws = [distribution.draw(m, stream(family.name, m, seed)) for seed in range(seeds)]
    groups = oracle.grid(m, distribution.d)
    errors = []
    for draw_ in draws:
        exact = distribution.score(draw_.samples)
        errors.append([e for group in groups for e in oracle.errors(draw_.samples, exact, group)])
        after()
    settings = [setting for group in groups for setting in group]
    found = {
        setting: mean_and_error(column)
        for setting, column in zip(settings, np.transpose(errors).tolist(), strict=True)
    }
    compared = candidates()
    for name in oracle.NUMBERS:
        best = min((s for s in settings if s.filter == name), key=lambda s: found[s][0])
        compared.append(Candidate(f"best {name}", best, in_grid=True))
    merits = {c.name: evaluate(c.estimator, distribution, draws) for c in compared}
    chosen = min((c for c in compared if c.in_grid), key=lambda c: merits[c.name].nmse.mean())
    merits["oracle"] = merits[chosen.name]
    least = merits["oracle"].nmse.mean()

    compared.append(Candidate("oracle", chosen.estimator))
    return [_row(family, m, c, merits, least) for c in compared], found


def measure_only(
    names: Collection[str], family: Family, m: int, seeds: int, least: float
) -> list[Row]:
    """The rows of some estimators, without the grid of the oracle.

    Args:
        names: Names of the estimators.
        family: The family that is sampled.
        m: Number of samples M.
        seeds: Number of data sets.
        least: NMSE of the oracle on the same data sets.
    """
    distribution = family.distribution
    draws = [distribution.draw(m, stream(family.name, m, seed)) for seed in range(seeds)]
    chosen = [c for c in candidates() if c.name in names]
    controls = {c.control for c in chosen}
    needed = [c for c in candidates() if c.name in controls | set(names)]
    merits = {c.name: evaluate(c.estimator, distribution, draws) for c in needed}
    return [_row(family, m, c, merits, least) for c in chosen]


def _row(
    family: Family, m: int, candidate: Candidate, merits: Mapping[str, Merit], least: float
) -> Row:
    distribution, merit = family.distribution, merits[candidate.name]
    nmse, error = mean_and_error(merit.nmse.tolist())
    worse = float("nan")
    if candidate.control:
        worse = float((merit.nmse > TOLERANCE * merits[candidate.control].nmse).mean())
    return Row(
        family.name, distribution.d, family.half, m, candidate.name,
        _describe(candidate.estimator), len(merit.nmse), nmse, error, float(nmse / least),
        merit.bias(distribution.gradient), merit.derivative_error(distribution.derivative), worse,
    )  # fmt: skip


def fixed_rows(rows: Sequence[Row], found: dict[str, Found]) -> list[Row]:
    """The rows of the setting with the least geometric mean NMSE over the half "chosen".

    Args:
        rows: Rows of one M.
        found: Errors that :func:`measure` returned, by name of the family.
    """
    oracles = [row for row in rows if row.estimator == "oracle"]
    chosen = [row for row in oracles if row.half == "chosen"]
    if not chosen:
        return []
    first, *others = found.values()
    common = [setting for setting in first if all(setting in errors for errors in others)]
    best = min(common, key=lambda s: sum(np.log(found[row.family][s][0]) for row in chosen))
    nan = float("nan")
    return [
        Row(
            row.family, row.d, row.half, row.samples, "best fixed", str(best), row.seeds,
            *found[row.family][best], found[row.family][best][0] / row.nmse, nan, nan, nan,
        )
        for row in oracles
    ]  # fmt: skip


def _describe(estimator: object) -> str:
    if isinstance(estimator, compat.SpectralScoreEstimator):
        return f"compat, n_eigen_threshold={estimator.n_eigen_threshold}"
    return str(estimator)
