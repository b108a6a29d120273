"""Shared by the benchmarks: timing, the machine's name, tables and CSV files."""

import csv
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch

RESULTS = Path(__file__).parent / "results"


def processor() -> str:
    """The processor's name."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def machine() -> str:
    """The processor, its visible cores, and the versions that matter."""
    capability = torch.backends.cpu.get_cpu_capability()
    return (
        f"{processor()} ({os.cpu_count()} cores, {capability}), Python "
        f"{platform.python_version()}, torch {torch.__version__}"
    )


def time_call(function: Callable[[], object], device: str = "cpu") -> float:
    """Calls twice and returns the seconds that the second call took.

    On CUDA that is the time between two events on the current stream. The first call is still in
    the queue when the second is given out, so that launch overhead counts only where the GPU has
    to wait for it; the fence at the end keeps the next measurement out of this one.
    """
    if device == "cpu":
        function()
        before = time.perf_counter()
        function()
        return time.perf_counter() - before
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    function()
    start.record()
    function()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1e3


def time_each(
    functions: dict[str, Callable[[], object]],
    seconds: float = 1.0,
    least: int = 5,
    device: str = "cpu",
) -> dict[str, float]:
    """Median time of each function in seconds, measured in turn.

    The functions take turns, A B C A B C, so that a machine that slows down slows all of them; a
    ratio of two medians is then a fair one. In its turn each is called twice, and the second call
    counts: caches and allocator are as its own last call left them, as in a training loop, and not
    as another algorithm did that has just gone through gigabytes.

    Args:
        functions: by name.
        seconds: about how long to measure all of them together.
        least: rounds at least.
        device: where they compute, "cpu" or "cuda".
    """
    times: dict[str, list[float]] = {name: [] for name in functions}
    start = time.perf_counter()
    while len(next(iter(times.values()))) < least or time.perf_counter() - start < seconds:
        for name, function in functions.items():
            times[name].append(time_call(function, device))
    return {name: statistics.median(values) for name, values in times.items()}


def geometric_mean(values: Iterable[float]) -> float:
    """exp(mean(log))."""
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs))


class Promises:
    """Measured values and the bounds they are to keep."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, float, str, str]] = []

    def at_most(self, what: str, value: float, bound: float) -> None:
        """Notes a value that is to stay below a bound."""
        self.rows.append((what, value, f"<= {bound:g}", "ok" if value <= bound else "MISSED"))

    def at_least(self, what: str, value: float, bound: float) -> None:
        """Notes a value that is to stay above a bound."""
        self.rows.append((what, value, f">= {bound:g}", "ok" if value >= bound else "MISSED"))


def print_table(
    title: str, header: Sequence[str], rows: Sequence[Sequence[object]], *, markdown: bool = False
) -> None:
    """A table in aligned columns, numbers to the right and words to the left; or in Markdown."""
    text = [[_cell(value) for value in row] for row in rows]
    if markdown:
        print(f"\n### {title}\n")
        for line in (list(header), ["---"] * len(header), *text):
            print(f"| {' | '.join(line)} |")
        return
    widths = [max(len(line[i]) for line in [list(header), *text]) for i in range(len(header))]
    print(f"\n{title}")
    for line in [list(header), *text]:
        cells = zip(line, widths, strict=True)
        print("  " + "  ".join(c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(cells)))


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Writes a table, floats to six digits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for row in rows:
            writer.writerow([f"{v:.6g}" if isinstance(v, float) else v for v in row])
    print(f"  -> {path}")


def _cell(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
