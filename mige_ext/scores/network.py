"""Sliced score matching: the score as a small network, trained on the samples."""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from mige_ext import _checks
from mige_ext._precision import about_origin, in_units, no_autocast, saturated, standardized
from mige_ext.scores.base import FittableEstimator, Fitted, stein_calibration

Layers = tuple[Tensor, ...]  # one tensor for each layer


@dataclass(frozen=True, eq=False)
class NetworkDiagnostics:
    """Diagnostics of a trained score, one value for each group of samples, (...)."""

    #: the objective divided by d, in the last step; −1/2 for the true score of a normal
    #: distribution, and far lower for a network that has memorized the samples
    loss: Tensor
    #: ``−mean(s·(z − m)) / d`` with m the mean of the samples; 1 for the true score
    calibration: Tensor


@dataclass(frozen=True, eq=False, repr=False)
class FittedNetwork(Fitted):
    """A trained score, ``g(q) = s((q − m)/D)/D`` with ``s(z) = −z + network(z)``.

    Cost:
        A score at Q points takes 2Q flop for each weight.
    """

    samples: Tensor  #: (..., M, d)
    mean: Tensor  #: m, (..., 1, d)
    deviation: Tensor  #: D, the standard deviations, (..., 1, d); a column with D = 0 has score 0
    weights: Layers  #: (..., inputs, outputs) each
    biases: Layers  #: (..., 1, outputs) each
    origin: Tensor  #: the first sample divided by ``unit``, (..., 1, d)
    unit: Tensor  #: the unit of length of each column, (..., 1, d)
    diagnostics: NetworkDiagnostics  #: loss and calibration

    def _in_units(self, query: Tensor) -> Tensor:
        return in_units(query, self.unit) - self.origin

    def _score(self, points: Tensor) -> Tensor:
        inverse = torch.where(self.deviation > 0, 1 / self.deviation, 0.0)
        limit = torch.finfo(points.dtype).max ** 0.25  # no product overflows
        z = ((points - self.mean) * inverse).clamp(-limit, limit)
        s = _network(z, self.weights, self.biases)
        return in_units(saturated(s * inverse), self.unit)


