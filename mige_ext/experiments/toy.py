"""The paper's Figure 1: mutual information and its gradient for correlated Gaussians.

``y = ρ x + √(1 − ρ²) ε`` with x, ε ~ N(0, I_d), so that in nats

    I(x; y) = −d/2 · log(1 − ρ²),        dI/dρ = d ρ / (1 − ρ²).

All methods are compared on the same M samples of x and ε for each ρ and seed:

* **MIGE** takes dI/dρ from the scores of these samples, and needs nothing else. It never estimates
  I: its curve of I is the integral of its dI/dρ from ρ = 0, where I = 0.
* **MINE** and **MINE-f** train a critic for each ρ and seed before, on fresh samples in every step.
  I is their bound on all pairs of the M samples, dI/dρ its pathwise derivative through y.

The table and the CSV have two more. **MIGE-Stein** is MIGE with `calibrate="stein"`, which undoes
the shrinkage of kernel scores. **Gaussian** is a control, MIGE with the score of a fitted Gaussian:
it knows the family, and no method without that knowledge should be expected to beat it here.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from tqdm import tqdm

from mige_ext.bounds import (
    JointCritic,
    SeparableCritic,
    donsker_varadhan,
    mine,
    mine_f,
    split_pairs,
)
from mige_ext.experiments import plots
from mige_ext.experiments.runs import Table, mean_and_error, open_folder
from mige_ext.information import mutual_information
from mige_ext.score import SSGE, ScoreEstimator

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


@dataclass(frozen=True)
class Estimate:
    """A row of toy.csv: a method at one ρ with one seed, in nats."""

    dim: int
    rho: float
    seed: int
    method: str
    mi: float
    mi_true: float
    dmi: float
    dmi_true: float


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


# The experiment


def run_missing(dims: Sequence[int], settings: Settings, table: Table[Estimate]) -> None:
    """Run each dimension and method that the table does not hold yet, and save it there."""
    finished = {(row.dim, row.method) for row in table.rows}
    missing = [(d, m) for d in dims for m in METHODS if (d, m) not in finished]
    rho = rho_grid(settings.points)
    total = settings.steps * settings.seeds * sum(method in BOUNDS for _, method in missing)
    with tqdm(total=total, unit="step") as progress:
        for dim, method in missing:
            progress.set_description(f"d = {dim}, {method}")
            if method in BOUNDS:
                mi, dmi = run_bound(method, dim, settings, progress.update)
            else:
                mi, dmi = run_mige(method, dim, settings)
            truth = true_information(dim, rho), true_derivative(dim, rho)
            rows = []
            for s, r in np.ndindex(mi.shape):
                values = (array.item() for array in (mi[s, r], truth[0][r], dmi[s, r], truth[1][r]))
                rows.append(Estimate(dim, rho[r].item(), settings.seed + s, method, *values))
            table.replace([*table.rows, *rows])


def curves_of(rows: Sequence[Estimate], dim: int, method: str, column: str) -> Array:
    """A column of the table as (S, R)."""
    of_seed: dict[int, list[float]] = {}
    for row in rows:
        if (row.dim, row.method) == (dim, method):
            of_seed.setdefault(row.seed, []).append(getattr(row, column))
    return np.array(list(of_seed.values()))


def format_table(rows: Sequence[Estimate]) -> str:
    """Relative RMSE of dI/dρ: a line for each method, mean over the seeds ± standard error."""
    dims = sorted({row.dim for row in rows})
    lines = [f"{'relative RMSE of dI/dρ':24}" + "".join(f"{f'd = {dim}':>16}" for dim in dims)]
    for method in METHODS:
        line = f"{'Gaussian (control)' if method == 'Gaussian' else method:24}"
        for dim in dims:
            dmi, truth = (curves_of(rows, dim, method, column) for column in ("dmi", "dmi_true"))
            mean, error = mean_and_error(relative_rmse(dmi, truth).tolist())
            line += f"{f'{mean:.3f}' if np.isnan(error) else f'{mean:.3f} ± {error:.3f}':>16}"
        lines.append(line)
    return "\n".join(lines)


def draw(rows: Sequence[Estimate], settings: Settings) -> Figure:
    """Figure 1: I above dI/dρ, a column for each dimension."""
    dims = sorted({row.dim for row in rows})
    fig, panels = plots.figure(2, len(dims), panel=(max(2.6, 5.2 / len(dims)), 2.5), sharex=True)
    rho, fine = rho_grid(settings.points), np.linspace(-0.8, 0.8, 201)
    for (above, below), dim in zip(panels.T, dims, strict=True):
        for ax, column, truth in (
            (above, "mi", true_information(dim, fine)),
            (below, "dmi", true_derivative(dim, fine)),
        ):
            for method in (*BOUNDS, "MIGE"):
                plots.band(ax, rho, curves_of(rows, dim, method, column), label=method)
            plots.band(ax, fine, truth[None], label="truth", linestyle="--")
            margin = 0.15 * truth.max()  # a bound that blows up must not flatten the others
            ax.set_ylim(truth.min() - margin, truth.max() + margin)
        above.set_title(f"d = {dim}")
        below.set_xlabel("correlation ρ")
    panels[0, 0].set_ylabel("I(x; y), nats")
    panels[1, 0].set_ylabel("dI/dρ, nats")
    fig.align_ylabels(panels[:, 0])
    plots.legend(fig)
    spread = f"mean ± standard deviation of {settings.seeds} seeds"
    note = (
        f"M = {settings.samples}, {spread if settings.seeds > 1 else 'one seed'}; "
        f"critics: {settings.steps} steps.\n"
        "MIGE estimates dI/dρ only: its I is the integral from ρ = 0."
    )
    fig.supxlabel(note, fontsize=8, color="#555555")
    return fig


# The command


def _parse_dims(text: str) -> list[int]:
    if not all(part.strip().isdecimal() and int(part) > 0 for part in text.split(",")):
        raise ValueError(f"--dims must be positive numbers like 5,10,20, got {text!r}")
    return sorted({int(part) for part in text.split(",")})


def toy(
    dims: Annotated[
        str | None, typer.Option(help="Dimensions [5,8,10,16,20,32; quick 5,10,20].")
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="[5; quick 2]")] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Of a critic [8000; authors 200; quick 250].")
    ] = None,
    samples: Annotated[int, typer.Option(min=2, help="M.")] = Settings.samples,
    threshold: Annotated[float, typer.Option(help="Of SSGE.")] = Settings.threshold,
    seed: Annotated[int, typer.Option(min=0, help="The first one.")] = Settings.seed,
    authors: Annotated[
        bool, typer.Option("--authors", help="Critics and training of the authors' notebook.")
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="A small version, below a minute on 2 cores.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue in --out, with the same settings.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("runs/toy"),
) -> None:
    """The paper's Figure 1: MI and its gradient for correlated Gaussians, MIGE against MINE."""
    if authors and quick:
        raise typer.BadParameter("--authors and --quick exclude each other")
    base = AUTHORS if authors else QUICK if quick else Settings()
    settings = replace(
        base,
        seeds=seeds or base.seeds,
        steps=steps or base.steps,
        samples=samples,
        threshold=threshold,
        seed=seed,
    )
    try:
        wanted = _parse_dims(dims or ("5,10,20" if quick else "5,8,10,16,20,32"))
        SSGE(threshold=threshold)
        open_folder(out, asdict(settings), {"dims": wanted}, resume=resume)
        table = Table(out / "toy.csv", Estimate)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if quick:
        typer.echo("The small version: fewer ρ, seeds and training steps.")
    try:
        run_missing(wanted, settings, table)
    except KeyboardInterrupt:
        typer.echo(f"Stopped. {table.path} holds what is finished; --resume continues.", err=True)
        raise typer.Exit(130) from None
    rows = [row for row in table.rows if row.dim in wanted]
    png, pdf = plots.save(draw(rows, settings), out / "toy")
    typer.echo(f"\n{format_table(rows)}\n\n{table.path}\n{png}\n{pdf}")
