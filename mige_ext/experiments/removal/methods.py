"""Penalties on what a representation z tells about a nuisance s; the encoder descends them.

A method is one row of `METHODS`: how its penalty is made, and its grid of strengths β. A penalty
takes z (N, d), under BatchNorm, and the `Batch` it was made from, and gives a scalar.

* **MIGE** follows the gradient of I(s; z) = H(s) + H(z) − H(s, z) by scores: of the default
  estimator, with the marginal's own score or a matched one; and, as controls, of SSGE and of a
  Gaussian.
* **HSIC** has no learner either: the alignment of the Gram matrices of z and s (Gretton et al.,
  2005; Cortes et al., 2012). Whitening z first leaves no direction of little variance to hide in;
  a centre loss (Wen et al., 2016) takes away what varies within a class.
* **Adversaries** guess s, or its bin, from z, and the encoder maximises their error (Ganin and
  Lempitsky, 2015).
* **CLUB** and **MINE** train a network for a bound of I(s; z), from above (Cheng et al., 2020) and
  from below (Belghazi et al., 2018).

Those with a learner train it in each call, before they give the penalty.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import mige_ext as mige
from mige_ext import ops
from mige_ext.bounds import JointCritic, mine
from mige_ext.experiments.removal.nuisances import BINS, Batch, Problem
from mige_ext.scores.base import ScoreEstimator

Penalty = Callable[[Tensor, Batch], Tensor]


# Scores


def information_gradient(
    estimator: ScoreEstimator | None = None, marginal: Literal["own", "matched"] = "own"
) -> Penalty:
    """I(s; z), by the score of (s, z) and that of z."""

    def penalty(z: Tensor, batch: Batch) -> Tensor:
        return mige.mutual_information(batch.s, z, estimator=estimator, marginal=marginal)

    return penalty


# Kernels


def hsic(z: Tensor, batch: Batch) -> Tensor:
    """⟨K̄, L̄⟩ / ‖K̄‖‖L̄‖, of the centred RBF Gram matrices of z and s at the median distance."""
    k, l_ = _centred_gram(z), _centred_gram(batch.s)
    return (k * l_).sum() / (k.norm() * l_.norm())


def hsic_whitened(z: Tensor, batch: Batch) -> Tensor:
    """`hsic` of z with unit covariance, through which gradients pass."""
    centred = z - z.mean(0)
    covariance = centred.mT @ centred / len(z) + 1e-3 * torch.eye(z.shape[1], device=z.device)
    factor = torch.linalg.cholesky_ex(covariance).L  # does not wait for a GPU, to check
    return hsic(torch.linalg.solve_triangular(factor, centred.mT, upper=False).mT, batch)


def hsic_whitened_centre(z: Tensor, batch: Batch) -> Tensor:
    """`hsic_whitened`, and the share of the variance of z within the classes."""
    alike = (batch.label[:, None] == batch.label).to(z.dtype)
    centres = (alike @ z) / alike.sum(1, keepdim=True)
    within = (z - centres).square().mean()
    return hsic_whitened(z, batch) + CENTRE * within


#: Weight of the centre loss beside HSIC. At equal accuracy on rotated MNIST, .1 leaves more nats
#: than .3, and 1 as many.
CENTRE = 0.5


def _centred_gram(x: Tensor) -> Tensor:
    gram = ops.rbf_gram(x, bandwidth=ops.distance_quantile(x.detach()))
    return gram - gram.mean(0) - gram.mean(1, keepdim=True) + gram.mean()


# Learners


class Learned(nn.Module):
    """A penalty with a network that is trained beside the encoder, a few steps in each call.

    A kind of it gives ``loss``, which the network descends, and ``penalty``, which the encoder
    does.

    Args:
        network: the learner.
    """

    STEPS, RATE, HIDDEN = 3, 1e-3, 128

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.adam = torch.optim.Adam(network.parameters(), self.RATE, fused=True)

    def loss(self, z: Tensor, batch: Batch) -> Tensor:
        """Of the network."""
        raise NotImplementedError

    def penalty(self, z: Tensor, batch: Batch) -> Tensor:
        """Of the encoder; that of an adversary is its loss, with the other sign."""
        return -self.loss(z, batch)

    def forward(self, z: Tensor, batch: Batch) -> Tensor:
        """Train the network on z, then give the penalty."""
        for _ in range(self.STEPS):
            self.adam.zero_grad()
            self.loss(z.detach(), batch).backward()
            self.adam.step()
        return self.penalty(z, batch)

    def get_extra_state(self) -> dict[str, Any]:
        """What `state_dict` would miss: the optimiser."""
        return {"adam": self.adam.state_dict()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Continue from there."""
        self.adam.load_state_dict(state["adam"])

    @classmethod
    def perceptron(cls, inputs: int, outputs: int) -> nn.Module:
        """Two hidden layers."""
        hidden = cls.HIDDEN
        return nn.Sequential(
            nn.Linear(inputs, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, outputs),
        )


