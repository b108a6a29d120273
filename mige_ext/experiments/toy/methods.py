"""The methods of the toy experiment, which estimate I and dI/dρ of correlated Gaussians."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

import mige_ext as mige
from mige_ext.bounds import (
    JointCritic,
    SeparableCritic,
    donsker_varadhan,
    mine,
    mine_f,
    split_pairs,
)
from mige_ext.experiments.common.methods import descend
from mige_ext.experiments.common.options import Checked, fixed, option
from mige_ext.scores.base import ScoreEstimator

Array = NDArray[np.float64]
Curves = tuple[Array, Array]  # estimates of I and of dI/dρ, (S, R) each: S seeds, R values of ρ
Parameters = dict[str, Tensor]  # stacked parameters of E critics, (E, ...) each

BOUNDS = ("MINE", "MINE-f")
METHODS = ("Gaussian", "MIGE", "MIGE-Stein", "MIGE-default", *BOUNDS)
MARGINALS = 3  # marginal pairs for each joint pair, if the critic is not separable


@dataclass(frozen=True)
class Settings(Checked):
    """Everything on which the results for one dimension depend.

    The default of ``steps`` was chosen by this table of the relative RMSE of dI/dρ (8 values of ρ,
    2 seeds). MIGE, without training, has .066 for d = 10 and .168 for d = 20.

    ============== ===== ===== ===== ===== ======
    training steps  1000  2000  4000  8000  16000
    ============== ===== ===== ===== ===== ======
    MINE, d = 10    .156  .100  .056  .053      –
    MINE-f, d = 10  .265  .152  .108  .065   .052
    MINE, d = 20    .421  .319  .300  .184   .105
    MINE-f, d = 20  .566  .498  .440  .437   .400
    ============== ===== ===== ===== ===== ======

    With decay .9 and learning rate .005, MINE diverges for d = 20: .285 after 2000 steps, and 2.7
    after 4000 steps.
    """

    seeds: int = option(5, "Number of seeds.", least=1, shown="5; --quick: 2")
    seed: int = option(0, "The first seed.", least=0)
    points: int = fixed(32, "Number of values of ρ from −0.8 to 0.8.", least=1)
    samples: int = option(256, "Samples M, also the size of a training batch.", least=2)
    threshold: float = option(0.99, "Fraction of the spectrum that SSGE keeps.")
    steps: int = option(
        8000, "Steps of a critic.", least=1, shown="8000; --authors: 200; --quick: 150"
    )
    rate: float = fixed(2e-3, "Learning rate of Adam.", positive=True)
    anneal: bool = fixed(True, "Whether the learning rate falls to 0 as a cosine.")
    #: If False, the critic is a ``JointCritic``.
    separable: bool = fixed(False, "Whether the critic multiplies embeddings in 20 dimensions.")
    hidden: int = fixed(64, "Units of each of the two hidden layers of a critic.", least=1)
    decay: float = fixed(0.99, "Decay of MINE's moving average.", least=0, below=1)

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        mige.SSGE(threshold=self.threshold)  # checks the threshold


#: Settings of ``--quick``. Few steps need a larger learning rate and a smaller decay.
QUICK = Settings(seeds=2, points=10, steps=150, rate=5e-3, decay=0.9)
#: The critics of the authors' notebook. With decay 0 the gradient keeps its bias
#: (``mige_ext.bounds.mine``).
AUTHORS = Settings(steps=200, rate=1e-4, anneal=False, separable=True, hidden=512, decay=0.0)


# The problem


def rho_grid(points: int) -> Array:
    """Values of ρ from −0.8 to 0.8, (points). The authors' notebook has 32 values."""
    return np.linspace(-0.8, 0.8, points)


def true_information(dim: int, rho: Array) -> Array:
    """I(x; y) = −d/2 · log(1 − ρ²) in nats."""
    return -0.5 * dim * np.log1p(-(rho**2))


def true_derivative(dim: int, rho: Array) -> Array:
    """dI/dρ = d ρ / (1 − ρ²) in nats."""
    return dim * rho / (1 - rho**2)


def correlate(rho: Tensor, x: Tensor, noise: Tensor) -> Tensor:
    """The variable y = ρ x + √(1 − ρ²) ε: rho (*), x and noise (*, M, d) -> (*, M, d)."""
    rho = rho[..., None, None]
    return rho * x + (1 - rho.square()).sqrt() * noise


def draw_samples(dim: int, settings: Settings) -> tuple[Tensor, Tensor, Tensor]:
    """The samples of the comparison: rho (S, R), x and noise (S, R, M, d)."""
    rho = torch.tensor(rho_grid(settings.points), dtype=torch.float32).expand(settings.seeds, -1)
    shape = (2, settings.points, settings.samples, dim)
    generators = [torch.Generator().manual_seed(s) for s in _streams(dim, settings, "samples")]
    x, noise = torch.stack([torch.randn(shape, generator=g) for g in generators], dim=1)
    return rho, x, noise


