"""Mixtures of Gaussians whose components belong to classes, with the exact gradient.

For a class c, ``∂I(c; z)/∂z_i = ∇_z log p(c_i | z_i) / M``. The gradient times M is the *field*.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

DIMENSIONS = (2, 4, 8, 16)


@dataclass(frozen=True, eq=False)
class Mixture:
    """Components N(means, factors factorsᵀ) with their classes and probabilities."""

    means: Tensor  #: (C, d)
    factors: Tensor  #: (C, d, d)
    classes: Tensor  #: (C)
    probabilities: Tensor  #: (C)

    def draw(self, m: int, seed: int) -> tuple[Tensor, Tensor]:
        """Classes, (M), and samples, (M, d)."""
        generator = torch.Generator().manual_seed(seed)
        of = torch.multinomial(self.probabilities, m, replacement=True, generator=generator)
        noise = torch.randn(m, self.means.shape[1], dtype=torch.float64, generator=generator)
        z = self.means[of] + (self.factors[of] @ noise.unsqueeze(-1)).squeeze(-1)
        return self.classes[of], z

    def field(self, s: Tensor, z: Tensor) -> Tensor:
        """``∇_z log p(s | z)``, (M, d)."""
        precisions = torch.linalg.inv(self.factors @ self.factors.mT)
        offset = z.unsqueeze(1) - self.means
        scores = -(precisions @ offset.unsqueeze(-1)).squeeze(-1)
        logits = self.probabilities.log() + (offset * scores).sum(-1) / 2
        logits = logits + torch.logdet(precisions) / 2
        own = logits.masked_fill(self.classes != s.unsqueeze(-1), -torch.inf)
        weights = own.softmax(-1) - logits.softmax(-1)
        return (weights.unsqueeze(-1) * scores).sum(1)


def _mixture(means: Tensor, scales: list[float], classes: list[int], weights: Tensor) -> Mixture:
    d = means.shape[1]
    factors = torch.tensor(scales).double().view(-1, 1, 1) * torch.eye(d, dtype=torch.float64)
    return Mixture(means, factors, torch.tensor(classes), weights / weights.sum())


def _shift(u: Tensor) -> Mixture:
    return _mixture(0.7 * torch.stack([u[0], -u[0]]), [1, 1], [0, 1], torch.ones(2))


def _shape(u: Tensor) -> Mixture:
    return _mixture(torch.zeros_like(u[:2]), [1, 0.6], [0, 1], torch.ones(2))


def _rare(u: Tensor) -> Mixture:
    means = torch.stack([torch.zeros_like(u[0]), u[0]])
    mixture = _mixture(means, [1, 1], [0, 1], torch.tensor([0.85, 0.15]))
    mixture.factors[1] += 0.2 * u[:1].mT * u[1:2]
    return mixture


def _four(u: Tensor) -> Mixture:
    return _mixture(1.2 * u[:4], [1] * 4, [0, 1, 2, 3], torch.ones(4))


def _xor(u: Tensor) -> Mixture:
    v = normalize(u[1] - (u[1] @ u[0]) * u[0], dim=0)
    means = 1.5 * torch.stack([u[0], -u[0], v, -v])
    return _mixture(means, [0.7] * 4, [0, 0, 1, 1], torch.ones(4))


def _modes(u: Tensor) -> Mixture:
    return _mixture(1.6 * u, [0.6] * 6, [0, 1, 0, 1, 0, 1], torch.ones(6))


def _five(u: Tensor) -> Mixture:
    weights = torch.tensor([0.85, 0.10, 0.03, 0.01, 0.01])
    return _mixture(1.2 * u[:5], [1] * 5, [0, 1, 2, 3, 4], weights)


def _none(u: Tensor) -> Mixture:
    means = torch.stack([u[0], -u[0], u[0], -u[0]])
    return _mixture(means, [1] * 4, [0, 0, 1, 1], torch.ones(4))


#: Functions by name, which make a mixture from six random directions of unit length, (6, d). In
#: "none" the class is independent of z, and the field is 0.
FAMILIES: dict[str, Callable[[Tensor], Mixture]] = {
    "shift": _shift,  # two classes with shifted means
    "shape": _shape,  # two classes with different scales
    "rare": _rare,  # a class of 15 % of the samples
    "four": _four,  # four classes with shifted means
    "xor": _xor,  # two modes in each of two classes, on orthogonal axes
    "modes": _modes,  # three modes in each of two classes
    "five": _five,  # five classes of 85, 10, 3, 1 and 1 %
    "none": _none,
}
NO_DEPENDENCE = "none"


def mixture(family: str, d: int) -> Mixture:
    """The mixture of a family in d dimensions, with the same random directions in each call."""
    generator = torch.Generator().manual_seed(d)
    directions = torch.randn(6, d, dtype=torch.float64, generator=generator)
    return FAMILIES[family](normalize(directions, dim=1))
