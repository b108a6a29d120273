"""Figure 1 of Wen et al. (ICLR 2020): mutual information and its gradient for Gaussians.

The variables are x ~ N(0, I_d) and ``y = ρ x + √(1 − ρ²) ε`` with ε ~ N(0, I_d). In nats,

    I(x; y) = −d/2 · log(1 − ρ²),        dI/dρ = d ρ / (1 − ρ²).

All methods are compared on the same M samples of x and ε for each ρ and seed:

* **MIGE** computes dI/dρ from the scores of these samples, without training. The curve of I is the
  integral of dI/dρ from ρ = 0, where I = 0. The method "MIGE" uses SSGE, as in the paper.
  "MIGE-default" uses the default estimator of ``mutual_information``. "MIGE-Stein" uses SSGE with
  ``calibrate="stein"``, and is not in the figure.
* **MINE** and **MINE-f** train a critic for each ρ and seed, on fresh samples in every step. I is
  the bound on all pairs of the M samples, and dI/dρ the derivative of the bound through y.
* **Gaussian** is a control: MIGE with the score of a fitted Gaussian. This method knows that the
  data are Gaussian, so no other method is expected to have a smaller error here.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from mige_ext.experiments.common import plots
from mige_ext.experiments.common.experiment import Experiment, command
from mige_ext.experiments.common.folder import Table
from mige_ext.experiments.common.options import Options as CommonOptions
from mige_ext.experiments.common.options import filled, option
from mige_ext.experiments.common.progress import Progress
from mige_ext.experiments.common.statistics import spread_of
from mige_ext.experiments.common.tables import format_columns, format_mean
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

#: Dimensions that the figure shows, if they were run.
FIGURE_DIMS = (5, 10, 20)
#: Label of each method in the table and in the figure.
LABELS = {
    "Gaussian": "Gaussian (control)",
    "MIGE": "MIGE, SSGE",
    "MIGE-Stein": "MIGE, SSGE calibrated",
    "MIGE-default": "MIGE, default",
    "MINE": "MINE",
    "MINE-f": "MINE-f",
}
#: Methods of the figure, with the key of their color in ``plots.PALETTE``.
COLORS = {
    "MINE": "MINE",
    "MINE-f": "MINE-f",
    "Gaussian": "Gaussian score",
    "MIGE": "SSGE .99",
    "MIGE-default": "MIGE",
}


@dataclass(frozen=True)
class Options(CommonOptions):
    """Options that may change when the experiment is continued."""

    dims: str = option(None, "Dimensions, like 5,20.", shown="5,8,10,16,20,32; --quick: 5,20")
    authors: bool = option(False, "Train critics as the authors' notebook does.", "--authors")


@dataclass(frozen=True)
class Estimate:
    """A row of toy.csv: a method at one ρ with one seed, in nats."""

    dim: int
    rho: float
    seed: int
    method: str
    mi: float  # I(x; y)
    mi_true: float
    dmi: float  # dI/dρ
    dmi_true: float

    @property
    def error(self) -> float:
        """The error of dI/dρ."""
        return self.dmi - self.dmi_true


class Toy(Experiment):
    """The methods on correlated Gaussians of several dimensions.

    Args:
        options: Options of the command.
        settings: Settings of every dimension.
        dims: Dimensions, in ascending order.

    Raises:
        ValueError: A dimension is not below the number of samples.
    """

    quick_note = (
        "The small version, about half a minute: fewer dimensions, ρ, seeds and training steps."
    )
    measured = "Error of I and dI/dρ for Gaussians"
    following = "python -m mige_ext infomax, the paper's Table 1"

    def __init__(self, options: Options, settings: Settings, dims: Sequence[int]) -> None:
        super().__init__(options, settings)
        self.dims = dims
        if settings.samples <= max(dims):
            raise ValueError(
                f"--samples must be more than the largest dimension, {max(dims)}, "
                f"got {settings.samples}"
            )

    def about(self) -> dict[str, Any]:
        """Further values for config.json."""
        return {"dims": self.dims}

    def open_tables(self) -> None:
        """Read toy.csv in the folder."""
        self.table = Table(self.options.out / "toy.csv", Estimate)

    def run(self) -> None:
        """Run each method and dimension that the table lacks, and save each result at once."""
        done = {(row.dim, row.method) for row in self.table.rows}
        missing = [(d, m) for d in self.dims for m in METHODS if (d, m) not in done]
        self.complete = not missing
        if self.complete:
            return
        steps = self.settings.steps * self.settings.seeds
        with Progress(steps * sum(method in BOUNDS for _, method in missing)) as bar:
            for dim, method in missing:
                bar.begin(f"d = {dim}, {method}")
                if method in BOUNDS:
                    curves = run_bound(method, dim, self.settings, lambda: bar.step({}))
                else:
                    curves = run_mige(method, dim, self.settings)
                self.table.replace([*self.table.rows, *self._rows(dim, method, *curves)])

    def _rows(self, dim: int, method: str, mi: Array, dmi: Array) -> list[Estimate]:
        rho = rho_grid(self.settings.points)
        mi_true, dmi_true = true_information(dim, rho), true_derivative(dim, rho)
        rows = []
        for s, r in np.ndindex(mi.shape):
            values = (value.item() for value in (mi[s, r], mi_true[r], dmi[s, r], dmi_true[r]))
            rows.append(Estimate(dim, rho[r].item(), self.settings.seed + s, method, *values))
        return rows

    @property
    def rows(self) -> list[Estimate]:
        """The estimates for the dimensions of this command."""
        return [row for row in self.table.rows if row.dim in self.dims]

    def save_interrupted(self) -> None:
        """Draw the finished methods."""
        self.save_figures()

    def save_figures(self) -> list[Path]:
        """Draw the results, and return the paths of toy.csv and the figure."""
        png, _ = plots.save(draw(self.rows, self.settings), self.options.out / "toy")
        return [self.table.path, png]

    def summary(self) -> str:
        """The table of errors."""
        return format_table(self.rows)


def curves_of(rows: Sequence[Estimate], dim: int, method: str, column: str) -> Array:
    """A column of the table, (S, R) for S seeds and R values of ρ; empty without such rows."""
    of_seed: dict[int, list[float]] = {}
    for row in rows:
        if (row.dim, row.method) == (dim, method):
            of_seed.setdefault(row.seed, []).append(getattr(row, column))
    return np.array(list(of_seed.values()))


def format_table(rows: Sequence[Estimate]) -> str:
    """Relative RMSE of dI/dρ: a line for each method, mean over the seeds ± standard error."""
    dims = sorted({row.dim for row in rows})
    lines = []
    for method in METHODS:
        cells = [LABELS[method]]
        for dim in dims:
            dmi, truth = (curves_of(rows, dim, method, column) for column in ("dmi", "dmi_true"))
            mean = format_mean(relative_rmse(dmi, truth).tolist() if len(dmi) else [], 3)
            cells.append(re.sub(r"\b0\.", ".", mean))  # so that a line has at most 100 characters
        lines.append(cells)
    return format_columns(["relative RMSE of dI/dρ", *(f"d = {dim}" for dim in dims)], lines)


def draw(rows: Sequence[Estimate], settings: Settings) -> Figure:
    """Figure 1: rows with I, dI/dρ and the error of dI/dρ, and a column for each dimension.

    The figure has the dimensions of ``FIGURE_DIMS``, or all if none of ``FIGURE_DIMS`` was run.
    """
    run = sorted({row.dim for row in rows})
    dims = [dim for dim in run if dim in FIGURE_DIMS] or run or FIGURE_DIMS
    fig, panels = plots.figure(3, len(dims), panel=(max(2.6, 5.2 / len(dims)), 2.1), sharex=True)
    rho, fine = rho_grid(settings.points), np.linspace(-0.8, 0.8, 201)
    for of_dim, dim in zip(panels.T, dims, strict=True):
        true_curves = (
            ("mi", true_information(dim, fine)),
            ("dmi", true_derivative(dim, fine)),
            ("error", np.zeros_like(fine)),
        )
        for ax, (column, truth) in zip(of_dim, true_curves, strict=True):
            for method, color in COLORS.items():
                curves = curves_of(rows, dim, method, column)
                if len(curves):
                    plots.band(ax, rho, curves, label=LABELS[method], color=plots.PALETTE[color])
            plots.band(ax, fine, truth[None], label="truth", linestyle="--")
            # The axis is limited, because a bound that diverges would flatten all other curves.
            span = truth.max() or true_derivative(dim, fine).max() / 2
            low, high = truth.min() - 0.15 * span, truth.max() + 0.15 * span
            if column == "error":
                low, high = max(ax.get_ylim()[0], -span), min(ax.get_ylim()[1], span)
            ax.set_ylim(low, high)
        of_dim[0].set_title(f"d = {dim}")
        of_dim[-1].set_xlabel("correlation ρ")
    for ax, label in zip(panels[:, 0], ("I(x; y)", "dI/dρ", "error of dI/dρ"), strict=True):
        ax.set_ylabel(f"{label}, nats")
    fig.align_ylabels(panels[:, 0])
    plots.legend(fig, columns=3)
    seeds = len({row.seed for row in rows}) or settings.seeds
    of_critics = [
        len({row.seed for row in rows if row.method in BOUNDS and row.dim == dim}) or seeds
        for dim in dims
    ]
    fewer = "" if {*of_critics} == {seeds} else ", " + ", ".join(map(str, of_critics)) + " seeds"
    plots.caption(
        fig,
        f"{settings.samples} samples, {spread_of(seeds, 'standard deviation')}; critics: "
        f"{settings.steps} steps{fewer}.",
        "MIGE estimates dI/dρ; I is the integral of dI/dρ from ρ = 0.",
    )
    return fig


def _parse_dims(text: str) -> list[int]:
    if not all(part.strip().isdecimal() and int(part) > 0 for part in text.split(",")):
        raise ValueError(f"--dims must be positive numbers like 5,10,20, got {text!r}")
    return sorted({int(part) for part in text.split(",")})


@command(Options, Settings)
def toy(options: Options, given: dict[str, Any]) -> Toy:
    """The paper's Figure 1: I and dI/dρ of correlated Gaussians, by MIGE and by MINE."""
    if options.authors and options.quick:
        raise ValueError("--authors and --quick exclude each other")
    preset = AUTHORS if options.authors else QUICK if options.quick else Settings()
    default = "5,20" if options.quick else "5,8,10,16,20,32"
    dims = _parse_dims(default if options.dims is None else options.dims)
    return Toy(filled(options, threads=1), replace(preset, **given), dims)
