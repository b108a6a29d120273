"""InfoMax objectives: what an encoder without labels minimises. A method is a row of `METHODS`.

* **MIGE** ascends I(x; z) = H(x) + H(z) − H(x, z) by scores, x randomly projected (Wen et al.,
  ICLR 2020, circumstance I); **MIGE II** ascends I(h; z), with h the encoder's own convolutional
  features. z is a function of x, so the pair has no density: its score acts as a penalty on codes
  that cannot be predicted from x at the scale of the kernel. For that to be felt the two blocks
  must be of like size: `balanced` scales the first.
* **JSD** and **InfoNCE** train a critic on pairs of h and z (Hjelm et al., ICLR 2019, the global
  objective); with **prior matching** a discriminator pushes z towards N(0, I), which fits z under
  BatchNorm as the uniform prior of that paper fits z under a sigmoid.
* Controls: a **random** encoder, **pixels** and their **PCA** without one, the **entropy** H(z)
  alone, and both of MIGE with the score of a **Gaussian**.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import mige_ext as mige
from mige_ext.bounds import SeparableCritic, infonce, jsd, split_pairs
from mige_ext.experiments.infomax.encoders import Features
from mige_ext.scores.base import ScoreEstimator


class Problem(NamedTuple):
    """What an objective is made for.

    Attributes:
        conv: dimensions of h.
        latent: dimensions of z.
        estimator: of scores; None for the default one.
        projection: of x or h.
        alpha: `balanced` block size.
        prior: weight of prior matching.
    """

    conv: int
    latent: int
    estimator: ScoreEstimator | None
    projection: mige.RandomProjection
    alpha: float
    prior: float


#: Takes images, (N, C, H, W), and their features; gives the scalar to minimise.
Objective = Callable[[Tensor, Features], Tensor]


def balanced(x: Tensor, z: Tensor, alpha: float) -> Tensor:
    """X times a constant, so that its mean squared pair distance is α times that of z.

    Args:
        x: (M, d_x).
        z: (M, d_z).
        alpha: α.

    Returns:
        (M, d_x); the constant has no gradient. A constant x stays as it is.
    """
    spread_x, spread_z = (block.detach().var(0).sum() for block in (x, z))  # half the mean distance
    scale = (alpha * spread_z / spread_x).sqrt()
    return x * torch.where(spread_x > 0, scale, 1.0)


# Objectives


def information(problem: Problem, *, hidden: bool = False) -> Objective:
    """−I(x; z), or hidden, −I(h; z), by scores."""

    def loss(images: Tensor, features: Features) -> Tensor:
        wide = features.conv if hidden else images.flatten(1)
        narrow = balanced(problem.projection(wide), features.y, problem.alpha)
        return -mige.mutual_information(narrow, features.y, estimator=problem.estimator)

    return loss


def entropy(problem: Problem) -> Objective:
    """−H(z)."""
    return lambda images, features: -mige.entropy(features.y, estimator=problem.estimator)


class Critic(nn.Module):
    """Minus a bound of I(h; z), by a separable critic that rises together with the encoder.

    Args:
        problem: what it is for.
        bound: of the scores of all pairs, (N, N).
    """

    def __init__(self, problem: Problem, bound: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.critic = SeparableCritic(
            problem.conv, problem.latent, hidden=512, layers=1, embedding=512
        )
        self.bound = bound

    def forward(self, images: Tensor, features: Features) -> Tensor:
        """The loss, of critic and encoder."""
        return -self.bound(self.critic(features.conv[:, None], features.y[None]))


class PriorMatching(nn.Module):
    """Another objective and the game of a discriminator D with the encoder (Hjelm et al., 3.3).

    D minimises ``softplus(−D(n)) + softplus(D(z))`` with n from N(0, I), and the encoder
    ``γ softplus(−D(z))``: one sum, in which each sees the other as constant.

    Args:
        problem: what it is for.
        objective: the other.
    """

    def __init__(self, problem: Problem, objective: nn.Module) -> None:
        super().__init__()
        self.objective, self.weight = objective, problem.prior
        self.discriminator = nn.Sequential(
            nn.Linear(problem.latent, 1000), nn.ReLU(), nn.Linear(1000, 200), nn.ReLU()
        ).append(nn.Linear(200, 1))

    def forward(self, images: Tensor, features: Features) -> Tensor:
        """The loss, of the discriminator too."""
        z, told = features.y, self.discriminator
        prior = torch.randn_like(z)
        guess = F.softplus(-told(prior)).mean() + F.softplus(told(z.detach())).mean()
        constant = {name: value.detach() for name, value in told.named_parameters()}
        fooled = F.softplus(-torch.func.functional_call(told, constant, (z,))).mean()
        loss: Tensor = self.objective(images, features) + guess + self.weight * fooled
        return loss


# The methods

#: Of Adam, that each method chooses from.
LEARNING_RATES = (1e-4, 5e-4)


@dataclass(frozen=True)
class Method:
    """A row of the comparison.

    Attributes:
        label: in the table and the figure.
        objective: makes what the encoder minimises; None where nothing is trained.
        encoder: whether there is one; else the probe reads pixels, or their principal components.
    """

    label: str
    objective: Callable[[Problem], Objective] | None = None
    encoder: bool = True


def _jsd(problem: Problem) -> Critic:
    return Critic(problem, lambda scores: jsd(*split_pairs(scores)))


def _infonce(problem: Problem) -> Critic:
    return Critic(problem, infonce)


def _gaussian(problem: Problem) -> Problem:
    return problem._replace(estimator=mige.GaussianScore())


METHODS = {
    "random": Method("random encoder"),
    "pixels": Method("pixels", encoder=False),
    "pca": Method("PCA", encoder=False),
    "jsd": Method("JSD", _jsd),
    "jsd+pm": Method("JSD + PM", lambda p: PriorMatching(p, _jsd(p))),
    "infonce": Method("InfoNCE", _infonce),
    "infonce+pm": Method("InfoNCE + PM", lambda p: PriorMatching(p, _infonce(p))),
    "mige": Method("MIGE", information),
    "mige-ii": Method("MIGE II", lambda p: information(p, hidden=True)),
    "entropy": Method("entropy", entropy),
    "gaussian": Method("Gaussian score", lambda p: information(_gaussian(p))),
    "gaussian-ii": Method("Gaussian score II", lambda p: information(_gaussian(p), hidden=True)),
}
