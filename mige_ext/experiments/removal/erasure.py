"""Erasers: maps that remove a nuisance s from the codes z of a trained encoder.

A classifier (the head of the model) is then trained on the erased codes. An eraser is a map of z
alone, because s is unknown when the codes are used.

* **LEACE** (Belrose et al., "LEACE: Perfect linear concept erasure in closed form", NeurIPS 2023)
  removes the covariance of z and s.
* **Quadratic LEACE** also projects out directions in which the covariance of z changes with s. It
  follows ``AlfQLeaceEraser`` of the package ``concept-erasure``.
* **Kernel erasure** alternates two steps, as Obliviator does (Akbari et al., "Obliviator Reveals
  the Cost of Nonlinear Guardedness in Concept Erasure", 2026, arXiv:2603.07529). The first step is
  a small change of z that lowers HSIC with s. The second step replaces z by functions of z that
  have no covariance with the bins of s. Sizes and weights are our own.
"""

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mige_ext import MigeWarning, ops
from mige_ext.experiments.common.methods import descend, perceptron
from mige_ext.experiments.common.training import DivergedError, seeded
from mige_ext.experiments.removal.models import Model
from mige_ext.experiments.removal.nuisances import Batch, Problem


class Eraser(nn.Module):
    """A map of z that removes s. Before ``fit`` it is the identity.

    Args:
        dimension: columns d of z.
        strength: strength of the erasure.
    """

    def __init__(self, dimension: int, strength: float = 0.0) -> None:
        super().__init__()
        self.strength = strength

    def fit(self, z: Tensor, batch: Batch) -> None:
        """Fit the map to codes z (N, d) and their ``Batch``."""
        raise NotImplementedError

    def forward(self, z: Tensor) -> Tensor:
        """Erase: (N, d) -> (N, d)."""
        raise NotImplementedError


class LinearEraser(Eraser):
    """LEACE: the affine map z − P (z − μ).

    Args:
        dimension: columns d of z.
        strength: unused, because LEACE has no strength.
    """

    mean: Tensor  # μ, (d,)
    erased: Tensor  # P, (d, d)

    def __init__(self, dimension: int, strength: float = 0.0) -> None:
        super().__init__(dimension, strength)
        self.register_buffer("mean", torch.zeros(dimension))
        self.register_buffer("erased", torch.zeros(dimension, dimension))

    def fit(self, z: Tensor, batch: Batch) -> None:
        """Set μ and P in closed form, from codes z (N, d) and their ``Batch``.

        The erased z has no covariance with ``nuisance(batch)``. Among the affine maps with this
        property, LEACE differs least from z::

            P = W⁺ Q W,   W = Σ^(−1/2),   Q projects onto the columns of W Σ_zs

        Warns:
            MigeWarning: all directions of z are removed, for example if s has d columns or more.
        """
        z, s = z.double(), self.nuisance(batch)
        mean, centered = z.mean(0), z - z.mean(0)
        values, vectors = torch.linalg.eigh(centered.mT @ centered / len(z))
        kept = values > values[-1] * 1e-10  # above the rounding errors of float32
        roots, vectors = values[kept].sqrt(), vectors[:, kept]
        directions = self.directions(centered @ (vectors / roots), s)
        if 0 < directions.shape[1] == vectors.shape[1]:
            warnings.warn(
                f"the eraser removes all {len(roots)} directions in which z varies, because s has "
                f"{s.shape[1]} columns: z keeps nothing, increase --latent",
                MigeWarning,
                stacklevel=2,
            )
        erased = (vectors * roots) @ directions @ directions.mT @ (vectors / roots).mT
        self.mean.copy_(mean)
        self.erased.copy_(erased)

    def nuisance(self, batch: Batch) -> Tensor:
        """Centered columns (N, k) with which the erased z has no covariance, in float64."""
        s = batch.s.double()
        return s - s.mean(0)

    def directions(self, white: Tensor, s: Tensor) -> Tensor:
        """Orthonormal directions (d, r) to remove from whitened codes (N, d)."""
        left, singular, _ = torch.linalg.svd(white.mT @ s / len(s), full_matrices=False)
        # `singular` is empty if z has no variance.
        return left[:, singular > singular[:1].clamp(min=1e-12) * 1e-6]

    def forward(self, z: Tensor) -> Tensor:
        """Erase: (N, d) -> (N, d)."""
        return z - (z - self.mean) @ self.erased.mT


