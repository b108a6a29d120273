"""The roofline: the arithmetic peak and the memory bandwidth of this machine, and the figure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.operators.records import Record
from benchmarks.timing import time_call

if TYPE_CHECKING:  # only the figure needs matplotlib
    from matplotlib.axes import Axes

MATMUL = {"cpu": 1024, "cuda": 4096}  # n of the n×n matrices whose product measures the peak
COPY = {"cpu": 2**28, "cuda": 2**30}  # number of copied bytes, far above the size of the caches
ROUNDS = 10


@dataclass(frozen=True)
class Ceilings:
    """The limits of this machine: arithmetic in GFLOP/s, memory traffic in GB/s."""

    gflops: float
    gbs: float

    def attainable(self, flop: float, size: float) -> float:
        """GFLOP/s that work of ``flop`` operations on ``size`` bytes can reach."""
        return min(self.gflops, flop / size * self.gbs)

    def percent(self, flop: float, size: float, seconds: float) -> float:
        """Measured GFLOP/s in percent of :meth:`attainable`."""
        return 100 * flop / seconds / 1e9 / self.attainable(flop, size)


def measure_ceilings(device: str, dtype: torch.dtype) -> Ceilings:
    """Measure both ceilings, by products of large matrices and copies of a large array.

    A product (2n³ flop) consists of fused multiply-adds. Distances cannot exceed 75 % of this
    ceiling: a squared difference is 3 flop in two instructions, and two multiply-adds are 4 flop in
    two instructions. A copy counts the bytes that are read and written, but not the cache
    lines that a processor reads before a write.
    """
    product = _product(MATMUL[device], device, dtype)
    if device == "cpu":
        # A convolution may be faster: on AMD with AVX-512, MKL's product reached 111 GFLOP/s and
        # oneDNN's convolution 248 GFLOP/s. oneDNN has float32 only, so float64 counts as half.
        product = max(product, _convolution() * torch.float32.itemsize / dtype.itemsize)
    source = _random(COPY[device] // dtype.itemsize, dtype=dtype, device=device)
    target = torch.zeros_like(source)
    moved = 2 * source.numel() * dtype.itemsize
    return Ceilings(product, moved / _fastest(lambda: target.copy_(source), device) / 1e9)


def _random(*shape: int, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Tensor:
    """Normal numbers, because the clock of a GPU depends on the data."""
    generator = torch.Generator(device).manual_seed(0)
    return torch.randn(shape, dtype=dtype, device=device, generator=generator)


def _product(n: int, device: str, dtype: torch.dtype) -> float:
    """GFLOP/s of a product of n×n matrices."""
    a, b, c = (_random(n, n, dtype=dtype, device=device) for _ in range(3))
    return 2 * n**3 / _fastest(lambda: torch.mm(a, b, out=c), device) / 1e9


def _convolution() -> float:
    """GFLOP/s of a float32 convolution of 8 images of 32×32 with 256 channels, on the CPU."""
    images, weights = _random(8, 256, 34, 34), _random(256, 256, 3, 3)
    images = images.to(memory_format=torch.channels_last)
    weights = weights.to(memory_format=torch.channels_last)
    flop = 2 * 8 * 256 * 32 * 32 * 256 * 3 * 3
    with torch.no_grad():
        return flop / _fastest(lambda: F.conv2d(images, weights), "cpu") / 1e9


def _fastest(function: Callable[[], object], device: str) -> float:
    return min(time_call(function, device) for _ in range(ROUNDS))


# --- the figure -----------------------------------------------------------------------------------

MARKERS = "osD^vPX"  # one for each operator
# Offsets of a number from its point, in units of 1/72 inch. The first offset is preferred.
SIDES = ((11, 0), (-12, 0), (0, 11), (0, -11), (9, 9), (-9, 9), (9, -9), (-9, -9), (22, 0))
ENOUGH = 20.0  # pixels between a number and its neighbors


def draw(path: Path, records: Sequence[Record], ceilings: Ceilings) -> None:
    """Draw the ceilings and a point for each record of one machine and dtype.

    Points of one operator have the same color and marker. A number at each point refers to the list
    beside the plot, because longer texts at the points would overlap.
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
    colors = [f"C{operators.index(record.operator) % 10}" for record in records]
    points = [(record.gflops / record.gbs, record.gflops) for record in records]
    for number, (record, point, color) in enumerate(zip(records, points, colors, strict=True), 1):
        axes.plot(
            *point, MARKERS[operators.index(record.operator) % len(MARKERS)], color=color,
            markersize=8, markerfacecolor="none", markeredgewidth=1.6, linestyle="none",
            label=f"{number}  {record.operator}  {record.size}",
        )  # fmt: skip
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    figure.draw_without_rendering()  # fixes the positions of the points
    _number(axes, points, colors)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _number(axes: "Axes", points: Sequence[tuple[float, float]], colors: Sequence[str]) -> None:
    """Write a number beside each point, on the side with the largest distance to neighbors."""
    spots = axes.transData.transform(points)  # in pixels
    sides = np.array(SIDES) * axes.figure.dpi / 72
    taken = list(spots)
    for number, (point, spot, color) in enumerate(zip(points, spots, colors, strict=True), 1):
        others = np.array([other for other in taken if (other != spot).any()] or [spot + ENOUGH])
        gaps = np.linalg.norm((spot + sides)[:, None] - others, axis=-1).min(1)
        best = int(gaps.clip(max=ENOUGH).argmax())  # a distance above ENOUGH is not better
        taken.append(spot + sides[best])
        axes.annotate(
            str(number), point, SIDES[best], textcoords="offset points", ha="center", va="center",
            fontsize=8, color=color,
        )  # fmt: skip


def _draw_ceilings(axes: "Axes", ceilings: Ceilings, records: Sequence[Record]) -> None:
    """Draw the ceilings over the range of all points, with a visible part of the slope."""
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
