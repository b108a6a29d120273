"""InfoMax objectives, which an encoder minimizes without labels.

* **MIGE** maximizes I(x; z) = H(x) + H(z) − H(x, z) by scores, with x randomly projected (Wen et
  al., ICLR 2020, circumstance I). **MIGE II** maximizes I(h; z) with the convolutional features h
  of the encoder. z is a function of x, so the pair has no density. The estimated score of the pair
  only penalizes codes that cannot be predicted from x at the scale of the kernel. x and z share
  this scale, so ``balanced`` gives them similar magnitudes.
* **JSD** and **InfoNCE** train a critic on pairs of h and z (Hjelm et al., ICLR 2019, the global
  objective). **JSD + PM** and **InfoNCE + PM** add prior matching. The prior is N(0, I), because
  z passes BatchNorm; Hjelm et al. use a sigmoid and a uniform prior.
* The controls are a **random** encoder, **pixels** and **PCA** without an encoder, the **entropy**
  H(z) alone, and MIGE and MIGE II with the score of a **Gaussian**.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import mige_ext as mige
from mige_ext.bounds import SeparableCritic, infonce, jsd, split_pairs
from mige_ext.experiments.common.methods import Method as CommonMethod
from mige_ext.experiments.common.methods import perceptron
from mige_ext.experiments.infomax.encoders import Features
from mige_ext.scores.base import ScoreEstimator


class Problem(NamedTuple):
    """The quantities from which an objective is made."""

    conv: int  # dimensions of h
    latent: int  # dimensions of z
    estimator: ScoreEstimator | None  # score estimator; None for the default of the library
    projection: mige.RandomProjection  # projection of x or h
    alpha: float  # magnitude of the projection relative to z (``balanced``)
    prior: float  # weight of prior matching


#: A function of images, (N, C, H, W), and features, whose scalar result is minimized.
Objective = Callable[[Tensor, Features], Tensor]


def balanced(x: Tensor, z: Tensor, alpha: float) -> Tensor:
    """Scale x so that the mean of ``‖x_i − x_j‖²`` is α times the mean of ``‖z_i − z_j‖²``.

    Args:
        x: Inputs or features, (M, d_x).
        z: Codes, (M, d_z).
        alpha: α.

    Returns:
        The scaled x, (M, d_x). The scale has no gradient. A constant x is not scaled.
    """
    spread_x, spread_z = (part.detach().var(0).sum() for part in (x, z))  # half of each mean
    scale = (alpha * spread_z / spread_x).sqrt()
    return x * torch.where(spread_x > 0, scale, 1.0)


# Objectives


def information(problem: Problem, *, hidden: bool = False) -> Objective:
    """−I(x; z) by scores, or −I(h; z) if ``hidden``."""

    def loss(images: Tensor, features: Features) -> Tensor:
        wide = features.conv if hidden else images.flatten(1)
        narrow = balanced(problem.projection(wide), features.z, problem.alpha)
        return -mige.mutual_information(narrow, features.z, estimator=problem.estimator)

    return loss


def entropy(problem: Problem) -> Objective:
    """−H(z) by scores."""
    return lambda images, features: -mige.entropy(features.z, estimator=problem.estimator)


class Critic(nn.Module):
    """Minus a bound of I(h; z), which a separable critic and the encoder maximize together.

    Args:
        problem: Sizes of h and z.
        bound: A function of the scores of all pairs, (N, N).
    """

    def __init__(self, problem: Problem, bound: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.critic = SeparableCritic(
            problem.conv, problem.latent, hidden=512, layers=1, embedding=512
        )
        self.bound = bound

    def forward(self, images: Tensor, features: Features) -> Tensor:
        """The loss of critic and encoder."""
        return -self.bound(self.critic(features.conv[:, None], features.z[None]))


class PriorMatching(nn.Module):
    """Prior matching with a discriminator D (Hjelm et al., section 3.3).

    D minimizes ``softplus(−D(n)) + softplus(D(z))`` with n from N(0, I), and the encoder minimizes
    ``γ softplus(−D(z))``. The returned loss is the sum of both, in which the first loss has a
    gradient only for D, and the second only for z.

    Args:
        problem: Size of z, and the weight γ.
        objective: Objective to which prior matching is added.
    """

    def __init__(self, problem: Problem, objective: nn.Module) -> None:
        super().__init__()
        self.objective, self.weight = objective, problem.prior
        self.discriminator = perceptron(problem.latent, 1000, 200, 1)

    def forward(self, images: Tensor, features: Features) -> Tensor:
        """The loss of discriminator and encoder."""
        z, judge = features.z, self.discriminator
        prior = torch.randn_like(z)
        guess = F.softplus(-judge(prior)).mean() + F.softplus(judge(z.detach())).mean()
        constant = {name: value.detach() for name, value in judge.named_parameters()}
        fooled = F.softplus(-torch.func.functional_call(judge, constant, (z,))).mean()
        loss: Tensor = self.objective(images, features) + guess + self.weight * fooled
        return loss


# The methods

#: Learning rates of Adam that every method searches.
RATES = (1e-4, 5e-4)


@dataclass(frozen=True)
class Method(CommonMethod):
    """A method of the comparison, whose objective is made from a ``Problem``."""

    encoder: bool = True  # if False, the probe reads pixels or principal components


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
    "jsd": Method("JSD", RATES, _jsd),
    "jsd+pm": Method("JSD + PM", RATES, lambda p: PriorMatching(p, _jsd(p))),
    "infonce": Method("InfoNCE", RATES, _infonce),
    "infonce+pm": Method("InfoNCE + PM", RATES, lambda p: PriorMatching(p, _infonce(p))),
    "mige": Method("MIGE", RATES, information),
    "mige-ii": Method("MIGE II", RATES, lambda p: information(p, hidden=True)),
    "entropy": Method("entropy", RATES, entropy),
    "gaussian": Method("Gaussian score", RATES, lambda p: information(_gaussian(p))),
    "gaussian-ii": Method(
        "Gaussian score II", RATES, lambda p: information(_gaussian(p), hidden=True)
    ),
}
