"""What `toy` compares: correlated Gaussians, MIGE on their samples, and trained critics.

The problem with its closed forms, then a function for each kind of method that gives its curves of
I and dI/dρ. The comparison of them, and the command, are in `toy`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from mige_ext.bounds import (
    JointCritic,
    SeparableCritic,
    donsker_varadhan,
    mine,
    mine_f,
    split_pairs,
)
from mige_ext.information import mutual_information
from mige_ext.scores.base import ScoreEstimator
from mige_ext.scores.kernel.ssge import SSGE

Array = NDArray[np.float64]
Curves = tuple[Array, Array]  # estimates of I and of dI/dρ, each (S, R): S seeds, R values of ρ
Parameters = dict[str, Tensor]  # of E critics, each (E, ...)

BOUNDS = ("MINE", "MINE-f")
METHODS = ("Gaussian", "MIGE", "MIGE-Stein", *BOUNDS)
MARGINALS = 3  # marginal pairs for each joint pair, where every pair costs a pass of the critic


@dataclass(frozen=True)
class Settings:
    """What the numbers of a dimension depend on.

    The steps were chosen by the relative RMSE of dI/dρ (8 values of ρ, 2 seeds; MIGE, on the same
    samples and without training: .066 for d = 10, .168 for d = 20):

    ============== ===== ===== ===== ===== ======
    training steps  1000  2000  4000  8000  16000
    ============== ===== ===== ===== ===== ======
    MINE, d = 10    .156  .100  .056  .053      –
    MINE-f, d = 10  .265  .152  .108  .065   .052
    MINE, d = 20    .421  .319  .300  .184   .105
    MINE-f, d = 20  .566  .498  .440  .437   .400
    ============== ===== ===== ===== ===== ======

    Beyond 8000 steps little is won for d <= 10. For d = 20 more steps still help MINE, which with
    16000 (four million fresh samples) is nearer to the truth than MIGE with its 256. A faster
    average, decay .9 at rate .005, makes MINE diverge there: .285 at 2000 steps, 2.7 at 4000.

    Attributes:
        seeds: repetitions, with samples and critics of their own.
        seed: the first seed.
        points: size of the grid of ρ in ±0.8.
        samples: M; also the size of a training batch.
        threshold: of SSGE.
        steps: training steps of a critic.
        rate: learning rate of Adam.
        anneal: whether the learning rate falls to 0, as a cosine.
        separable: whether the critic is an inner product of embeddings in 20 dimensions; otherwise
            it is a perceptron on the pair.
        hidden: units of each of the two hidden layers of a critic.
        decay: of MINE's moving average.
    """

    seeds: int = 5
    seed: int = 0
    points: int = 32
    samples: int = 256
    threshold: float = 0.99
    steps: int = 8000
    rate: float = 2e-3
    anneal: bool = True
    separable: bool = False
    hidden: int = 64
    decay: float = 0.99


#: A short training wants a larger rate, and an average that forgets the first steps sooner.
QUICK = Settings(seeds=2, points=16, steps=250, rate=5e-3, decay=0.9)
#: The critics of the authors' notebook; decay 0 is the plain gradient.
AUTHORS = Settings(steps=200, rate=1e-4, anneal=False, separable=True, hidden=512, decay=0.0)


# The problem


def rho_grid(points: int) -> Array:
    """The values of ρ, in ±0.8 as in the authors' notebook, which has 32; (points)."""
    return np.linspace(-0.8, 0.8, points)


def true_information(dim: int, rho: Array) -> Array:
    """I(x; y) = −d/2 · log(1 − ρ²) in nats."""
    return -0.5 * dim * np.log1p(-(rho**2))


def true_derivative(dim: int, rho: Array) -> Array:
    """dI/dρ = d ρ / (1 − ρ²) in nats."""
    return dim * rho / (1 - rho**2)


def correlate(rho: Tensor, x: Tensor, noise: Tensor) -> Tensor:
    """The second variable, ρ x + √(1 − ρ²) ε: rho (*), x and noise (*, M, d) -> (*, M, d)."""
    rho = rho[..., None, None]
    return rho * x + (1 - rho.square()).sqrt() * noise


def draw_samples(dim: int, settings: Settings) -> tuple[Tensor, Tensor, Tensor]:
    """The samples on which all methods are compared: rho (S, R), x and noise (S, R, M, d)."""
    rho = torch.tensor(rho_grid(settings.points), dtype=torch.float32).expand(settings.seeds, -1)
    shape = (2, settings.points, settings.samples, dim)
    generators = [torch.Generator().manual_seed(s) for s in _streams(dim, settings, "samples")]
    x, noise = torch.stack([torch.randn(shape, generator=g) for g in generators], dim=1)
    return rho, x, noise


def _streams(dim: int, settings: Settings, purpose: str) -> list[int]:
    """A number for each seed to start a random stream with, its own for each d and purpose."""
    seeds = range(settings.seed, settings.seed + settings.seeds)
    keys = [[seed, dim, *purpose.encode()] for seed in seeds]
    return [int(np.random.SeedSequence(key).generate_state(1)[0]) for key in keys]


def relative_rmse(estimate: Array, truth: Array) -> Array:
    """√mean (estimate − truth)² / √mean truth², means over the last dimension, the grid of ρ."""
    error, size = ((estimate - truth) ** 2).mean(-1), (truth**2).mean(-1)
    return np.asarray(np.sqrt(error / size))


# MIGE


