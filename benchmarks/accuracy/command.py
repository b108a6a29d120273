"""How near score estimators come to the truth, and to the best setting in hindsight.

    python -m mige_ext bench accuracy [--quick] [--samples M ...] [--seeds N] [--families NAME ...]

For each family of ``families.py`` and each M, on the same data sets for all:

- **NMSE** ``Σ‖ŝ − s‖² / Σ‖s‖²`` at the samples, mean over the data sets, and its ratio to that of
  the oracle: the setting of ``oracle.py``, or the Gaussian score, of least mean.
- **Bias of the gradient matrix** that reaches an encoder ``v = A u + noise``: ``‖E Ĝ − G‖ / ‖G‖``,
  G = dI/dA, or dH/dA where nothing is encoded. SGD averages variance away, not bias. G is known
  exactly; from the square of the mean over data sets, the variance of that mean is subtracted.
- **Error of dI/dθ**: √ of the mean square over the data sets, relative to the truth. θ is ρ of the
  correlated Gaussians and their transforms, and a of the bimodal ``aB + ε``.

With z = t(v), ``Ĝ = −(1/M) Σ (ŝ_i ∘ t'(v_i)) u_iᵀ`` and ``dI/dθ ≈ −(1/M) Σ ŝ_i·∂z_i/∂θ``. For a
pair (x, y), where y is encoded, ŝ is that of y less the part for y of that of (x, y).

The oracle has seen the truth, and had some luck where data sets are few: 1 is out of reach.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from benchmarks.accuracy import oracle
from benchmarks.accuracy.distributions import Distribution, Draw
from benchmarks.accuracy.families import FAMILIES, Family
from benchmarks.accuracy.oracle import Setting
from benchmarks.accuracy.report import Row, draw, report
from benchmarks.common import RESULTS, machine
from mige_ext import (
    SSGE,
    AdaptiveScore,
    GaussianScore,
    NuMethod,
    ScoreEstimator,
    Tikhonov,
    compat,
    ops,
)
from mige_ext.experiments.common.device import cpu_threads
from mige_ext.experiments.common.folder import Table
from mige_ext.experiments.common.statistics import mean_and_error

SAMPLES, QUICK = (64, 256, 1024), (64, 256)
TOLERANCE = 1.02  # a data set where an estimator is worse than its control: beyond 2 %

#: Errors of a setting over the data sets: mean and standard error.
Found = dict[Setting, tuple[float, float]]


@dataclass(frozen=True)
class Candidate:
    """A row of the tables.

    Attributes:
        name: as the tables have it.
        estimator: the public one, or a setting of the grid.
        in_grid: whether the oracle may choose it, beside the settings.
        control: the candidate that it should never be much worse than.
    """

    name: str
    estimator: ScoreEstimator
    in_grid: bool = False
    control: str = ""


class GaussianPart:
    """What ``AdaptiveScore(gaussian="ridge")`` corrects: a tenth of the ridge of the best."""

    def score(self, samples: Tensor) -> Tensor:
        """``−(z − m) W Wᵀ``, (M, d) -> (M, d)."""
        mean, whitening, _ = ops.ridge_whitening(samples)
        return -((samples - mean) @ whitening) @ whitening.mT

    def __str__(self) -> str:
        """Where it comes from."""
        return "ops.ridge_whitening"


def candidates() -> list[Candidate]:
    """What is compared on every data set, controls first."""
    return [
        Candidate("Gaussian ridge", GaussianScore("ridge"), in_grid=True),
        Candidate("Gaussian qis", GaussianScore("qis"), in_grid=True),
        Candidate("Gaussian mle", GaussianScore("mle"), in_grid=True),
        Candidate("Gaussian part", GaussianPart(), in_grid=True),
        Candidate("adaptive ridge", AdaptiveScore(gaussian="ridge"), control="Gaussian part"),
        Candidate("adaptive qis", AdaptiveScore(), control="Gaussian qis"),
        Candidate("adaptive mle", AdaptiveScore(gaussian="mle"), control="Gaussian mle"),
        Candidate("SSGE .99", SSGE()),
        Candidate("SSGE calibrated", SSGE(calibrate="stein")),
        Candidate("authors' .99", compat.SpectralScoreEstimator(n_eigen_threshold=0.99)),
        Candidate("Tikhonov", Tikhonov()),
        Candidate("NuMethod", NuMethod()),
    ]


# --- figures of merit -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Merit:
    """What an estimator makes of S data sets.

    Attributes:
        nmse: (S).
        gradients: Ĝ, (S, k, k).
        derivatives: of dI/dθ, (S); NaN where there is none.
    """

    nmse: NDArray[np.float64]
    gradients: Tensor
    derivatives: NDArray[np.float64]

    def bias(self, exact: float) -> float:
        """``‖E Ĝ − g I‖ / ‖g I‖``, without the variance of the mean; NaN for one data set."""
        s, k = self.gradients.shape[:2]
        if s == 1:
            return float("nan")
        target = exact * torch.eye(k, dtype=self.gradients.dtype)
        square = (self.gradients.mean(0) - target).square().sum()
        noise = self.gradients.var(0).sum() / s
        return float(((square - noise).clamp(min=0) / target.square().sum()).sqrt())

    def derivative_error(self, exact: float | None) -> float:
        """√ mean (estimate − exact)², relative; NaN where there is none."""
        if exact is None:
            return float("nan")
        return float(np.sqrt(np.mean((self.derivatives - exact) ** 2)) / abs(exact))


def evaluate(estimator: ScoreEstimator, distribution: Distribution, draws: Sequence[Draw]) -> Merit:
    """The figures of merit on some data sets."""
    nmse, gradients, derivatives = [], [], []
    for draw_ in draws:
        scores = estimator.score(draw_.samples)
        exact = distribution.score(draw_.samples)
        nmse.append(((scores - exact).square().sum() / exact.square().sum()).item())
        if distribution.paired:  # I = H(x) + H(y) − H(x, y), of which x does not move
            y = draw_.samples.chunk(2, -1)[1]
            scores = estimator.score(y) - scores.chunk(2, -1)[1]
        gradients.append(-(scores * draw_.slope).mT @ draw_.inputs / len(scores))
        tangent = draw_.slope * torch.nan if draw_.tangent is None else draw_.tangent
        derivatives.append(-(scores * tangent).sum(-1).mean().item())
    return Merit(np.array(nmse), torch.stack(gradients), np.array(derivatives))


# --- one family, one M ----------------------------------------------------------------------------


def measure(
    family: Family, m: int, seeds: int, after: Callable[[], object] = lambda: None
) -> tuple[list[Row], Found]:
    """The rows of a family, and the errors of every setting of the grid.

    Args:
        family: what is sampled.
        m: M.
        seeds: data sets.
        after: called after the grid of each data set.
    """
    distribution = family.distribution
    draws = [distribution.draw(m, _stream(family.name, m, seed)) for seed in range(seeds)]
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

    rows = []
    for c in (*compared, Candidate("oracle", chosen.estimator)):
        merit = merits[c.name]
        nmse, error = mean_and_error(merit.nmse.tolist())
        worse = float("nan")
        if c.control:
            worse = float((merit.nmse > TOLERANCE * merits[c.control].nmse).mean())
        rows.append(
            Row(
                family.name, distribution.d, family.half, m, c.name, _describe(c.estimator),
                seeds, nmse, error, float(nmse / least), merit.bias(distribution.gradient),
                merit.derivative_error(distribution.derivative), worse,
            )
        )  # fmt: skip
    return rows, found


def fixed_rows(rows: Sequence[Row], found: dict[str, Found]) -> list[Row]:
    """The one setting of least geometric mean over the chosen half, on all families of one M.

    Args:
        rows: of one M.
        found: what :func:`measure` gave for each family, by name.
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


