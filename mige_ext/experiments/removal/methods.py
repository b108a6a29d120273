"""Penalties on the information that a representation z has about a nuisance s.

The encoder minimizes the loss of the task plus β times a penalty. A penalty is a scalar function of
z (N, d), which passed BatchNorm, and of the ``Batch`` of z. Each row of ``METHODS`` has a function
that makes the penalty, and a grid of β.

* **MIGE** follows the gradient of I(s; z) = H(s) + H(z) − H(s, z) by scores of the default
  estimator. Variants take the score of z with ``marginal="paired"`` or ``"matched"``, or scores of
  SSGE, Tikhonov or a Gaussian.
* **MIGE, permuted s** is a control: MIGE with the values of s in a random order. It shows what the
  penalty removes without information about s.
* **Contraction** minimizes minus the negentropy of z, a control that never sees s
  (``removal/blind.py`` has all methods of this kind).
* **HSIC** minimizes the alignment of the Gram matrices of z and s (Gretton et al., 2005; Cortes et
  al., 2012). Variants whiten z first, so that s cannot hide in directions of little variance, and
  add a center loss (Wen et al., 2016), which reduces the variation within each class. **Distance
  correlation** uses distances instead of kernels. **MMD** compares the groups of s with each other.
* **Adversaries** predict s or its bin from z, and the encoder maximizes their error (Ganin and
  Lempitsky, 2015). **Gradient reversal** has three adversaries and a growing weight.
* **CLUB** and **MINE** train a network for an upper bound (Cheng et al., 2020) or a lower bound
  (Belghazi et al., 2018) of I(s; z). **Sliced information** trains the directions on which z and s
  are projected (Chen et al., 2022).
* **LEACE**, **quadratic LEACE** and **kernel erasure** train without a penalty, and then erase s
  from the codes (``removal/erasure.py``).

MIGE, MMD, the adversarial classifier and gradient reversal use the classes of a categorical s. The
other penalties use columns of numbers for the classes (``removal/nuisances.py``).
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import mige_ext as mige
from mige_ext.bounds import JointCritic, mine
from mige_ext.experiments.common.methods import Learner, Method, always, descend, perceptron
from mige_ext.experiments.removal.blind import (
    VIB,
    Dropout,
    LabelSmoothing,
    SquaredNorm,
    VIBMean,
    VIBNormalized,
    center,
    contraction,
    entropy,
)
from mige_ext.experiments.removal.dependence import (
    distance_correlation,
    group_discrepancy,
    hsic,
    hsic_whitened,
    hsic_whitened_center,
)
from mige_ext.experiments.removal.erasure import (
    ErasedModel,
    KernelErasedModel,
    QuadraticErasedModel,
)
from mige_ext.experiments.removal.models import Model
from mige_ext.experiments.removal.nuisances import Batch, Problem
from mige_ext.scores.base import ScoreEstimator

Penalty = Callable[[Tensor, Batch], Tensor]


# Scores


def information_gradient(
    problem: Problem,
    estimator: ScoreEstimator | None = None,
    marginal: Literal["paired", "own", "matched"] = "own",
    *,
    permuted: bool = False,
) -> Penalty:
    """I(s; z), or I(s; z | label) with ``problem.given_label``.

    Args:
        problem: Data.
        estimator: Estimator of the scores; None takes the default of ``mutual_information``.
        marginal: Estimator of the score of z, an option of ``mutual_information``.
        permuted: Whether s is permuted in each call, within the labels if they are given.
    """

    def penalty(z: Tensor, batch: Batch) -> Tensor:
        s = batch.bin if problem.categorical else batch.s
        given = batch.label if problem.given_label else None
        if permuted:
            s = shuffled(s, torch.zeros_like(batch.label) if given is None else given)
        return mige.mutual_information(s, z, estimator=estimator, marginal=marginal, given=given)

    return penalty


def shuffled(s: Tensor, label: Tensor) -> Tensor:
    """The rows of s (N, ...) in a random order, in which each row stays within its label (N,)."""
    to = label.argsort(stable=True)
    of = torch.randperm(len(s), device=s.device)
    of = of[label[of].argsort(stable=True)]
    result = torch.empty_like(s)
    result[to] = s[of]
    return result


# Learners


class Learned(Learner):
    """A penalty with a network that is trained for ``STEPS`` steps in each call.

    The network minimizes ``loss``, and the encoder minimizes ``penalty``.

    Args:
        network: Network that is trained.
    """

    STEPS, RATE, HIDDEN = 3, 1e-3, 128

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network, self.RATE)

    def loss(self, z: Tensor, batch: Batch) -> Tensor:
        """Loss of the network."""
        raise NotImplementedError

    def penalty(self, z: Tensor, batch: Batch) -> Tensor:
        """Penalty of the encoder: minus the loss of the network, unless a subclass overrides it."""
        return -self.loss(z, batch)

    def forward(self, z: Tensor, batch: Batch) -> Tensor:
        """Train the network on z, then return the penalty."""
        for _ in range(self.STEPS):
            descend(self.optimizer, self.loss(z.detach(), batch))
        return self.penalty(z, batch)


class Regressor(Learned):
    """An adversary that predicts s; the penalty is minus its mean squared error."""

    def __init__(self, problem: Problem, latent: int) -> None:
        super().__init__(perceptron(latent, self.HIDDEN, self.HIDDEN, problem.nuisance_dim))

    def loss(self, z: Tensor, batch: Batch) -> Tensor:
        """E‖f(z) − s‖² / dim s."""
        return F.mse_loss(self.network(z), batch.s)


class Classifier(Learned):
    """An adversary that predicts the bin of s; the penalty is minus its cross-entropy."""

    def __init__(self, problem: Problem, latent: int) -> None:
        super().__init__(perceptron(latent, self.HIDDEN, self.HIDDEN, problem.bins))

    def loss(self, z: Tensor, batch: Batch) -> Tensor:
        """E[−log p(bin | z)]."""
        return F.cross_entropy(self.network(z), batch.bin)


class Club(Learned):
    """CLUB: I ≤ E_joint[log q(s|z)] − E_marginal[log q(s|z)], with a Gaussian q."""

    def __init__(self, problem: Problem, latent: int) -> None:
        super().__init__(perceptron(latent, self.HIDDEN, self.HIDDEN, 2 * problem.nuisance_dim))

    def moments(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(s|z), each (N, dim s); |log σ²| < 5."""
        mean, spread = self.network(z).chunk(2, -1)
        return mean, 5 * torch.tanh(spread / 5)

    def loss(self, z: Tensor, batch: Batch) -> Tensor:
        """E[−log q(s|z)], up to a constant."""
        mean, log_variance = self.moments(z)
        return ((batch.s - mean).square() / log_variance.exp() + log_variance).mean() / 2

    def penalty(self, z: Tensor, batch: Batch) -> Tensor:
        """The bound, with a closed form of the mean over all marginal pairs."""
        mean, log_variance = self.moments(z)
        joint = (batch.s - mean).square()
        marginal = batch.s.square().mean(0) - 2 * mean * batch.s.mean(0) + mean.square()
        return ((marginal - joint) / (2 * log_variance.exp())).sum(-1).mean()