def mige_derivative(
    rho: Tensor | float, x: Tensor, noise: Tensor, estimator: ScoreEstimator | None = None
) -> Tensor:
    """MIGE of dI/dρ: autograd through `mutual_information` of x and y.

    Args:
        rho: correlations, (*); or one.
        x: samples, (*, M, d).
        noise: ε, (*, M, d).
        estimator: of the scores; the default of `mutual_information` if None.

    Returns:
        The estimates in nats, (*).
    """
    rho = torch.as_tensor(rho, dtype=x.dtype, device=x.device).detach().requires_grad_()
    surrogate = mutual_information(x, correlate(rho, x, noise), estimator=estimator)
    # The surrogate is the mean over the groups, and each ρ belongs to one of them.
    (derivative,) = torch.autograd.grad(surrogate * rho.numel(), rho)
    return derivative


class GaussianScore:
    """The control: the score of the Gaussian with the mean and the covariance of the samples."""

    def score(self, samples: Tensor) -> Tensor:
        """Scores −Σ⁻¹ (z − m) at the samples, (*, M, d) -> (*, M, d)."""
        centred = samples - samples.mean(-2, keepdim=True)
        covariance = centred.mT @ centred / samples.shape[-2]
        return -torch.linalg.solve(covariance, centred.mT).mT


def integrate_from_zero(rho: Array, derivative: Array) -> Array:
    """∫₀^ρ by the trapezoidal rule: a grid around 0 (R), derivatives on it (S, R) -> (S, R)."""
    at = np.union1d(rho, 0.0)
    values = np.stack([np.interp(at, rho, row) for row in derivative])
    areas = np.diff(at) * (values[:, 1:] + values[:, :-1]) / 2
    integral = np.pad(areas.cumsum(1), ((0, 0), (1, 0)))
    return np.asarray((integral - integral[:, at == 0])[:, np.isin(at, rho)])


def run_mige(method: str, dim: int, settings: Settings) -> Curves:
    """MIGE on the common samples, and its integral."""
    estimators: dict[str, ScoreEstimator] = {
        "Gaussian": GaussianScore(),
        "MIGE": SSGE(threshold=settings.threshold),
        "MIGE-Stein": SSGE(threshold=settings.threshold, calibrate="stein"),
    }
    estimator = estimators[method]
    derivative = mige_derivative(*draw_samples(dim, settings), estimator).double().numpy()
    return integrate_from_zero(rho_grid(settings.points), derivative), derivative


# MINE and MINE-f


def score_pairs(
    critic: nn.Module, parameters: Parameters, x: Tensor, y: Tensor
) -> tuple[Tensor, Tensor]:
    """Scores of E critics on E batches, x and y (E, B, d): joint (E, B) and marginal (E, N)."""

    def call(parameters: Parameters, x: Tensor, y: Tensor) -> Any:
        return functional_call(critic, parameters, (x, y))

    if isinstance(critic, SeparableCritic):  # all pairs: they cost no more than a matrix product
        return split_pairs(vmap(call)(parameters, x[:, :, None], y[:, None]))
    shifted = torch.stack([y.roll(shift, dims=1) for shift in range(MARGINALS + 1)], dim=1)
    scores = vmap(call)(parameters, x[:, None], shifted)
    return scores[:, 0], scores[:, 1:].flatten(1)


def train_critics(
    method: str, rho: Tensor, dim: int, settings: Settings, after_step: Callable[[], object]
) -> tuple[nn.Module, Parameters]:
    """Train E critics at once, as one module with stacked parameters.

    Args:
        method: "MINE" or "MINE-f".
        rho: correlation of the samples that each critic sees, (E).
        dim: d.
        settings: of the experiment.
        after_step: called after each step.

    Returns:
        The module, and the trained parameters, each (E, ...).
    """
    critics: list[nn.Module] = [
        SeparableCritic(dim, dim, settings.hidden, embedding=20)
        if settings.separable
        else JointCritic(dim, dim, settings.hidden)
        for _ in rho
    ]
    parameters, _ = stack_module_state(critics)
    adam = torch.optim.Adam(parameters.values(), lr=settings.rate)
    average = None
    for step in range(settings.steps):
        x, noise = torch.randn(2, len(rho), settings.samples, dim)
        joint, marginal = score_pairs(critics[0], parameters, x, correlate(rho, x, noise))
        if method == "MINE":
            bound, average = mine(joint, marginal, average, settings.decay)
        else:
            bound = mine_f(joint, marginal)
        adam.zero_grad()
        (-bound.sum()).backward()
        if settings.anneal:
            progress = step / settings.steps
            adam.param_groups[0]["lr"] = settings.rate * math.cos(math.pi / 2 * progress) ** 2
        adam.step()
        after_step()
    return critics[0], {name: parameter.detach() for name, parameter in parameters.items()}


def run_bound(
    method: str, dim: int, settings: Settings, after_step: Callable[[], object]
) -> Curves:
    """Train critics, then take the bound and its derivative through y on the common samples.

    The critics of all ρ are trained together, seed after seed: those of all seeds at once do not
    fit into the cache, and take twice the time for each.
    """
    curves = np.empty((2, settings.seeds, settings.points))
    streams = _streams(dim, settings, method)
    for s, samples in enumerate(zip(*draw_samples(dim, settings), strict=True)):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(streams[s])
            critic, parameters = train_critics(method, samples[0], dim, settings, after_step)
        for r, (rho, x, noise) in enumerate(zip(*samples, strict=True)):
            own = {name: parameter[r] for name, parameter in parameters.items()}
            rho = rho.clone().requires_grad_()
            y = correlate(rho, x, noise)
            pairs = split_pairs(functional_call(critic, own, (x[:, None], y[None])))
            bound = donsker_varadhan(*pairs) if method == "MINE" else mine_f(*pairs)
            (derivative,) = torch.autograd.grad(bound, rho)
            curves[:, s, r] = bound.item(), derivative.item()
    return curves[0], curves[1]
