"""The network of information removal: an encoder, and a head that predicts the label from z."""

import math
from typing import Any, ClassVar

from torch import Tensor, nn

from mige_ext.experiments.common.methods import perceptron
from mige_ext.experiments.removal.nuisances import Batch, Problem


class Model(nn.Module):
    """An encoder of two hidden layers that ends in BatchNorm without affine parameters, and a head.

    The subclasses in ``methods.MODELS`` change the network, its loss or its codes.

    Args:
        problem: Data, for the sizes of the first and the last layer.
        settings: Settings of the experiment, for the sizes of the other layers.
        strength: β of the method.
    """

    #: Whether β must be an integer.
    integer_strength: ClassVar[bool] = False

    def __init__(self, problem: Problem, settings: Any, strength: float) -> None:
        super().__init__()
        self.strength = strength
        hidden, latent = settings.hidden, settings.latent
        self.encoder = self.layers(problem.inputs, (hidden, hidden // 2), latent)
        self.head = perceptron(latent, 64, problem.classes)

    @classmethod
    def largest_strength(cls, latent: int) -> float:
        """The largest useful β, by default ∞."""
        return math.inf

    def layers(self, inputs: int, hidden: tuple[int, ...], latent: int) -> nn.Sequential:
        """The encoder: (N, inputs) -> (N, latent)."""
        return perceptron(inputs, *hidden, latent).append(nn.BatchNorm1d(latent, affine=False))

    def penalty(self, z: Tensor, batch: Batch) -> Tensor:
        """The penalty of a method that has none in ``METHODS``, a scalar; by default 0.

        Args:
            z: Codes (N, latent) of the batch.
            batch: The batch.
        """
        return z.new_zeros(())

    def finish(self, problem: Problem, settings: Any, seed: int) -> None:
        """Change the model after the last training step. The default does nothing."""