class Mine(Learned):
    """MINE: I ≥ E_joint[T] − log E_marginal[e^T], with a critic T(s, z)."""

    MARGINALS = 4  # marginal pairs for each joint pair

    def __init__(self, problem: Problem, latent: int) -> None:
        super().__init__(JointCritic(problem.nuisance_dim, latent, self.HIDDEN))

    def loss(self, z: Tensor, batch: Batch) -> Tensor:
        """Minus the bound."""
        shifts = torch.randperm(len(z) - 1)[: self.MARGINALS] + 1
        s = torch.stack([batch.s, *(batch.s.roll(int(by), 0) for by in shifts)])
        joint, *marginal = self.network(s, z.expand(len(s), *z.shape))
        value, self.average = mine(joint, torch.cat(marginal), self.average)
        return -value


class Reversal(Learned):
    """Gradient reversal with three adversaries of different sizes (Ganin and Lempitsky, 2015).

    Each adversary predicts the bin of s. The weight of the penalty grows from 0 to nearly 1 over
    the first ``RAMP`` steps::

        2 / (1 + exp(−10 step / RAMP)) − 1
    """

    STEPS, RAMP = 1, 400
    calls: Tensor

    def __init__(self, problem: Problem, latent: int) -> None:
        hidden = ((self.HIDDEN,), (self.HIDDEN, self.HIDDEN), (256, 256, 256))
        super().__init__(nn.ModuleList(perceptron(latent, *h, problem.bins) for h in hidden))
        self.register_buffer("calls", torch.zeros(()))

    def loss(self, z: Tensor, batch: Batch) -> Tensor:
        """Mean of the adversaries' E[−log p(bin | z)]."""
        losses = [F.cross_entropy(critic(z), batch.bin) for critic in self.network.children()]
        return torch.stack(losses).mean()

    def penalty(self, z: Tensor, batch: Batch) -> Tensor:
        """Minus the loss, times the growing weight."""
        self.calls += 1
        weight = 2 * torch.sigmoid(10 * self.calls / self.RAMP) - 1
        return -weight * self.loss(z, batch)


