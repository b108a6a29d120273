"""Checkpoints. A run that continues from one gives bitwise the numbers of a run without a stop.

After each epoch, all states are written to one file: network, optimizer, schedule, random
generators, and the metrics so far.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mige_ext.experiments.common.folder import DamagedError, atomic


def load_tensors(path: Path, remedy: str) -> dict[str, Any]:
    """Load a file of ``torch.save`` to the CPU.

    Raises:
        DamagedError: The file is damaged. The message ends with ``remedy``.
    """
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # reading damaged content raises errors of any type
        reason = str(error).split("\n", 1)[0] or type(error).__name__
        raise DamagedError(f"{path} cannot be read ({reason}): {remedy}") from None
    return state


class RandomState:
    """The random generators of a run: for the CPU, for the device, for the order of the batches.

    The order has a separate generator, so that all methods get the same batches although they draw
    different amounts of noise.

    Args:
        device: Device on which the run computes.
        seed: Seed of the order of the batches.
    """

    def __init__(self, device: torch.device, seed: int) -> None:
        self.device = device
        self.order = torch.Generator().manual_seed(seed)

    def state_dict(self) -> dict[str, Tensor]:
        """The states of the generators."""
        state = {"cpu": torch.get_rng_state(), "order": self.order.get_state()}
        if self.device.type == "cuda":
            state["cuda"] = torch.cuda.get_rng_state(self.device)
        return state

    def load_state_dict(self, state_dict: Mapping[str, Tensor], /) -> None:
        """Set the states of the generators."""
        torch.set_rng_state(state_dict["cpu"].cpu())
        self.order.set_state(state_dict["order"].cpu())
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(state_dict["cuda"].cpu(), self.device)


class Checkpoint:
    """A file with the state of a run after the last whole epoch.

    Args:
        path: File; with None, nothing is written.
        run: Plain values that identify the run. The checkpoint of another run is not restored.
        parts: Objects with a ``state_dict``, by name.
    """

    def __init__(self, path: Path | None, run: Mapping[str, Any], parts: Mapping[str, Any]) -> None:
        self.path, self.run, self.parts = path, dict(run), parts

    def save(self, rows: Sequence[Any]) -> None:
        """Replace the file by the state of the parts and the metrics so far."""
        if self.path is None:
            return
        states = {name: part.state_dict() for name, part in self.parts.items()}
        with atomic(self.path) as draft:
            torch.save({"run": self.run, "rows": [asdict(row) for row in rows], **states}, draft)

    def restore(self, row_type: type[Any]) -> list[Any]:
        """Set the parts to their states in the file.

        Returns:
            The metrics in the file, or [] if the file has no state of this run.
        """
        if self.path is None or not self.path.exists():
            return []
        state = load_tensors(self.path, "delete it, and the run begins again with --resume")
        if state["run"] != self.run:
            return []
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        return [row_type(**row) for row in state["rows"]]
