"""Sliced score matching: the score as a small network, trained on the samples."""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from mige_ext import _checks
from mige_ext._precision import about_origin, in_units, no_autocast, saturated, standardised
from mige_ext.scores.base import Fitted, prepared, prepared_query, stein_calibration


@dataclass(frozen=True, eq=False)
class NetworkDiagnostics:
    """What a trained score says about itself, one value for each group of samples, (...).

    Attributes:
        loss: the objective over d in the last step; −1/2 for a normal distribution and the true
            score, far below where the network has learned the samples by heart.
        calibration: ``−mean(Σ s·(z − m)) / d``; 1 for the true score.
    """

    loss: Tensor
    calibration: Tensor


@dataclass(frozen=True, eq=False)
class FittedNetwork(Fitted):
    """A trained score, ``g(q) = s((q − m)/D)/D`` with ``s(z) = −z + network(z)``.

    All but the diagnostics is in units of length that are powers of two, and about an origin.

    Attributes:
        samples: (..., M, d).
        mean: m, (..., 1, d).
        deviation: D, (..., 1, d); columns where it is 0 have score 0.
        weights: of the layers, (..., inputs, outputs) each.
        biases: of the layers, (..., 1, outputs) each.
        origin: (..., 1, d).
        unit: of each column, (..., 1, d).
        diagnostics: about the estimate.
    """

    samples: Tensor
    mean: Tensor
    deviation: Tensor
    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    origin: Tensor
    unit: Tensor
    diagnostics: NetworkDiagnostics

    def score(self, query: Tensor | None = None) -> Tensor:
        """Scores at other points.

        Args:
            query: (..., Q, d), leading dimensions and device as the samples; the samples themselves
                if not given.

        Returns:
            (..., Q, d), without a gradient, in the dtype of the fit.

        Raises:
            ValueError, TypeError: a query that is not such a tensor or not finite.

        Cost:
            2Q flop a weight.
        """
        points = self.samples
        if query is not None:
            points = in_units(prepared_query(query, self.samples), self.unit) - self.origin
        inverse = torch.where(self.deviation > 0, 1 / self.deviation, 0.0)
        limit = torch.finfo(points.dtype).max ** 0.25  # no product of a sum overflows
        with torch.no_grad(), no_autocast(points):
            z = ((points - self.mean) * inverse).clamp(-limit, limit)
            s = _network(z, self.weights, self.biases)
            return saturated(saturated(s * inverse) / self.unit)


