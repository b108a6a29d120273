"""The machine of a measurement: its name, its settings, and fresh processes."""

import os
import platform
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import torch

#: Columns of a CSV file that describe the machine of a measurement (:func:`setting`).
SETTING = ("machine", "threads", "torch")

Result = TypeVar("Result")


def processor() -> str:
    """The name of the processor."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def machine() -> str:
    """The processor, its visible cores, its vector instructions, and the versions."""
    capability = torch.backends.cpu.get_cpu_capability()
    return (
        f"{processor()} ({os.cpu_count()} cores, {capability}), Python "
        f"{platform.python_version()}, torch {torch.__version__}"
    )


def setting() -> tuple[str, int, str]:
    """The values of the columns :data:`SETTING` in this process."""
    return processor(), torch.get_num_threads(), torch.__version__


def in_fresh_process(function: Callable[..., Result], *arguments: object) -> Result:
    """The result of a function in a new process. The function must be a global name of a module.

    The peak memory of a process never falls, so each measurement of memory needs its own process.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def peak_megabytes() -> float:
    """Peak resident memory of this process in MB (2²⁰ bytes).

    ``getrusage`` is not used, because its peak in a child process starts at the peak of the parent.
    """
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024