class QuadraticEraser(LinearEraser):
    """Quadratic LEACE.

    Let t_k be the columns of s and their products, centered and whitened. This eraser applies LEACE
    to all t_k. Then it projects out ``strength`` (rounded) directions, one after the other. Each
    direction is the top eigenvector of Σ_k E[(z zᵀ − I) t_k]² with whitened z, the direction in
    which the covariance of z depends most on s. For a categorical s this sum is
    Σ_c p(c) (E[z zᵀ | c] − I)². The projections leave at least one direction of z, but LEACE alone
    removes every direction if there are d columns t_k or more.
    """

    def nuisance(self, batch: Batch) -> Tensor:
        """The columns of s and their products, centered and whitened."""
        s = batch.s.double()
        i, j = torch.triu_indices(s.shape[1], s.shape[1])
        return _whiten(torch.cat([s, s[:, i] * s[:, j]], 1))

    def directions(self, white: Tensor, s: Tensor) -> Tensor:
        """Directions of the means, then of the second moments."""
        found = super().directions(white, s)
        for _ in range(min(round(self.strength), white.shape[1] - 1 - found.shape[1])):
            basis = _complement(found)
            rest = white @ basis
            moments = torch.einsum("ni,nj,nk->kij", rest, rest, s) / len(s)
            top = torch.linalg.eigh((moments @ moments).sum(0)).eigenvectors[:, -1:]
            found = torch.cat([found, basis @ top], 1)
        return found


class KernelEraser(Eraser):
    """Kernel erasure: ``strength`` (rounded) times a ``KernelStep``.

    The erased z has d columns of unit variance. With strength 0, the eraser is the identity.
    """

    fitted = False

    def __init__(self, dimension: int, strength: float = 0.0) -> None:
        super().__init__(dimension, strength)
        # The random state is restored, so that every method gives the head the same initial
        # weights. ``fit`` initializes the networks of the steps again.
        with torch.random.fork_rng(devices=[]):
            self.steps = nn.Sequential(*(KernelStep(dimension) for _ in range(round(strength))))

    def fit(self, z: Tensor, batch: Batch) -> None:
        """Fit one step after the other, each to the codes of the step before."""
        for step in self.steps:
            assert isinstance(step, KernelStep)
            step.fit(z, batch)
            with torch.no_grad():
                z = step(z)
        self.fitted = True

    def get_extra_state(self) -> Tensor:
        """Whether the steps are fitted, as an entry of the state dict on the CPU."""
        return torch.tensor(self.fitted)

    def set_extra_state(self, state: Tensor) -> None:
        """Restore ``get_extra_state``."""
        self.fitted = bool(state)

    def forward(self, z: Tensor) -> Tensor:
        """Erase: (N, d) -> (N, d)."""
        return self.steps(z) if self.fitted else z


