"""The command ``python -m benchmarks categories``.

The *field* at a sample is M times the gradient of I(s; z) with respect to this sample.
"""

import math
import statistics
import time
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from benchmarks.categories.families import DIMENSIONS, FAMILIES, NO_DEPENDENCE, mixture
from benchmarks.categories.methods import DEFAULT, METHODS, ONE_HOT
from benchmarks.machine import machine
from benchmarks.options import Markdown, Out, Save, Threads
from benchmarks.tables import RESULTS, Bounds, print_table, write_csv
from mige_ext.experiments.common.device import cpu_threads

#: Bounds of the default: a lower bound of the mean of ``Row.cosine`` over the mixtures with
#: dependence, and an upper bound of each ``Row.norm`` if s and z are independent.
COSINE, NORM = 0.75, 0.05


@dataclass(frozen=True)
class Row:
    """A method on a family, over all data sets. Undefined values are NaN.

    Attributes:
        family: Name in ``FAMILIES``.
        d: Dimensions.
        method: Name in ``METHODS``.
        samples: Number of samples M.
        seeds: Number of data sets.
        cosine: Mean cosine between the estimated and the exact field.
        error: Mean squared error of the field, relative to the mean square of the exact field.
        norm: Squared length of the estimated field at a sample, averaged over samples and data
            sets.
        ms: Median time in milliseconds.
    """

    family: str
    d: int
    method: str
    samples: int
    seeds: int
    cosine: float
    error: float
    norm: float
    ms: float


def categories(
    seeds: Annotated[int, typer.Option(min=1, help="Use this many data sets.")] = 4,
    samples: Annotated[int, typer.Option(min=16, help="Number of samples M.")] = 256,
    threads: Threads = 1,
    markdown: Markdown = False,
    out: Out = Path("runs/categories"),
    save: Save = False,
) -> None:
    """Compare gradients of I(s; z) for a category s with the exact gradients of mixtures.

    The command takes about a minute. The exit status is 1 if the default misses a bound.
    """
    print(f"{machine()}; threads: {threads}; M = {samples}, {seeds} data sets, float64")
    with cpu_threads(threads):
        rows = [
            row
            for family in FAMILIES
            for d in DIMENSIONS
            for row in measure(family, d, samples, seeds)
        ]
    _report(rows, markdown)
    folder = RESULTS if save else out
    write_csv(folder / "categories.csv", [f.name for f in fields(Row)], [astuple(r) for r in rows])
    bounds = Bounds()
    cosine, norm, ratio = _of_default(rows)
    bounds.at_least("mean cosine", cosine, COSINE)
    bounds.at_most("largest norm without dependence", norm, NORM)
    bounds.at_most(f"time relative to {ONE_HOT}", ratio, 1.0)
    if bounds.report(markdown=markdown):
        raise typer.Exit(1)


def measure(family: str, d: int, samples: int, seeds: int) -> list[Row]:
    """The rows of all methods. The methods are timed in turn, so that disturbances affect all."""
    source = mixture(family, d)
    found: dict[str, list[tuple[float, float, float, float]]] = {name: [] for name in METHODS}
    for seed in range(seeds):
        s, z = source.draw(samples, seed)
        exact = source.field(s, z)
        torch.manual_seed(seed)
        for name, method in METHODS.items():
            before = time.perf_counter()
            field = method(s, z)
            found[name].append((*_compare(field, exact), 1e3 * (time.perf_counter() - before)))
    rows = []
    for name, values in found.items():
        cosine, error, norm, ms = zip(*values, strict=True)
        mean = statistics.fmean
        numbers = mean(cosine), mean(error), mean(norm), statistics.median(ms)
        rows.append(Row(family, d, name, samples, seeds, *numbers))
    return rows


def _compare(field: Tensor, exact: Tensor) -> tuple[float, float, float]:
    """Cosine and relative squared error (NaN if the exact field is 0), and mean squared length."""
    norm = float(field.square().sum(-1).mean())
    square = float(exact.square().sum(-1).mean())
    if square < 1e-20:
        return math.nan, math.nan, norm
    # A field of 0 has the cosine 0 with every other field.
    cosine = torch.nn.functional.cosine_similarity(field.flatten(), exact.flatten(), 0)
    return float(cosine), float((field - exact).square().sum(-1).mean()) / square, norm


def _report(rows: list[Row], markdown: bool) -> None:
    table = {(row.family, row.d, row.method): row for row in rows}
    dependent = [family for family in FAMILIES if family != NO_DEPENDENCE]
    for title, of in (
        ("Cosine with the exact field", "cosine"),
        ("Relative squared error", "error"),
    ):
        lines: list[list[object]] = [
            [f"{family}, d = {d}", *(float(getattr(table[family, d, m], of)) for m in METHODS)]
            for family in dependent
            for d in DIMENSIONS
        ]
        means = [statistics.fmean(float(str(line[i + 1])) for line in lines)
                 for i in range(len(METHODS))]  # fmt: skip
        print_table(title, ["", *METHODS], [*lines, ["mean", *means]], markdown=markdown)
    lines = [[f"d = {d}", *(table[NO_DEPENDENCE, d, m].norm for m in METHODS)] for d in DIMENSIONS]
    title = "Mean squared length of the field, where it should be 0"
    print_table(title, ["", *METHODS], lines, markdown=markdown)
    medians = [statistics.median(r.ms for r in rows if r.method == m) for m in METHODS]
    print_table("Median time, ms", ["", *METHODS], [["all", *medians]], markdown=markdown)


def _of_default(rows: list[Row]) -> tuple[float, float, float]:
    """Mean cosine, largest norm without dependence, and time relative to one-hot columns."""
    own = [row for row in rows if row.method == DEFAULT]
    one_hot = [row for row in rows if row.method == ONE_HOT]
    cosine = statistics.fmean(row.cosine for row in own if row.family != NO_DEPENDENCE)
    norm = max(row.norm for row in own if row.family == NO_DEPENDENCE)
    times = [statistics.median(row.ms for row in part) for part in (own, one_hot)]
    return cosine, norm, times[0] / times[1]
