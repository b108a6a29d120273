"""Time that the Student start adds to ``AdaptiveScore``."""

import time
from collections.abc import Callable
from functools import partial
from typing import Annotated

import torch
import typer
from torch import Tensor

from benchmarks.machine import machine
from benchmarks.options import Markdown
from benchmarks.tables import Bounds, print_table
from benchmarks.timing import geometric_mean
from mige_ext import ops
from mige_ext.experiments.common.device import cpu_threads

SIZES = ((64, 8), (256, 8), (256, 20), (256, 64), (1024, 64))
#: Upper bound of the geometric mean of a density's ratios over the sizes.
RATIO = 1.15


def gaussian(m: int, d: int) -> Tensor:
    """Samples of N(0, I), (M, d)."""
    return torch.randn(m, d)


def heavy_tailed(nu: float, m: int, d: int) -> Tensor:
    """Samples of Student's t with ν degrees of freedom, (M, d)."""
    return torch.randn(m, d) / torch.distributions.Chi2(nu).sample((m, 1)).div(nu).sqrt()


DENSITIES: dict[str, Callable[[int, int], Tensor]] = {
    "Gaussian": gaussian,
    "Student's t, ν = 10": partial(heavy_tailed, 10.0),
    "Student's t, ν = 3": partial(heavy_tailed, 3.0),
}


def student(
    sets: Annotated[int, typer.Option(min=1, help="Data sets for each size and density.")] = 20,
    markdown: Markdown = False,
) -> None:
    """Measure the time that the Student start adds to an adaptive score, on one CPU thread.

    The operators with and without the start alternate on each data set (float32). The ratio is the
    sum of the CPU times with the start, divided by the sum without it. The start may also save
    time, because the search for λ then stops earlier. The exit status is 1 if the geometric mean
    of a density's ratios is above its bound.
    """
    print(machine())
    lines, bounds = list[tuple[object, ...]](), Bounds()
    with cpu_threads(1):
        for name, draw in DENSITIES.items():
            ratios = []
            for m, d in SIZES:
                plain, started, found = measure(draw, m, d, sets)
                ratios.append(started / plain)
                cells = f"{plain:.0f}", f"{started:.0f}", f"{ratios[-1]:.2f}"
                lines.append((name, m, d, *cells, f"{found} of {sets}"))
            bounds.at_most(f"time with / without the start, {name}", geometric_mean(ratios), RATIO)
    header = ("samples", "M", "d", "without, µs", "with, µs", "ratio", "finite ν")
    print_table("Student start", header, lines, markdown=markdown)
    if bounds.report(markdown=markdown):
        raise typer.Exit(1)


def measure(
    draw: Callable[[int, int], Tensor], m: int, d: int, sets: int
) -> tuple[float, float, int]:
    """Mean times in µs without and with the start, and the number of data sets with a finite ν."""
    torch.manual_seed(0)
    repeats = max(3, 2_000_000 // (m * m * d))
    without = started = 0.0
    finite = 0
    for _ in range(sets):
        x = draw(m, d)
        finite += int(ops.adaptive_student_score(x)[-2].isfinite())
        ops.adaptive_score(x)
        for _ in range(repeats):
            without += seconds(ops.adaptive_score, x)
            started += seconds(ops.adaptive_student_score, x)
    factor = 1e6 / (sets * repeats)
    return factor * without, factor * started, finite


def seconds(operator: Callable[[Tensor], object], x: Tensor) -> float:
    """CPU time of a call."""
    before = time.thread_time()
    operator(x)
    return time.thread_time() - before