class KernelStep(nn.Module):
    """A step of kernel erasure, with the bins b of s and the labels y.

    R(e, v) is a normalized HSIC: the fraction of the variance of kernel features of e that is
    linear in v, after v is whitened. The features are random Fourier features (Rahimi and Recht,
    2007) of a mean of three RBF kernels, whose bandwidths are the median distance, its half and its
    double.

    1. A residual network e = z + f(z) minimizes, with new random features in each iteration::

           R(e, b) − WEIGHT (R(e, y) + R(e, z))

    2. The new code consists of d linear combinations of the features of e. Among the combinations
       without covariance with b, they have the most covariance with z and y.

    Args:
        dimension: columns d of z.
    """

    HIDDEN, STEPS, BATCH, RATE = 128, 100, 512, 1e-3
    WEIGHT = 0.1
    FREQUENCIES = 96  # each gives two features, a cosine and a sine
    RIDGE = 1e-3  # relative to the total variance of the features
    mean: Tensor
    scale: Tensor
    frequencies: Tensor
    center: Tensor
    weight: Tensor

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.network = perceptron(dimension, self.HIDDEN, dimension)
        self.register_buffer("mean", torch.zeros(dimension))
        self.register_buffer("scale", torch.ones(dimension))
        self.register_buffer("frequencies", torch.zeros(dimension, self.FREQUENCIES))
        self.register_buffer("center", torch.zeros(2 * self.FREQUENCIES))
        self.register_buffer("weight", torch.zeros(2 * self.FREQUENCIES, dimension))

    def fit(self, z: Tensor, batch: Batch) -> None:
        """Train the network, then choose the functions, for codes z (N, d) and their ``Batch``.

        torch's global random generator draws the features.

        Raises:
            DivergedError: the codes have no variance.
        """
        bins = _whiten(F.one_hot(batch.bin).double())
        label = _whiten(F.one_hot(batch.label).double())
        code = _whiten(z.double())
        self._train(z, bins.float(), label.float(), code.float())
        with torch.no_grad():
            e = z + self.network(z)
            self.mean.copy_(e.mean(0))
            self.scale.copy_(e.std(0).clamp(min=1e-6))
            e = (e - self.mean) / self.scale
            self.frequencies.copy_(self._draw(e))
            self._choose(e, bins, torch.cat([label, code], 1))

    def _train(self, z: Tensor, bins: Tensor, label: Tensor, code: Tensor) -> None:
        last = self.network[-1]
        assert isinstance(last, nn.Linear)
        for layer in self.network:
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()
        nn.init.zeros_(last.weight)  # the first e is z
        nn.init.zeros_(last.bias)
        adam = torch.optim.Adam(self.network.parameters(), self.RATE, fused=True)
        for _ in range(self.STEPS):
            rows = torch.randint(len(z), (self.BATCH,)).to(z.device)
            e = z[rows] + self.network(z[rows])
            e = (e - e.mean(0)) / e.std(0).clamp(min=1e-6)
            features = _features(e, self._draw(e.detach()))
            features = features - features.mean(0)
            kept = _explained(features, label[rows]) + _explained(features, code[rows])
            descend(adam, _explained(features, bins[rows]) - self.WEIGHT * kept)

    def _draw(self, e: Tensor) -> Tensor:
        """Random frequencies (d, FREQUENCIES) of the three kernels."""
        # The columns of e have unit variance. If all codes are equal, the median is 0.
        median = ops.distance_quantile(e[: self.BATCH]).clamp(min=1e-3)
        factors = torch.tensor([0.5, 1.0, 2.0]).repeat(self.FREQUENCIES // 3).to(e.device)
        return torch.randn(e.shape[1], self.FREQUENCIES).to(e.device) * factors / median

    def _choose(self, e: Tensor, bins: Tensor, targets: Tensor) -> None:
        features = _features(e, self.frequencies).double()
        center = features.mean(0)
        features = features - center
        variance = features.mT @ features / len(features)
        if not variance.trace() > 1e-12:  # rounding errors, or NaN
            raise DivergedError("the codes must vary for kernel erasure, got a collapsed code")
        left, singular, _ = torch.linalg.svd(features.mT @ bins / len(bins), full_matrices=False)
        basis = _complement(left[:, singular > 1e-12])
        cross = basis.mT @ features.mT @ targets / len(targets)
        inner = basis.mT @ variance @ basis
        inner.diagonal().add_(self.RIDGE * variance.trace())
        factor = torch.linalg.cholesky(inner)
        cross = torch.linalg.solve_triangular(factor, cross, upper=False)
        top = torch.linalg.svd(cross, full_matrices=False).U[:, : self.weight.shape[1]]
        weight = basis @ torch.linalg.solve_triangular(factor.mT, top, upper=True)
        weight = weight / (features @ weight).std(0).clamp(min=1e-6)
        self.center.copy_(center)
        self.weight.zero_()
        self.weight[:, : weight.shape[1]] = weight

    def forward(self, z: Tensor) -> Tensor:
        """Change z: (N, d) -> (N, d)."""
        e = (z + self.network(z) - self.mean) / self.scale
        return (_features(e, self.frequencies) - self.center) @ self.weight


def _features(e: Tensor, frequencies: Tensor) -> Tensor:
    """Random Fourier features (N, 2 F) of e (N, d), whose inner products approximate the kernel."""
    angle = e @ frequencies
    return torch.cat([angle.cos(), angle.sin()], 1) / frequencies.shape[1] ** 0.5


def _explained(features: Tensor, white: Tensor) -> Tensor:
    """Fraction of the variance of centered features (N, F) that is linear in white (N, k)."""
    cross = features.mT @ (white - white.mean(0)) / len(white)
    return cross.square().sum() / features.square().sum(1).mean().clamp(min=1e-12)


def _whiten(x: Tensor) -> Tensor:
    """Center x (N, k), and map it linearly to at most k uncorrelated columns of unit variance."""
    centered = x - x.mean(0)
    values, vectors = torch.linalg.eigh(centered.mT @ centered / len(x))
    kept = values > values[-1].clamp(min=1e-12) * 1e-9
    return centered @ (vectors[:, kept] / values[kept].sqrt())


def _complement(directions: Tensor) -> Tensor:
    """An orthonormal basis (d, d − r) of the complement of orthonormal directions (d, r)."""
    return torch.linalg.qr(directions, mode="complete").Q[:, directions.shape[1] :]


class ErasedModel(Model):
    """A model whose encoder ends with an eraser. β is the strength of the eraser."""

    eraser: type[Eraser] = LinearEraser

    def layers(self, inputs: int, hidden: tuple[int, ...], latent: int) -> nn.Sequential:
        """The encoder and its eraser."""
        return super().layers(inputs, hidden, latent).append(self.eraser(latent, self.strength))

    def finish(self, problem: Problem, settings: Any, seed: int) -> None:
        """Fit the eraser to training codes, and train the head again on the erased codes."""
        eraser = self.encoder[-1]
        assert isinstance(eraser, Eraser)
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randperm(problem.count("train"), generator=generator)[: settings.codes]
        self.eval()
        with torch.no_grad():
            drawn = [problem.draw("train", chunk, generator) for chunk in rows.split(2000)]
            z = torch.cat([self.encoder(batch.x) for batch in drawn])
        whole = Batch(*map(torch.cat, zip(*drawn, strict=True)))
        with seeded(seed, problem.device):
            eraser.fit(z, whole)
        with torch.no_grad():
            z = eraser(z)
        with seeded(seed, problem.device):
            train_head(self.head, z, whole.label, settings)
        self.train()


class QuadraticErasedModel(ErasedModel):
    """A model with a ``QuadraticEraser``, whose β is a number of directions."""

    eraser = QuadraticEraser
    integer_strength = True

    @classmethod
    def largest_strength(cls, latent: int) -> float:
        """All directions of z but one."""
        return latent - 1


class KernelErasedModel(ErasedModel):
    """A model with a ``KernelEraser``, whose β is a number of steps."""

    eraser = KernelEraser
    integer_strength = True


def train_head(head: nn.Module, z: Tensor, label: Tensor, settings: Any) -> None:
    """Train a classifier from new initial weights on codes z (N, d) with labels (N,).

    ``settings`` are the settings of the experiment. The head is trained for as many steps as the
    encoder was.
    """
    for layer in head.modules():
        if isinstance(layer, nn.Linear):
            layer.reset_parameters()
    adam = torch.optim.Adam(head.parameters(), settings.learning_rate, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        adam, lambda done: 1 - (done + 1) / (settings.steps + 1)
    )
    for _ in range(settings.steps):
        rows = torch.randint(len(z), (settings.batch,)).to(z.device)
        descend(adam, F.cross_entropy(head(z[rows]), label[rows]))
        schedule.step()