class Slices(nn.Module):
    """Directions in z and in s, of any length."""

    def __init__(self, count: int, z_dim: int, s_dim: int) -> None:
        super().__init__()
        self.z = nn.Parameter(torch.randn(count, z_dim))
        self.s = nn.Parameter(torch.randn(count, s_dim))


class SlicedInformation(Learned):
    """Sliced information: the dependence of projections of z and s on lines (Chen et al., 2022).

    For a line of z and a line of s, ρ is the canonical correlation of the two projections: the
    largest correlation of a polynomial of one projection with a polynomial of the other. The
    lines maximize the mean of −½ log(1 − ρ²) over ``SLICES`` pairs of lines. The encoder
    minimizes this mean.
    """

    RATE, SLICES, DEGREE = 1e-2, 32, 3
    network: Slices

    def __init__(self, problem: Problem, latent: int) -> None:
        super().__init__(Slices(self.SLICES, latent, problem.nuisance_dim))

    def loss(self, z: Tensor, batch: Batch) -> Tensor:
        """Minus the mean of −½ log(1 − ρ²)."""
        features = [
            self.polynomials(x, direction)
            for x, direction in ((z, self.network.z), (batch.s, self.network.s))
        ]
        correlation = self.correlation(*features).clamp(max=0.999)
        return 0.5 * torch.log1p(-correlation.square()).mean()

    def polynomials(self, x: Tensor, directions: Tensor) -> Tensor:
        """Whitened powers of the projections, (slices, N, DEGREE)."""
        line = (x @ F.normalize(directions, dim=1).mT).mT
        line = (line - line.mean(1, keepdim=True)) / line.std(1, keepdim=True).clamp(min=1e-6)
        line = torch.tanh(line / 2)  # powers of outliers would dominate
        powers = torch.stack([line**degree for degree in range(1, self.DEGREE + 1)], 2)
        powers = powers - powers.mean(1, keepdim=True)
        covariance = powers.mT @ powers / len(x)
        scale = covariance.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
        ridge = 1e-3 * scale * torch.eye(self.DEGREE, device=x.device)
        factor = torch.linalg.cholesky_ex(covariance + ridge).L
        return torch.linalg.solve_triangular(factor, powers.mT, upper=False).mT

    @staticmethod
    def correlation(left: Tensor, right: Tensor) -> Tensor:
        """The largest canonical correlation of whitened features, (slices,)."""
        return torch.linalg.svdvals(left.mT @ right / left.shape[1])[:, 0]


# The methods


def _scores(
    estimator: ScoreEstimator | None = None, **options: Any
) -> Callable[[Problem, int], Penalty]:
    return lambda problem, _: information_gradient(problem, estimator, **options)