@dataclass(frozen=True, kw_only=True)
class SlicedScoreMatching:
    """Sliced score matching with a small network (Song, Garg, Shi, Ermon, UAI 2019).

    Minimises ``mean vᵀ∇(s·v) + ½(s·v)²`` over random v, whose expectation is Hyvärinen's objective
    up to a constant; ``½‖s‖²`` in place of its second term has less variance. The score is that of
    standardised samples, ``s(z) = −z + network(z)`` with softplus units, trained by Adam on all
    samples at once. The objective has no lower bound on finitely many samples: more steps are not
    better, and few hundred samples ask for few steps.

        >>> import torch, mige_ext as mige
        >>> x = torch.randn(64, 2)
        >>> mige.SlicedScoreMatching(steps=10).score(x).shape
        torch.Size([64, 2])

    Each group trains a network of its own; the seed alone decides the start and every v, so that a
    group does not see the others, and torch's random state is neither read nor changed.

    Args:
        hidden: units of a hidden layer.
        layers: hidden layers.
        steps: of Adam.
        learning_rate: of Adam, which falls to 0 as a half cosine.
        projections: v of each sample in each step, uniform on {−1, 1}^d.
        variance_reduced: whether the second term is ``½‖s‖²``, or ``½(s·v)²``.
        seed: of the start and of v.
    """

    hidden: int = 64
    layers: int = 2
    steps: int = 150
    learning_rate: float = 3e-3
    projections: int = 1
    variance_reduced: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks the arguments."""
        for name in ("hidden", "layers", "steps", "projections"):
            _checks.require_count(name, getattr(self, name))
        _checks.require_positive("learning_rate", self.learning_rate)
        if not isinstance(self.variance_reduced, bool):
            raise TypeError(
                f"variance_reduced must be True or False, got {self.variance_reduced!r}"
            )
        _checks.require_seed(self.seed)

    def score(self, samples: Tensor) -> Tensor:
        """Trains, and scores at the samples: ``fit(samples).score()``.

        Args:
            samples: (..., M, d) with M >= 2, floating point.

        Returns:
            (..., M, d), without a gradient; float64 for float64 samples, else float32. Zero in a
            column whose values are all equal.

        Raises:
            ValueError, TypeError: samples that are not such a tensor or not finite.
            RuntimeError: under ``torch.compile``, which cannot trace the training.

        Cost:
            About 12 flop a step, sample, projection and weight, also under ``torch.no_grad`` and
            ``torch.inference_mode``: it trains in a mode of its own.
        """
        return self.fit(samples).score()

    def fit(self, samples: Tensor) -> FittedNetwork:
        """Trains the score; takes and raises what :meth:`score` does."""
        if torch.compiler.is_compiling():
            raise RuntimeError(
                "SlicedScoreMatching trains a network and cannot be compiled: call it outside"
            )
        samples = prepared(samples)
        if _checks.looking_is_free(samples):
            _checks.require_finite(samples=samples)
        x, origin, unit = about_origin(samples)
        mean, z, deviation = standardised(x)
        with no_autocast(z):
            # Inference tensors cannot be trained with: z is copied into a mode where all can.
            with torch.inference_mode(False), torch.enable_grad():
                weights, biases, loss = self._train(z.clone())
            with torch.no_grad():
                calibration = stein_calibration(z, _network(z, weights, biases))
        if _checks.looking_is_free(loss) and not loss.isfinite().all():
            raise ValueError(
                f"learning_rate must keep the loss finite over {self.steps} steps, "
                f"got {self.learning_rate!r}"
            )
        diagnostics = NetworkDiagnostics(loss, calibration)
        return FittedNetwork(x, mean, deviation, weights, biases, origin, unit, diagnostics)

    def _train(self, z: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], Tensor]:
        """Weights, biases, and the last loss of each group over d, for standardised samples."""
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
        return _detached(weights), _detached(biases), loss.detach() / z.shape[-1]

    def _start(self, z: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """He's normal weights, but 0 in the last layer: s(z) = −z. The same for every group."""
        generator = torch.Generator().manual_seed(int(self.seed))
        sizes = [z.shape[-1], *[int(self.hidden)] * self.layers, z.shape[-1]]
        weights, biases = [], []
        for i, (inputs, outputs) in enumerate(pairwise(sizes)):
            last = i == len(sizes) - 2
            scale = 0.0 if last else (2 / inputs) ** 0.5
            weight = scale * torch.randn(inputs, outputs, generator=generator, dtype=torch.float64)
            weights.append(weight.to(z).expand(*z.shape[:-2], -1, -1).clone().requires_grad_())
            biases.append(z.new_zeros((*z.shape[:-2], 1, outputs)).requires_grad_())
        return tuple(weights), tuple(biases)

    def _objective(
        self, z: Tensor, v: Tensor, weights: tuple[Tensor, ...], biases: tuple[Tensor, ...]
    ) -> Tensor:
        """The mean over the samples of each group, (...)."""
        s, slope = _network_and_slope(z, v.expand_as(z), weights, biases)
        square = s.square().sum(-1) if self.variance_reduced else (s * v).sum(-1).square()
        return ((slope * v).sum(-1) + square / 2).mean(-1)


def _network(z: Tensor, weights: tuple[Tensor, ...], biases: tuple[Tensor, ...]) -> Tensor:
    """``−z + network(z)``."""
    h = z
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        h = F.softplus(h @ weight + bias)
    return h @ weights[-1] + biases[-1] - z


def _network_and_slope(
    z: Tensor, v: Tensor, weights: tuple[Tensor, ...], biases: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """s(z) and its derivative along v, both in one pass forward."""
    h, dh = z, v
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        a = h @ weight + bias
        h, dh = F.softplus(a), torch.sigmoid(a) * (dh @ weight)
    return h @ weights[-1] + biases[-1] - z, dh @ weights[-1] - v


def _detached(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(t.detach() for t in tensors)