def _streams(dim: int, settings: Settings, purpose: str) -> list[int]:
    """A seed of a random stream for each seed of the experiment, dimension and purpose."""
    seeds = range(settings.seed, settings.seed + settings.seeds)
    keys = [[seed, dim, *purpose.encode()] for seed in seeds]
    return [int(np.random.SeedSequence(key).generate_state(1)[0]) for key in keys]


def relative_rmse(estimate: Array, truth: Array) -> Array:
    """√mean (estimate − truth)² / √mean truth², with means over ρ, the last dimension."""
    error, size = ((estimate - truth) ** 2).mean(-1), (truth**2).mean(-1)
    return np.asarray(np.sqrt(error / size))


# MIGE


def mige_derivative(
    rho: Tensor | float, x: Tensor, noise: Tensor, estimator: ScoreEstimator | None = None
) -> Tensor:
    """dI/dρ by MIGE: autograd through ``mutual_information`` of x and y.

    Args:
        rho: Correlations, (*), or one number.
        x: Samples, (*, M, d).
        noise: ε, (*, M, d).
        estimator: Score estimator; None for the default of ``mutual_information``.

    Returns:
        The estimates in nats, (*).
    """
    rho = torch.as_tensor(rho, dtype=x.dtype, device=x.device).detach().requires_grad_()
    surrogate = mige.mutual_information(x, correlate(rho, x, noise), estimator=estimator)
    # The surrogate is the mean over the groups, and each ρ belongs to one group.
    (derivative,) = torch.autograd.grad(surrogate * rho.numel(), rho)
    return derivative


def integrate_from_zero(rho: Array, derivative: Array) -> Array:
    """Integrals from 0 to each ρ by the trapezoidal rule: rho (R), derivative (S, R) -> (S, R)."""
    at = np.union1d(rho, 0.0)
    values = np.stack([np.interp(at, rho, row) for row in derivative])
    areas = np.diff(at) * (values[:, 1:] + values[:, :-1]) / 2
    integral = np.pad(areas.cumsum(1), ((0, 0), (1, 0)))
    return np.asarray((integral - integral[:, at == 0])[:, np.isin(at, rho)])


def run_mige(method: str, dim: int, settings: Settings) -> Curves:
    """dI/dρ by MIGE, and I as the integral of dI/dρ."""
    estimators: dict[str, ScoreEstimator | None] = {
        "Gaussian": mige.GaussianScore(covariance="mle"),
        "MIGE": mige.SSGE(threshold=settings.threshold),
        "MIGE-Stein": mige.SSGE(threshold=settings.threshold, calibrate="stein"),
        "MIGE-default": None,
    }
    derivative = mige_derivative(*draw_samples(dim, settings), estimators[method]).double().numpy()
    return integrate_from_zero(rho_grid(settings.points), derivative), derivative


# MINE and MINE-f


def score_pairs(
    critic: nn.Module, parameters: Parameters, x: Tensor, y: Tensor
) -> tuple[Tensor, Tensor]:
    """Scores of E critics on E batches, x and y (E, B, d): joint (E, B), marginal (E, N)."""

    def call(parameters: Parameters, x: Tensor, y: Tensor) -> Any:
        return functional_call(critic, parameters, (x, y))

    if isinstance(critic, SeparableCritic):  # all pairs cost one matrix product
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
        rho: Correlation of the samples of each critic, (E).
        dim: d.
        settings: Settings of the experiment.
        after_step: Called after each step.

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
    optimizer = torch.optim.Adam(parameters.values(), lr=settings.rate)
    average = None
    for step in range(settings.steps):
        x, noise = torch.randn(2, len(rho), settings.samples, dim)
        joint, marginal = score_pairs(critics[0], parameters, x, correlate(rho, x, noise))
        if method == "MINE":
            bound, average = mine(joint, marginal, average, settings.decay)
        else:
            bound = mine_f(joint, marginal)
        if settings.anneal:
            progress = step / settings.steps
            optimizer.param_groups[0]["lr"] = settings.rate * math.cos(math.pi / 2 * progress) ** 2
        descend(optimizer, -bound.sum())
        after_step()
    return critics[0], {name: parameter.detach() for name, parameter in parameters.items()}


def run_bound(
    method: str, dim: int, settings: Settings, after_step: Callable[[], object]
) -> Curves:
    """Train critics, and compute the bound and its derivative through y on the samples of MIGE.

    The critics of all ρ are trained at once. (The critics of all seeds at once would exceed the
    cache and take twice as long.)
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