METHODS = {
    "none": Method("no removal"),
    "mige": Method("MIGE", (0.01, 0.02, 0.04, 0.08), _scores()),
    "mige-paired": Method("MIGE, paired", (0.03, 0.06, 0.12, 0.24), _scores(marginal="paired")),
    "mige-matched": Method("MIGE, matched", (0.03, 0.06, 0.12, 0.24), _scores(marginal="matched")),
    "ssge": Method("SSGE .99", (0.01, 0.03, 0.1, 0.3), _scores(mige.SSGE(threshold=0.99))),
    "tikhonov": Method("Tikhonov", (0.03, 0.1, 0.3, 1.0), _scores(mige.Tikhonov())),
    "gaussian": Method("Gaussian score", (0.05, 0.1, 0.2, 0.4), _scores(mige.GaussianScore())),
    "mige-permuted": Method("MIGE, permuted s", (0.01, 0.02, 0.04, 0.08), _scores(permuted=True)),
    "contraction": Method("contraction", (0.0025, 0.005, 0.01, 0.02), always(contraction)),
    "hsic": Method("HSIC", (0.5, 1.0, 2.0, 4.0), always(hsic)),
    "hsic-whitened": Method("HSIC, whitened", (0.5, 1.0, 2.0, 4.0), always(hsic_whitened)),
    "hsic-whitened-center": Method(
        "HSIC, whitened + center", (0.25, 0.5, 1.0, 2.0), always(hsic_whitened_center)
    ),
    "adversary-regressor": Method("adversary, regressor", (0.1, 0.3, 1.0, 3.0), Regressor),
    "adversary-classifier": Method("adversary, classifier", (0.3, 1.0, 3.0, 10.0), Classifier),
    "club": Method("CLUB", (0.1, 0.3, 1.0, 3.0), Club),
    "distance": Method("distance correlation", (0.5, 1.0, 2.0, 4.0), always(distance_correlation)),
    "mmd": Method("MMD between groups", (1.0, 3.0, 10.0, 30.0), always(group_discrepancy)),
    "sliced": Method("sliced information", (0.1, 0.3, 1.0, 3.0), SlicedInformation),
    "reversal": Method("gradient reversal", (0.1, 0.3, 1.0, 3.0), Reversal),
    "leace": Method("LEACE"),  # methods without a penalty are in MODELS
    "leace-quadratic": Method("quadratic LEACE", (1.0, 2.0, 3.0, 4.0)),  # numbers of directions
    "kernel-erasure": Method("kernel erasure", (2.0, 4.0, 8.0, 16.0)),  # numbers of steps
    "mine": Method("MINE", (0.3, 0.6, 1.2, 2.4), Mine),
    "entropy": Method("entropy of z", (0.01, 0.02, 0.04, 0.08), always(entropy)),
    "vib": Method("VIB", (0.003, 0.01, 0.03, 0.1)),
    "vib-mean": Method("VIB, mean", (0.03, 0.1, 0.3, 1.0)),
    "vib-normalized": Method("VIB, BatchNorm", (0.001, 0.003, 0.01, 0.03)),
    "squared-norm": Method("squared norm", (1.0, 10.0, 100.0, 1000.0)),
    "center": Method("center loss", (1.0, 10.0, 100.0, 1000.0), always(center)),
    "label-smoothing": Method("label smoothing", (3.0, 10.0, 30.0, 100.0)),
    "dropout": Method("dropout", (0.3, 1.0, 3.0, 10.0)),
}
#: Models of the methods that change the network, its loss or its codes.
MODELS: dict[str, type[Model]] = {
    "leace": ErasedModel,
    "leace-quadratic": QuadraticErasedModel,
    "kernel-erasure": KernelErasedModel,
    "vib": VIB,
    "vib-mean": VIBMean,
    "vib-normalized": VIBNormalized,
    "squared-norm": SquaredNorm,
    "label-smoothing": LabelSmoothing,
    "dropout": Dropout,
}
