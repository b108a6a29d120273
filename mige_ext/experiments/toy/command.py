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

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from matplotlib.figure import Figure
from tqdm import tqdm

from mige_ext.experiments.common import plots
from mige_ext.experiments.common.runs import Table, cpu_threads, mean_and_error, open_folder
from mige_ext.experiments.toy.methods import (
    AUTHORS,
    BOUNDS,
    METHODS,
    QUICK,
    Array,
    Settings,
    relative_rmse,
    rho_grid,
    run_bound,
    run_mige,
    true_derivative,
    true_information,
)
from mige_ext.scores.kernel.ssge import SSGE


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
        str | None, typer.Option(help="Dimensions (5,8,10,16,20,32; quick 5,10,20).")
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="(5; quick 2)")] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Of a critic (8000; authors 200; quick 250).")
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
    threads: Annotated[
        int, typer.Option(min=1, help="Of the CPU; small networks are fastest with one.")
    ] = 1,
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
        if samples <= max(wanted):
            raise ValueError(
                f"--samples must be more than the largest dimension, {max(wanted)}, got {samples}"
            )
        agreed = {**asdict(settings), "threads": threads}
        open_folder(out, agreed, {"dims": wanted}, resume=resume)
        table = Table(out / "toy.csv", Estimate)
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from None
    if quick:
        typer.echo("The small version: fewer ρ, seeds and training steps.")
    try:
        with cpu_threads(threads):
            run_missing(wanted, settings, table)
    except KeyboardInterrupt:
        typer.echo(f"Stopped. {table.path} holds what is finished; --resume continues.", err=True)
        raise typer.Exit(130) from None
    rows = [row for row in table.rows if row.dim in wanted]
    png, pdf = plots.save(draw(rows, settings), out / "toy")
    typer.echo(f"\n{format_table(rows)}\n\n{table.path}\n{png}\n{pdf}")
