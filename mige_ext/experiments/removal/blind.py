"""Methods that never see the nuisance s: they make z forget what the label does not need.

Some methods are penalties: functions of z (N, d) and its ``Batch``. They use at most the label of
the batch. Other methods are models with a ``penalty`` of their own.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import mige_ext as mige
from mige_ext.experiments.common.methods import perceptron
from mige_ext.experiments.removal.dependence import within_classes
from mige_ext.experiments.removal.models import Model
from mige_ext.experiments.removal.nuisances import Batch

# Penalties on z


def contraction(z: Tensor, batch: Batch) -> Tensor:
    """Minus the negentropy: the entropy of z minus that of a Gaussian with its covariance."""
    return -mige.negentropy(z)


def entropy(z: Tensor, batch: Batch) -> Tensor:
    """The entropy H(z), the control of ``contraction``."""
    return mige.entropy(z)


def center(z: Tensor, batch: Batch) -> Tensor:
    """Center loss: the fraction of the variance of z that is within the classes of the label."""
    return within_classes(z, batch.label)


# Models


class GaussianCode(nn.Module):
    """A code that is drawn from N(μ, σ²): (N, 2d) -> (N, d).

    The input has the columns of μ and of ρ, and σ = softplus(ρ − 5) starts near .007 (Alemi et al.,
    2017).

    Args:
        published: The code in evaluation: a "draw", or the "mean" μ, which has more information
            about x than a draw.
        norm: Applied to μ, if given.
    """

    #: KL(N(μ, σ²) ‖ N(0, I)) of the last call in nats, a mean over its N codes.
    divergence: Tensor

    def __init__(self, published: Literal["draw", "mean"], norm: nn.Module | None = None) -> None:
        super().__init__()
        self.published, self.norm = published, norm or nn.Identity()

    def forward(self, moments: Tensor) -> Tensor:
        """The codes; draws are from torch's global random generator."""
        mean, raw = moments.chunk(2, -1)
        mean = self.norm(mean)
        sigma = F.softplus(raw - 5)
        squares = mean.square() + sigma.square()
        self.divergence = ((squares - 1) / 2 - sigma.log()).sum(-1).mean()
        drawn = self.training or self.published == "draw"
        return mean + sigma * torch.randn_like(mean) if drawn else mean


class VIB(Model):
    """Variational bottleneck: E KL(q(z|x) ‖ N(0, I)) ≥ I(x; z) is the penalty (Alemi et al., 2017).

    The divergence fixes the scale of z, so there is no BatchNorm. The finished codes, which the
    attackers get, are draws.
    """

    published: Literal["draw", "mean"] = "draw"

    def norm(self, latent: int) -> nn.Module:
        """The layer that is applied to the means."""
        return nn.Identity()

    def layers(self, inputs: int, hidden: tuple[int, ...], latent: int) -> nn.Sequential:
        """The encoder, which ends with a draw."""
        code = GaussianCode(self.published, self.norm(latent))
        return perceptron(inputs, *hidden, 2 * latent).append(code)

    def penalty(self, z: Tensor, batch: Batch) -> Tensor:
        """The divergence of the batch in nats."""
        code = self.encoder[-1]
        assert isinstance(code, GaussianCode)
        return code.divergence


class VIBMean(VIB):
    """``VIB`` whose finished codes are the means μ."""

    published = "mean"


class VIBNormalized(VIB):
    """``VIB`` with BatchNorm of the means, so that the divergence depends on σ alone.

    On images, the network without BatchNorm is several points less accurate at every β of the grid.
    """

    def norm(self, latent: int) -> nn.Module:
        """BatchNorm, as in :class:`.Model`."""
        return nn.BatchNorm1d(latent, affine=False)


class SquaredNorm(Model):
    """The penalty is the squared norm of z, without BatchNorm, which would make it constant."""

    def layers(self, inputs: int, hidden: tuple[int, ...], latent: int) -> nn.Sequential:
        """The encoder without BatchNorm."""
        return perceptron(inputs, *hidden, latent)

    def penalty(self, z: Tensor, batch: Batch) -> Tensor:
        """E‖z‖² / d."""
        return z.square().mean()


class LabelSmoothing(Model):
    """The penalty is the cross-entropy of uniform labels (Szegedy et al., 2016).

    Up to a factor, this is label smoothing with ε = β / (1 + β).
    """

    def penalty(self, z: Tensor, batch: Batch) -> Tensor:
        """Minus the log-probability of the head in nats, a mean over all classes."""
        return -self.head(z).log_softmax(-1).mean()


class Dropout(Model):
    """Dropout after each hidden layer of the encoder, with no penalty (Srivastava et al., 2014).

    A step drops a unit with probability β / (1 + β), so each unit is multiplied by a random factor
    of mean 1 and variance β.
    """

    def layers(self, inputs: int, hidden: tuple[int, ...], latent: int) -> nn.Sequential:
        """The encoder, with dropout after each ReLU."""
        fraction = self.strength / (1 + self.strength)
        layers = super().layers(inputs, hidden, latent)
        parts = (
            [part, nn.Dropout(fraction)] if isinstance(part, nn.ReLU) else [part] for part in layers
        )
        return nn.Sequential(*(layer for part in parts for layer in part))
