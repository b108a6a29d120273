"""The roofline: two ceilings measured on the spot, and how near to them an operator comes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.common import time_call
from benchmarks.operators.records import Record

if TYPE_CHECKING:  # only for the figure is matplotlib needed
    from matplotlib.axes import Axes

MATMUL = {"cpu": 1024, "cuda": 4096}  # n of the n×n matrices whose product gives the peak
COPY = {"cpu": 2**28, "cuda": 2**30}  # bytes that are copied, far more than caches hold
ROUNDS = 10


@dataclass(frozen=True)
class Ceilings:
    """What this machine can do at best: arithmetic in GFLOP/s, memory traffic in GB/s."""

    gflops: float
    gbs: float

    def attainable(self, flop: float, size: float) -> float:
        """GFLOP/s within reach of work that does ``flop`` while moving ``size`` bytes."""
        return min(self.gflops, flop / size * self.gbs)

    def percent(self, flop: float, size: float, seconds: float) -> float:
        """What share of that was attained, in percent."""
        return 100 * flop / seconds / 1e9 / self.attainable(flop, size)


def measure_ceilings(device: str, dtype: torch.dtype) -> Ceilings:
    """The best of a few products of large matrices, and of a few copies of a large array.

    The product (2n³ flop) is all fused multiply-adds; on the CPU a convolution is tried too. A
    squared difference is not: its 3 flop take a subtraction and a multiply-add, two instructions
    that could have done 4, so that distances cannot pass 75 % of this ceiling. A copy reads and
    writes; that a processor may first read the lines that it is about to overwrite is not counted,
    here or for the operators.
    """
    product = _product(MATMUL[device], device, dtype)
    if device == "cpu":
        # Measured on AMD with AVX-512: MKL's product, 111 GFLOP/s, stays below half of what oneDNN
        # gets out of a convolution, 248. That has float32 only; float64 is half as fast.
        product = max(product, _convolution() * torch.float32.itemsize / dtype.itemsize)
    source = torch.ones(COPY[device] // dtype.itemsize, dtype=dtype, device=device)
    target = torch.zeros_like(source)
    moved = 2 * source.numel() * dtype.itemsize
    return Ceilings(product, moved / _fastest(lambda: target.copy_(source), device) / 1e9)


def _product(n: int, device: str, dtype: torch.dtype) -> float:
    """GFLOP/s of a product of n×n matrices."""
    a, b, c = (torch.ones(n, n, dtype=dtype, device=device) for _ in range(3))
    return 2 * n**3 / _fastest(lambda: torch.mm(a, b, out=c), device) / 1e9


def _convolution() -> float:
    """GFLOP/s of a convolution in float32 on the CPU, 8 images of 32×32 with 256 channels."""
    images, weights = torch.ones(8, 256, 34, 34), torch.ones(256, 256, 3, 3)
    images = images.to(memory_format=torch.channels_last)
    weights = weights.to(memory_format=torch.channels_last)
    flop = 2 * 8 * 256 * 32 * 32 * 256 * 3 * 3
    with torch.no_grad():
        return flop / _fastest(lambda: F.conv2d(images, weights), "cpu") / 1e9


def _fastest(function: Callable[[], object], device: str) -> float:
    return min(time_call(function, device) for _ in range(ROUNDS))


# --- the figure -----------------------------------------------------------------------------------

MARKERS = "osD^vPX"  # by operator
# Where a number may stand beside its point, in points of 1/72 inch; the first is preferred.
SIDES = ((11, 0), (-12, 0), (0, 11), (0, -11), (9, 9), (-9, 9), (9, -9), (-9, -9), (22, 0))
ENOUGH = 20.0  # pixels between a number and what is next to it


def draw(path: Path, records: Sequence[Record], ceilings: Ceilings) -> None:
    """Draws the ceilings and a point for each record; all of them of one machine and dtype.

    Points of one operator share colour and marker. Each carries a number, which the list beside
    the plot explains, because sizes written out next to the points would cover one another.
    """
    from matplotlib.figure import Figure

    first = records[0]
    figure = Figure(figsize=(11, 6), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.set(
        xscale="log", yscale="log",
        xlabel="flop per byte (arguments read once, results written once)",
        ylabel="GFLOP/s",
        title=f"{first.machine}, {first.where()}, {first.dtype}",
    )  # fmt: skip
    axes.grid(alpha=0.3)
    _draw_ceilings(axes, ceilings, records)
    operators = list(dict.fromkeys(record.operator for record in records))
    colours = [f"C{operators.index(record.operator) % 10}" for record in records]
    points = [(record.gflops / record.gbs, record.gflops) for record in records]
    for number, (record, point, colour) in enumerate(zip(records, points, colours, strict=True), 1):
        axes.plot(
            *point, MARKERS[operators.index(record.operator) % len(MARKERS)], color=colour,
            markersize=8, markerfacecolor="none", markeredgewidth=1.6, linestyle="none",
            label=f"{number}  {record.operator}  {record.size}",
        )  # fmt: skip
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    figure.draw_without_rendering()  # settles where on the page the points are
    _number(axes, points, colours)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _number(axes: "Axes", points: Sequence[tuple[float, float]], colours: Sequence[str]) -> None:
    """Writes its number beside each point, on the side where most room is left."""
    spots = axes.transData.transform(points)  # in pixels
    sides = np.array(SIDES) * axes.figure.dpi / 72
    taken = list(spots)
    for number, (point, spot, colour) in enumerate(zip(points, spots, colours, strict=True), 1):
        others = np.array([other for other in taken if (other != spot).any()] or [spot + ENOUGH])
        gaps = np.linalg.norm((spot + sides)[:, None] - others, axis=-1).min(1)
        best = int(gaps.clip(max=ENOUGH).argmax())  # more than enough is no better
        taken.append(spot + sides[best])
        axes.annotate(
            str(number), point, SIDES[best], textcoords="offset points", ha="center", va="center",
            fontsize=8, color=colour,
        )  # fmt: skip


def _draw_ceilings(axes: "Axes", ceilings: Ceilings, records: Sequence[Record]) -> None:
    """The roof over all points, and enough of its slope to be seen."""
    ridge = ceilings.gflops / ceilings.gbs
    intensities = [record.gflops / record.gbs for record in records]
    left, right = min([ridge / 4, *intensities]) / 2, max([ridge, *intensities]) * 3
    lowest = min([left * ceilings.gbs, *(record.gflops for record in records)])
    axes.set(xlim=(left, right), ylim=(lowest / 1.5, 2 * ceilings.gflops))
    axes.plot(
        [left, ridge, right], [left * ceilings.gbs, ceilings.gflops, ceilings.gflops], color="black"
    )
    axes.annotate(
        f"multiply-adds, {ceilings.gflops:.3g} GFLOP/s",
        (right, ceilings.gflops), (-6, 4), textcoords="offset points", ha="right",
    )  # fmt: skip
    axes.annotate(
        f"copy, {ceilings.gbs:.3g} GB/s",
        (ridge, ceilings.gflops), (-10, 4), textcoords="offset points", ha="right",
    )  # fmt: skip
