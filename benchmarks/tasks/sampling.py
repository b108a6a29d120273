"""Entropy regularization: a sampler z = g(ε) of a density p that is known up to a constant.

The sampler has the density q, and minimizes KL(q ‖ p) = −H(z) − E log p(z), up to a constant. The
measure is the energy distance between 4,000 samples of q and 4,000 samples of p, in units of 10⁻³.
The row "exact" compares two sets of samples of p.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

import mige_ext as mige
from benchmarks.tasks.task import CONTROL, DEFAULT, Task
from mige_ext.experiments.common.methods import descend, perceptron
from mige_ext.scores.base import ScoreEstimator

STEPS, BATCH, MEASURED = 1500, 256, 4000

ESTIMATORS: dict[str, ScoreEstimator | None] = {
    DEFAULT: None,
    "qis": mige.AdaptiveScore(gaussian="qis"),
    "SSGE": mige.SSGE(threshold=0.99),
    "Tikhonov": mige.Tikhonov(),
    CONTROL: mige.GaussianScore(),
}


class Ring:
    """A ring in the plane, with the radius N(2, .3²) and a uniform angle."""

    d = 2

    @staticmethod
    def log_density(z: Tensor) -> Tensor:
        """Log p up to a constant, (N, 2) -> (N)."""
        radius = z.square().sum(-1).add(1e-6).sqrt()
        return -((radius - 2) ** 2) / 0.18 - radius.log()

    @staticmethod
    def sample(n: int) -> Tensor:
        """Draw from p, (n, 2)."""
        angle = 2 * math.pi * torch.rand(n, 1)
        radius = 2 + 0.3 * torch.randn(n, 1)
        return torch.cat([radius * angle.cos(), radius * angle.sin()], 1)


class Modes:
    """Eight coordinates, of which two have two modes N(±1, .5²), and six are N(0, 1)."""

    d = 8

    @staticmethod
    def log_density(z: Tensor) -> Tensor:
        """Log p up to a constant, (N, 8) -> (N)."""
        modes = torch.logaddexp(-((z - 1) ** 2) / 0.5, -((z + 1) ** 2) / 0.5)
        return modes[:, :2].sum(-1) - z[:, 2:].square().sum(-1) / 2

    @staticmethod
    def sample(n: int) -> Tensor:
        """Draw from p, (n, 8)."""
        z = torch.randn(n, 8)
        z[:, :2] = torch.randn(n, 2).sign() + 0.5 * z[:, :2]
        return z


def energy_distance(a: Tensor, b: Tensor) -> float:
    """2 E‖a − b‖ − E‖a − a'‖ − E‖b − b'‖, with a' ≠ a and b' ≠ b; a and b are (N, d)."""
    n = len(a)
    within = sum(float(torch.cdist(part, part).sum()) for part in (a, b)) / (n * (n - 1))
    return 2 * float(torch.cdist(a, b).mean()) - within


def _run(density: type[Ring | Modes], key: str, seed: int) -> Mapping[str, float]:
    torch.manual_seed(seed)
    exact = density.sample(MEASURED)
    if key == "exact":
        samples = density.sample(MEASURED)
    else:
        sampler = perceptron(density.d, 64, 64, density.d)
        adam = torch.optim.Adam(sampler.parameters(), 2e-3)
        decay = torch.optim.lr_scheduler.LinearLR(adam, 1.0, 0.01, STEPS)
        for _ in range(STEPS):
            z = sampler(torch.randn(BATCH, density.d))
            entropy = mige.entropy(z, estimator=ESTIMATORS[key])
            descend(adam, -density.log_density(z).mean() - entropy)
            decay.step()
        with torch.no_grad():
            samples = sampler(torch.randn(MEASURED, density.d))
    return {"energy distance, 1e-3": 1e3 * energy_distance(samples, exact)}


def _task(name: str, half: str, density: type[Ring | Modes]) -> Task:
    methods: dict[str, Callable[[int], Mapping[str, float]]] = {
        key: partial(_run, density, key) for key in (*ESTIMATORS, "exact")
    }
    return Task(name, half, "energy distance, 1e-3", False, methods, ("SSGE", "Tikhonov", CONTROL))


TASKS = (_task("sampler-ring", "chosen", Ring), _task("sampler-modes", "held-out", Modes))