@dataclass(frozen=True, kw_only=True)
class SlicedScoreMatching(FittableEstimator[FittedNetwork]):
    """Sliced score matching with a small network (Song, Garg, Shi, Ermon, UAI 2019).

    The score of standardized samples is ``s(z) = −z + network(z)`` with softplus units. Adam trains
    the network on all samples at once to minimize ``mean vᵀ∇(s·v) + ½(s·v)²`` over random v. The
    expectation over v is the objective of score matching (Hyvärinen 2005), which is half the
    squared error of the score up to a constant. On finitely many samples the objective has no lower
    bound, so a network that trains for too many steps memorizes the samples.

        >>> import torch, mige_ext as mige
        >>> x = torch.randn(64, 2)
        >>> mige.SlicedScoreMatching(steps=10).score(x).shape
        torch.Size([64, 2])

    Each group has its own network. The initial weights and every v depend only on the seed, and
    torch's random state is neither read nor changed. Training also works under ``torch.no_grad``
    and ``torch.inference_mode``. Under ``torch.compile``, training raises RuntimeError.

    The score is zero in a column whose values are all equal.

    Args:
        hidden: units of a hidden layer.
        layers: number of hidden layers.
        steps: number of steps of Adam.
        learning_rate: first learning rate of Adam; it decays to 0 as a half cosine.
        projections: number of v for each sample and step, uniform on {−1, 1}^d.
        variance_reduced: if True, the second term is ``½‖s‖²`` instead of ``½(s·v)²``, which has
            the same expectation and a smaller variance.
        seed: seed of the initial weights and of v.

    Cost:
        About 12 flop for each step, sample, projection and weight.
    """

    hidden: int = _checks.setting(64, _checks.require_count)
    layers: int = _checks.setting(2, _checks.require_count)
    steps: int = _checks.setting(150, _checks.require_count)
    learning_rate: float = _checks.setting(3e-3, _checks.require_positive)
    projections: int = _checks.setting(1, _checks.require_count)
    variance_reduced: bool = _checks.setting(True, _checks.require_bool)
    seed: int = _checks.setting(0, _checks.require_seed)

    def _fit(self, samples: Tensor) -> FittedNetwork:
        if torch.compiler.is_compiling():
            raise RuntimeError(
                "SlicedScoreMatching trains a network and cannot be compiled: call it outside the "
                "compiled function"
            )
        _checks.require_finite(samples=samples)
        x, origin, unit = about_origin(samples)
        mean, z, deviation = standardized(x)
        with no_autocast(z):
            # Autograd cannot save an inference tensor, so z is copied outside inference mode.
            with torch.inference_mode(False), torch.enable_grad():
                weights, biases, loss = self._train(z.clone())
            calibration = stein_calibration(z, _network(z, weights, biases))
        if _checks.can_read(loss) and not loss.isfinite().all():
            raise ValueError(
                f"learning_rate must keep the loss finite over {self.steps} steps, "
                f"got {self.learning_rate!r}"
            )
        diagnostics = NetworkDiagnostics(loss, calibration)
        return FittedNetwork(x, mean, deviation, weights, biases, origin, unit, diagnostics)

    def _train(self, z: Tensor) -> tuple[Layers, Layers, Tensor]:
        """Weights, biases, and the last loss divided by d, (...), for standardized samples z."""
        weights, biases = self._start(z)
        optimizer = torch.optim.Adam([*weights, *biases], lr=float(self.learning_rate))
        generator = torch.Generator(z.device).manual_seed(int(self.seed))
        shape = (self.projections, *z.shape[-2:])
        loss = z.new_zeros(z.shape[:-2])
        for step in range(self.steps):
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate * (1 + math.cos(math.pi * step / self.steps)) / 2
            optimizer.zero_grad()
            terms = z.new_zeros(z.shape[:-2])
            for v in torch.randint(0, 2, shape, generator=generator, device=z.device):
                terms = terms + self._objective(z, 2 * v.to(z.dtype) - 1, weights, biases)
            loss = terms / self.projections
            loss.sum().backward()
            optimizer.step()
        weights, biases = (tuple(t.detach() for t in layers) for layers in (weights, biases))
        return weights, biases, loss.detach() / z.shape[-1]

    def _start(self, z: Tensor) -> tuple[Layers, Layers]:
        """Normal weights (He et al. 2015), equal for every group.

        The last layer has weights 0, so training starts at s(z) = −z.
        """
        generator = torch.Generator().manual_seed(int(self.seed))
        sizes = [z.shape[-1], *[int(self.hidden)] * self.layers, z.shape[-1]]
        weights, biases = [], []
        for i, (inputs, outputs) in enumerate(pairwise(sizes)):
            last = i == len(sizes) - 2
            scale = 0.0 if last else (2 / inputs) ** 0.5
            weight = scale * torch.randn(
                inputs, outputs, generator=generator, dtype=torch.float64, device="cpu"
            )
            weights.append(weight.to(z).expand(*z.shape[:-2], -1, -1).clone().requires_grad_())
            biases.append(z.new_zeros((*z.shape[:-2], 1, outputs)).requires_grad_())
        return tuple(weights), tuple(biases)

    def _objective(self, z: Tensor, v: Tensor, weights: Layers, biases: Layers) -> Tensor:
        """The objective for directions v: the mean over the samples of each group, (...)."""
        s, slope = _network_and_slope(z, v.expand_as(z), weights, biases)
        square = s.square().sum(-1) if self.variance_reduced else (s * v).sum(-1).square()
        return ((slope * v).sum(-1) + square / 2).mean(-1)


def _network(z: Tensor, weights: Layers, biases: Layers) -> Tensor:
    """``−z + network(z)``."""
    h = z
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        h = F.softplus(h @ weight + bias)
    return h @ weights[-1] + biases[-1] - z


def _network_and_slope(
    z: Tensor, v: Tensor, weights: Layers, biases: Layers
) -> tuple[Tensor, Tensor]:
    """s(z) and its derivative along v, in one forward pass."""
    h, dh = z, v
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        a = h @ weight + bias
        h, dh = F.softplus(a), torch.sigmoid(a) * (dh @ weight)
    return h @ weights[-1] + biases[-1] - z, dh @ weights[-1] - v
