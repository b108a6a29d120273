"""Time that ``mige_ext.recording`` adds to a training step."""

import gc
import statistics
import time
from contextlib import nullcontext
from typing import Annotated

import torch
import typer
from torch import nn

import mige_ext as mige
from benchmarks.machine import machine
from benchmarks.options import Markdown
from benchmarks.tables import print_table
from mige_ext.experiments.common.device import cpu_threads

SIZES = tuple((m, d) for m in (64, 128, 256) for d in (8, 64))
ESTIMATORS: dict[str, mige.ScoreEstimator | None] = {"default": None, "SSGE": mige.SSGE()}


def recording(
    pairs: Annotated[
        int, typer.Option(min=1, help="Measure this many pairs of steps for each case.")
    ] = 300,
    markdown: Markdown = False,
) -> None:
    """Measure the time that a recording adds to a training step, on one CPU thread.

    A step is the forward and backward pass of mutual_information(x, z) with an encoder of two
    layers. Steps with and without a recording alternate. CPU time is measured, with a 95 % interval
    of the median ratio by the bootstrap.
    """
    print(machine())
    with cpu_threads(1):
        lines = [
            line(name, estimator, m, d, pairs)
            for name, estimator in ESTIMATORS.items()
            for m, d in SIZES
        ]
    header = ("estimator", "M", "d", "step, µs", "added, µs", "added, %", "95 % interval")
    print_table("Recording", header, lines, markdown=markdown)


def line(
    name: str, estimator: mige.ScoreEstimator | None, m: int, d: int, pairs: int
) -> tuple[object, ...]:
    """A line of the table: medians of times and of the ratio."""
    plain, recorded = measure(estimator, m, d, pairs)
    step, added = (statistics.median(each.tolist()) for each in (plain, recorded - plain))
    ratio, low, high = (100 * each for each in median_ratio(recorded / plain - 1))
    interval = f"{low:.1f} to {high:.1f}"
    return name, m, d, f"{step:.0f}", f"{added:.0f}", f"{ratio:.1f}", interval


def measure(
    estimator: mige.ScoreEstimator | None, m: int, d: int, pairs: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Times in µs of steps without and with a recording, (pairs,) each."""
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(d, 64), nn.ReLU(), nn.Linear(64, d))
    x = torch.randn(m, d)

    def seconds(record: bool) -> float:
        torch.manual_seed(1)
        with mige.recording() if record else nullcontext():
            start = time.thread_time()
            encoder.zero_grad()
            z = encoder(x) + 0.3 * torch.randn(m, d)
            (-mige.mutual_information(x, z, estimator=estimator)).backward()
            return time.thread_time() - start

    times = torch.empty(pairs, 2, dtype=torch.float64)
    for record in (False, True) * 10:
        seconds(record)
    gc.collect()
    for pair in range(pairs):
        for record in (False, True) if pair % 2 else (True, False):
            times[pair, int(record)] = 1e6 * seconds(record)
    return times[:, 0], times[:, 1]


def median_ratio(ratios: torch.Tensor) -> tuple[float, float, float]:
    """The median, and the ends of a 95 % interval of the median from 1,000 resamples."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(len(ratios), (1000, len(ratios)), generator=generator)
    medians = ratios[rows].median(-1).values
    level = torch.tensor([0.025, 0.975], dtype=ratios.dtype)
    low, high = medians.quantile(level).tolist()
    return ratios.median().item(), low, high
