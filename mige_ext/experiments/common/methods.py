"""The class of a method in a comparison, and parts that methods have in common."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Method:
    """A method of a comparison: the term that it adds to the loss, and the grid of its setting."""

    label: str  # in tables and figures
    strengths: tuple[float, ...] = (0.0,)  # grid of the setting; (0.0,) for a method without one
    #: A function that makes the added term, a penalty or an objective; None if nothing is added.
    make: Callable[..., Any] | None = None

    def build(self, device: torch.device, *arguments: Any) -> Any:
        """Make the added term, on the device if it is a network."""
        term = self.make and self.make(*arguments)
        return term.to(device) if isinstance(term, nn.Module) else term


def always(penalty: Any) -> Callable[..., Any]:
    """``Method.make`` of a penalty that needs no arguments."""
    return lambda *_: penalty


def perceptron(*sizes: int) -> nn.Sequential:
    """Linear layers of these sizes, from the inputs to the outputs, with ReLU between them."""
    layers = [layer for size in pairwise(sizes) for layer in (nn.Linear(*size), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """Take one step of the optimizer along the gradient of the loss."""
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


class Learner(nn.Module):
    """A penalty that trains a network by Adam. ``state_dict`` includes the optimizer.

    Args:
        network: Network that is trained in each call of the penalty.
        learning_rate: Learning rate of Adam.
    """

    #: Moving average of MINE's bound (``mige_ext.bounds.mine``).
    average: Tensor | None = None

    def __init__(self, network: nn.Module, learning_rate: float) -> None:
        super().__init__()
        self.network = network
        self.optimizer = torch.optim.Adam(network.parameters(), learning_rate, fused=True)

    def get_extra_state(self) -> dict[str, Any]:
        """The optimizer and the moving average, which ``state_dict`` would not include."""
        return {"optimizer": self.optimizer.state_dict(), "average": self.average}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Set the optimizer and the moving average."""
        self.optimizer.load_state_dict(state["optimizer"])
        average, device = state["average"], next(self.network.parameters()).device
        self.average = None if average is None else average.to(device)
