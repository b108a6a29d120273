"""The timing of the benchmarks: medians of interleaved calls."""

import math
import statistics
import time
from collections.abc import Callable, Iterable

import torch


def time_call(function: Callable[[], object], device: str = "cpu") -> float:
    """Call a function twice, and return the seconds of the second call.

    On CUDA the time is measured between two events on the current stream. The second call is
    launched while the first call runs, so the overhead of the launch usually does not count.
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
    """Median time of each function in seconds, from interleaved calls.

    The functions run in the order A B C A B C, so that a slow phase of the machine affects all of
    them. Each function is called twice in a row, and the second call counts, because caches and the
    allocator are then warm, as in a training loop.

    Args:
        functions: The functions by name.
        seconds: Approximate time for all functions together.
        least: Smallest number of rounds.
        device: Device of the functions, "cpu" or "cuda".
    """
    times: dict[str, list[float]] = {name: [] for name in functions}
    start = time.perf_counter()
    while len(next(iter(times.values()))) < least or time.perf_counter() - start < seconds:
        for name, function in functions.items():
            times[name].append(time_call(function, device))
    return {name: statistics.median(values) for name, values in times.items()}


def geometric_mean(values: Iterable[float]) -> float:
    """``exp(mean(log(values)))``."""
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs))