def _stream(name: str, m: int, seed: int) -> torch.Generator:
    """Random numbers of their own for each data set."""
    state = np.random.SeedSequence([seed, m, *name.encode()]).generate_state(1)
    return torch.Generator().manual_seed(int(state[0]))


# --- the command ----------------------------------------------------------------------------------


def default_seeds(m: int) -> int:
    """16 data sets of 64 samples, 8 of 256, 3 of 1024."""
    return min(16, max(3, 2048 // m))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mige_ext bench accuracy",
        description="Score estimators against known scores, and against the best setting in "
        "hindsight. With --quick, five minutes on one thread.",
        epilog=f"families: {', '.join(FAMILIES)}",
    )
    parser.add_argument("--quick", action="store_true", help="without M = 1024")
    parser.add_argument(
        "--samples", type=int, nargs="+", metavar="M",
        help=f"default {' '.join(map(str, SAMPLES))}",
    )  # fmt: skip
    parser.add_argument(
        "--seeds", type=int, metavar="N", help="data sets of each (default 16, 8, 3 for those M)"
    )
    parser.add_argument(
        "--families", nargs="+", metavar="NAME",
        help="those that are named below, or all of a kind: bimodal-5, gaussian",
    )  # fmt: skip
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="default 1")
    parser.add_argument("--markdown", action="store_true", help="print the tables in Markdown")
    parser.add_argument(
        "--save", action="store_true",
        help="write accuracy.csv, in which other families and M stay, and accuracy.png",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, default=RESULTS, metavar="FOLDER",
        help="where --save writes (default benchmarks/results)",
    )  # fmt: skip
    return parser


