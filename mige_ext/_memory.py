"""Checks of the memory that estimators need."""

from pathlib import Path

import torch
from torch import Tensor

from mige_ext._warnings import may_warn, warn_once

#: Number of samples above which the memory is estimated.
MANY_SAMPLES = 10_000
#: Number of bytes above which the free memory of the device is read.
_MANY_BYTES = 500_000_000


def check_memory(samples: Tensor, values: int) -> None:
    """Warn of many samples, and raise an error if the device has too little free memory.

    Args:
        samples: (..., M, d).
        values: a lower bound on the number of elements of one group that grows with M²; 0 for an
            estimator without such elements.

    Raises:
        MemoryError: the estimate exceeds the free memory of the device of the samples.
    """
    m = samples.shape[-2]
    if torch.compiler.is_compiling() or m <= MANY_SAMPLES or values == 0 or samples.numel() == 0:
        return
    needed = values * samples.element_size()
    use = "use estimator=Landmarks(m=1024), whose memory does not grow with M²"
    _require_free(samples.device, needed, f"M = {m} needs", use)
    if may_warn("memory"):
        warn_once(
            "memory",
            f"M = {m} needs {_gigabytes(needed)} for each group, and the time grows with M³: "
            f"{use}, or fewer samples",
        )


def check_memory_of_classes(samples: Tensor, classes: int) -> None:
    """Raise an error if the device has too little free memory for the Gaussians of K classes.

    Args:
        samples: (G, M, d).
        classes: K. All groups need about 12 G M K d elements together.

    Raises:
        MemoryError: the estimate exceeds the free memory of the device of the samples.
    """
    needed = 12 * samples.numel() * classes * samples.element_size()
    if torch.compiler.is_compiling() or needed < _MANY_BYTES:
        return
    _require_free(
        samples.device,
        needed,
        f"{classes} classes with samples of shape {tuple(samples.shape)} need",
        'merge classes, or use marginal="own"',
    )


def _require_free(device: torch.device, needed: int, what: str, advice: str) -> None:
    free = free_memory(device)
    if free is not None and needed > free:
        raise MemoryError(
            f"{what} {_gigabytes(needed)}, and {device} has {_gigabytes(free)} free: {advice}"
        )


def free_memory(device: torch.device) -> int | None:
    """Free memory of a device in bytes, or an overestimate; None if it is not known.

    On the CPU the result is the available memory plus swap, but at most the limit of the control
    group. On CUDA the result includes unused memory that torch's allocator has reserved.
    """
    if device.type == "cpu":
        return _free_on_cpu()
    if device.type != "cuda" or not torch.cuda.is_available():  # a fake tensor needs no GPU
        return None
    if not torch.cuda.is_current_stream_capturing():
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    return None


def _free_on_cpu() -> int | None:
    """Available memory in bytes on Linux; None on other systems."""
    try:
        lines = [line.split() for line in Path("/proc/meminfo").read_text("ascii").splitlines()]
    except OSError:
        return None
    kilobytes = {line[0]: int(line[1]) for line in lines}
    if "MemAvailable:" not in kilobytes:
        return None
    free = 1024 * (kilobytes["MemAvailable:"] + kilobytes.get("SwapFree:", 0))
    try:
        return min(free, int(Path("/sys/fs/cgroup/memory.max").read_text("ascii")))
    except (OSError, ValueError):  # no control group, or the limit "max"
        return free


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.3g} GB"