class Regressor(Learned):
    """An adversary that predicts s: minus its mean squared error."""

    def __init__(self, problem: Problem, latent: int) -> None:
        super().__init__(self.perceptron(latent, problem.nuisance_dim))

    def loss(self, z: Tensor, batch: Batch) -> Tensor:
        """E‖f(z) − s‖² / dim s."""
        return F.mse_loss(self.network(z), batch.s)


class Classifier(Learned):
    """An adversary that predicts the bin of s: minus its cross-entropy."""

    def __init__(self, problem: Problem, latent: int) -> None:
        super().__init__(self.perceptron(latent, BINS))

    def loss(self, z: Tensor, batch: Batch) -> Tensor:
        """E[−log p(bin | z)]."""
        return F.cross_entropy(self.network(z), batch.bin)


class Club(Learned):
    """CLUB: I ≤ E_joint[log q(s|z)] − E_marginal[log q(s|z)], with q Gaussian, fitted to pairs."""

    def __init__(self, problem: Problem, latent: int) -> None:
        super().__init__(self.perceptron(latent, 2 * problem.nuisance_dim))

    def moments(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(s|z), each (N, dim s); |log σ²| < 5."""
        mean, spread = self.network(z).chunk(2, -1)
        return mean, 5 * torch.tanh(spread / 5)

    def loss(self, z: Tensor, batch: Batch) -> Tensor:
        """E[−log q(s|z)], up to a constant."""
        mean, log_variance = self.moments(z)
        return ((batch.s - mean).square() / log_variance.exp() + log_variance).mean() / 2

    def penalty(self, z: Tensor, batch: Batch) -> Tensor:
        """The bound, with all pairs: E_s over the batch is in closed form."""
        mean, log_variance = self.moments(z)
        joint = (batch.s - mean).square()
        marginal = batch.s.square().mean(0) - 2 * mean * batch.s.mean(0) + mean.square()
        return ((marginal - joint) / (2 * log_variance.exp())).sum(-1).mean()


class Mine(Learned):
    """MINE: I ≥ E_joint[T] − log E_marginal[e^T], with a critic T(s, z)."""

    MARGINALS = 4  # pairs for each joint one
    average: Tensor | None = None

    def __init__(self, problem: Problem, latent: int) -> None:
        super().__init__(JointCritic(problem.nuisance_dim, latent, self.HIDDEN))

    def loss(self, z: Tensor, batch: Batch) -> Tensor:
        """Minus the bound."""
        shifts = torch.randperm(len(z) - 1)[: self.MARGINALS] + 1
        s = torch.stack([batch.s, *(batch.s.roll(int(by), 0) for by in shifts)])
        joint, *marginal = self.network(s, z.expand(len(s), *z.shape))
        value, self.average = mine(joint, torch.cat(marginal), self.average)
        return -value

    def get_extra_state(self) -> dict[str, Any]:
        """The optimiser and the moving average."""
        return {**super().get_extra_state(), "average": self.average}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Continue from there."""
        super().set_extra_state(state)
        average = state["average"]
        self.average = None if average is None else average.to(next(self.parameters()).device)


# The methods


@dataclass(frozen=True)
class Method:
    """A row of the comparison.

    Attributes:
        label: in the table and the figure.
        strengths: the grid of β, of the same size for all.
        penalty: makes what β multiplies, from the problem and the dimension of z.
    """

    label: str
    strengths: tuple[float, ...] = (0.0,)
    penalty: Callable[[Problem, int], Penalty] | None = None


def _always(penalty: Penalty) -> Callable[[Problem, int], Penalty]:
    return lambda problem, latent: penalty


def _scores(
    estimator: ScoreEstimator | None = None, **options: Any
) -> Callable[[Problem, int], Penalty]:
    return _always(information_gradient(estimator, **options))


METHODS = {
    "none": Method("no removal"),
    "mige": Method("MIGE", (0.01, 0.02, 0.04, 0.08), _scores()),
    "mige-matched": Method("MIGE, matched", (0.03, 0.06, 0.12, 0.24), _scores(marginal="matched")),
    "ssge": Method("SSGE .99", (0.01, 0.03, 0.1, 0.3), _scores(mige.SSGE(threshold=0.99))),
    "gaussian": Method("Gaussian score", (0.05, 0.1, 0.2, 0.4), _scores(mige.GaussianScore())),
    "hsic": Method("HSIC", (0.5, 1.0, 2.0, 4.0), _always(hsic)),
    "hsic-whitened": Method("HSIC, whitened", (0.5, 1.0, 2.0, 4.0), _always(hsic_whitened)),
    "hsic-whitened-centre": Method(
        "HSIC, whitened + center", (0.25, 0.5, 1.0, 2.0), _always(hsic_whitened_centre)
    ),
    "adversary-regressor": Method("adversary, regressor", (0.1, 0.3, 1.0, 3.0), Regressor),
    "adversary-classifier": Method("adversary, classifier", (0.3, 1.0, 3.0, 10.0), Classifier),
    "club": Method("CLUB", (0.1, 0.3, 1.0, 3.0), Club),
    "mine": Method("MINE", (0.3, 0.6, 1.2, 2.4), Mine),
}
