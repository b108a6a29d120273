"""The device of an experiment, and the number of CPU threads."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def cpu_threads(number: int) -> Iterator[None]:
    """Set the number of CPU threads inside the ``with`` block.

    Small networks train fastest on one thread. (Two threads that compete with another process made
    the toy experiment seven times slower.)
    """
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def device_of(name: str) -> torch.device:
    """The device that the option ``--device`` names. "auto" is the GPU if there is one.

    Raises:
        ValueError: The name is not auto, cpu or cuda, or the name is cuda and torch finds no GPU.
    """
    available = torch.cuda.is_available()
    if name == "auto":
        return torch.device("cuda" if available else "cpu")
    if name.split(":")[0] not in ("cpu", "cuda"):
        raise ValueError(f"--device must be auto, cpu or cuda, got {name!r}")
    if name.startswith("cuda") and not available:
        raise ValueError(f"--device must be auto or cpu, because torch finds no GPU, got {name!r}")
    return torch.device(name)
