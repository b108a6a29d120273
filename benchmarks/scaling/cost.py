"""Time and peak memory of one score for growing numbers of samples, dimensions and groups.

A *sweep* is a series of scores in which one of these three sizes grows.
"""

import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from benchmarks.machine import SETTING, in_fresh_process, peak_megabytes, processor, setting
from benchmarks.tables import print_table, write_csv
from mige_ext import SSGE, Landmarks

if TYPE_CHECKING:  # only the figure needs matplotlib
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Work:
    """One score of ``groups`` groups of M samples in d dimensions.

    Attributes:
        sweep: The size that the sweep changes: "samples", "dimensions" or "groups".
        M: Number of samples of a group.
        d: Number of dimensions.
        groups: Number of groups.
        m: Number of landmarks; 0 for SSGE with all samples.
    """

    sweep: str
    M: int
    d: int
    groups: int = 1
    m: int = 0

    @property
    def estimator(self) -> str:
        """Name of the estimator in the figure."""
        return f"{self.m} landmarks" if self.m else "full"

    @property
    def size(self) -> int:
        """The value of the size that the sweep changes."""
        return {"samples": self.M, "dimensions": self.d, "groups": self.groups}[self.sweep]


@dataclass(frozen=True)
class Cost:
    """The seconds of a score, and the MB by which it raises the peak memory."""

    seconds: float
    megabytes: float


def sweeps(quick: bool) -> list[list[Work]]:
    """The sweeps. :func:`cost` leaves out numbers of samples that would take too long."""
    m = 256 if quick else 1024
    many = [10**3, 10**4, 10**5] if quick else [10**4, 3 * 10**4, 10**5, 3 * 10**5, 10**6]
    dimensions = [16, 64, 256, 1024]
    groups = [1, 4, 16, 64, 256, 1024]
    return [
        [Work("samples", 2**k, 64) for k in range(6, 12 if quick else 15)],
        [Work("samples", n, 64, m=m) for n in many],
        [Work("dimensions", 512, d) for d in dimensions],
        [Work("dimensions", 10**4, d, m=m // 4) for d in dimensions],
        [Work("groups", 64, 16, g) for g in groups],
        [Work("groups", 64, 16, g, m=32) for g in groups],
    ]


def measure(work: Work, threads: int) -> Cost:
    """Time and memory of one score in this process, which must be new."""
    torch.set_num_threads(threads)
    x = torch.randn(work.groups, work.M, work.d, generator=torch.Generator().manual_seed(0))
    x = x.squeeze(0)
    estimator = Landmarks(m=work.m) if work.m else SSGE()
    estimator.score(x[..., :8, :])  # loads the code and the libraries
    before = peak_megabytes()
    seconds: list[float] = []
    while len(seconds) < 2 or (sum(seconds) < 0.5 and len(seconds) < 20):
        start = time.perf_counter()
        estimator.score(x)
        seconds.append(time.perf_counter() - start)
        if len(seconds) == 1:
            memory = peak_megabytes() - before
            if seconds[0] > 2:
                break
    return Cost(float(np.median(seconds[1:] or seconds)), memory)


def cost(out: Path, quick: bool, seconds: float) -> None:
    """Run the sweeps within their time limits, and write the table and the figure."""
    found: list[tuple[Work, Cost]] = []
    for sweep in sweeps(quick):
        spent, last = 0.0, (0.0, 1)
        for work in sweep:
            # The time of SSGE grows at most with M³, and the time of landmarks with M.
            expected = last[0] * (work.size / last[1]) ** (1 if work.m else 3)
            if work.sweep == "samples" and spent + expected > seconds:
                print(f"  {work}: not run, about {expected:.0f} s", flush=True)
                break
            measured = in_fresh_process(measure, work, torch.get_num_threads())
            found.append((work, measured))
            spent, last = spent + measured.seconds, (measured.seconds, work.size)
            print(f"  {work}: {measured.seconds:.4g} s, {measured.megabytes:.4g} MB", flush=True)
    names = [field.name for kind in (Work, Cost) for field in fields(kind)]
    rows = [(*astuple(work), *astuple(measured)) for work, measured in found]
    write_csv(out / "scaling.csv", (*SETTING, *names), [(*setting(), *row) for row in rows])
    print_table("Cost of one score, float32", names, rows)
    _draw(out / "scaling.png", found)


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The exponent p of value ~ size^p, fitted in logarithms to the larger half of the sizes."""
    half = len(sizes) // 2 if len(sizes) > 3 else 0
    x, y = np.log(sizes[half:]), np.log(np.maximum(values[half:], 1e-9))
    return float(np.polyfit(x, y, 1)[0])


def _draw(path: Path, found: Sequence[tuple[Work, Cost]]) -> None:
    """Draw time and memory over size, with a column of panels for each sweep."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 7), dpi=120, layout="constrained")
    columns = list(dict.fromkeys(work.sweep for work, _ in found))
    panels = figure.subplots(2, len(columns), sharex="col", squeeze=False)
    for column, sweep in enumerate(columns):
        for row, quantity in enumerate(("seconds", "megabytes")):
            axes: Axes = panels[row, column]
            here = [(work, measured) for work, measured in found if work.sweep == sweep]
            for i, name in enumerate(dict.fromkeys(work.estimator for work, _ in here)):
                line = [pair for pair in here if pair[0].estimator == name]
                sizes = [work.size for work, _ in line]
                values = [max(getattr(measured, quantity), 1e-5) for _, measured in line]
                grows = f"p = {exponent(sizes, values):.2f}" if len(sizes) > 1 else ""
                # Values below 0.1 MB are noise of the allocator.
                shown = [max(v, 0.1) for v in values] if quantity == "megabytes" else values
                axes.plot(sizes, shown, "os"[i % 2] + "-", color=f"C{i}", label=f"{name}, {grows}")
            axes.set_xscale("log", base=2 if sweep != "samples" else 10)
            axes.set(yscale="log", ylabel=quantity)
            axes.grid(alpha=0.3)
            axes.legend(fontsize=8)
            if row == 0:
                axes.set_title(_fixed([work for work, _ in here]), fontsize=9)
            else:
                axes.set_xlabel(f"number of {sweep}")
    figure.suptitle(f"One score, float32; {processor()}, threads: {torch.get_num_threads()}")
    figure.savefig(path)
    print(f"  -> {path}")


def _fixed(works: Sequence[Work]) -> str:
    """The sizes that a sweep does not change, by estimator if the estimators differ."""
    fixed = {}
    for work in works:
        sizes = {"samples": f"d = {work.d}", "dimensions": f"M = {work.M}",
                 "groups": f"M = {work.M}, d = {work.d}"}  # fmt: skip
        fixed[work.estimator] = sizes[work.sweep]
    if len(set(fixed.values())) == 1:
        return next(iter(fixed.values()))
    return "; ".join(f"{name}: {size}" for name, size in fixed.items())