def main(arguments: Sequence[str]) -> int:
    """Runs what the arguments ask for; the exit status is 1 if a promise is missed."""
    parser = _parser()
    options = parser.parse_args(arguments)
    samples = options.samples or (QUICK if options.quick else SAMPLES)
    if min(samples) < 8:
        parser.error(f"--samples must be at least 8, got {min(samples)}")
    if options.seeds is not None and options.seeds < 1:
        parser.error(f"--seeds must be at least 1, got {options.seeds}")
    wanted = options.families or list(FAMILIES)
    for name in wanted:
        if not any(name in (family, family.split("-")[0]) for family in FAMILIES):
            parser.error(f"--families: there is no {name}; there are {', '.join(FAMILIES)}")
    families = [
        family
        for family in FAMILIES.values()
        if {family.name, family.name.split("-")[0]} & set(wanted)
    ]
    table = None
    if options.save:
        options.out.mkdir(parents=True, exist_ok=True)
        table = Table(options.out / "accuracy.csv", Row)
    print(f"{machine()}; threads: {options.threads}")
    with cpu_threads(options.threads):
        rows = _run(families, samples, options.seeds, table)
    status = report(rows, complete=len(families) == len(FAMILIES), markdown=options.markdown)
    if table is not None:
        print(f"\n{table.path}\n{draw(table.rows, options.out / 'accuracy.png')}")
    return status


def _run(
    families: Sequence[Family], samples: Sequence[int], seeds: int | None, table: Table[Row] | None
) -> list[Row]:
    """Measures all, and writes each family as it comes."""
    numbers = {m: seeds or default_seeds(m) for m in samples}
    rows: list[Row] = []

    def keep(new: Sequence[Row]) -> None:
        rows.extend(new)
        if table is not None:
            keys = {(row.family, row.samples, row.estimator) for row in new}
            old = (r for r in table.rows if (r.family, r.samples, r.estimator) not in keys)
            table.replace([*old, *new])

    with tqdm(total=sum(numbers.values()) * len(families), unit="data set") as progress:
        for m, number in numbers.items():
            found = {}
            of_m: list[Row] = []
            for family in families:
                progress.set_description(f"M = {m}, {family.name}")
                new, found[family.name] = measure(family, m, number, progress.update)
                of_m += new
                keep(new)
            keep(fixed_rows(of_m, found))
    return rows
