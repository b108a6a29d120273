"""The report of the accuracy benchmark: rows, tables, bounds and the figure.

``measure.py`` defines the NMSE and the oracle, and ``merit.py`` the other columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.tables import Bounds, print_table
from benchmarks.timing import geometric_mean
from mige_ext.experiments.common import plots

#: The estimator whose ratio is bounded (``RATIOS``). The information functions use another one,
#: "adaptive ridge".
BEST = "adaptive qis"
HALVES = ("chosen", "held-out")
#: For each M, the bound of (NMSE / NMSE of the oracle), a geometric mean over all densities.
RATIOS = {64: 1.18, 256: 1.14, 1024: 1.14}
#: For every estimator with a control, the bound of the mean of ``Row.worse`` over all data sets.
WORSE = 0.02


@dataclass(frozen=True)
class Row:
    """An estimator on one density at one M. Undefined values are NaN.

    Attributes:
        family: Name of the density in ``FAMILIES``, such as ``bimodal-5``.
        d: Dimensions.
        half: "chosen" or "held-out".
        samples: Number of samples M.
        estimator: Name in the tables.
        setting: Full description of the estimator.
        seeds: Number of data sets.
        nmse: Mean NMSE over the data sets.
        nmse_se: Standard error of ``nmse``.
        ratio: NMSE relative to the NMSE of the oracle.
        gradient_bias: Relative bias of the gradient matrix.
        derivative_error: Relative error of dI/dθ.
        worse: Fraction of data sets on which the NMSE exceeds the NMSE of the control by more than
            2 %; NaN for an estimator without a control.
    """

    family: str
    d: int
    half: str
    samples: int
    estimator: str
    setting: str
    seeds: int
    nmse: float
    nmse_se: float
    ratio: float
    gradient_bias: float
    derivative_error: float
    worse: float


def report(rows: Sequence[Row], *, complete: bool, markdown: bool = False) -> list[str]:
    """Print the tables and the bounds, and return the names of the missed bounds.

    Args:
        rows: Rows of one run.
        complete: Whether the run has all densities, for which the bounds are checked.
        markdown: Whether the tables are printed in Markdown.
    """
    for m in dict.fromkeys(row.samples for row in rows):
        of_m = [row for row in rows if row.samples == m]
        _print_ratios(m, of_m, markdown)
        _print_column(m, of_m, "gradient_bias", "bias of the gradient, relative", markdown)
        _print_column(m, of_m, "derivative_error", "relative RMSE of dI/dθ", markdown)
        _print_summary(m, of_m, markdown)
    bounds = bounds_of(rows) if complete else Bounds()
    return bounds.report(markdown=markdown)


def bounds_of(rows: Sequence[Row]) -> Bounds:
    """The bounds of the estimators that were measured."""
    bounds = Bounds()
    of_best = [row for row in rows if row.estimator == BEST]
    for m in dict.fromkeys(row.samples for row in of_best):
        here = [row for row in of_best if row.samples == m]
        if m in RATIOS:
            ratio = geometric_mean(row.ratio for row in here)
            bounds.at_most(f"{BEST} / oracle, geometric mean, M = {m}", ratio, RATIOS[m])
    for name in dict.fromkeys(row.estimator for row in rows if row.worse == row.worse):
        here = [row for row in rows if row.estimator == name]
        fraction = sum(row.worse * row.seeds for row in here) / sum(row.seeds for row in here)
        bounds.at_most(f"data sets where {name} is worse than its control", fraction, WORSE)
    return bounds


# --- tables ---------------------------------------------------------------------------------------


def _names(rows: Sequence[Row]) -> list[str]:
    """Names of the estimators without the oracle."""
    return [name for name in dict.fromkeys(row.estimator for row in rows) if name != "oracle"]


def _print_ratios(m: int, rows: Sequence[Row], markdown: bool) -> None:
    names = _names(rows)
    cells = {(row.family, row.estimator): row for row in rows}
    lines = [
        [
            row.family, row.half, f"{row.nmse:.3g} ± {row.nmse_se:.1g}",
            *(f"{cells[row.family, name].ratio:.2f}" if (row.family, name) in cells else "-"
              for name in names),
        ]
        for row in rows if row.estimator == "oracle"
    ]  # fmt: skip
    header = ("density", "half", "oracle NMSE", *names)
    print_table(f"M = {m}: NMSE / NMSE of the oracle", header, lines, markdown=markdown)


def _print_column(m: int, rows: Sequence[Row], column: str, title: str, markdown: bool) -> None:
    """Print the defined values of one column as a table of densities × estimators."""
    values = {(row.family, row.estimator): getattr(row, column) for row in rows}
    defined = {key: value for key, value in values.items() if value == value}
    names = [name for name in (*_names(rows), "oracle") if any(key[1] == name for key in defined)]
    lines = [
        [family, *(f"{defined[family, n]:.3f}" if (family, n) in defined else "-" for n in names)]
        for family in dict.fromkeys(family for family, _ in defined)
    ]
    if lines:
        print_table(f"M = {m}: {title}", ("density", *names), lines, markdown=markdown)


def _print_summary(m: int, rows: Sequence[Row], markdown: bool) -> None:
    lines = []
    for name in _names(rows):
        here = [row for row in rows if row.estimator == name]
        line: list[object] = [name]
        for half in ("all", *HALVES):
            ratios = [row.ratio for row in here if half in ("all", row.half)]
            line += [f"{geometric_mean(ratios):.2f}", f"{max(ratios):.2f}"] if ratios else ["-"] * 2
        worse = [row.worse for row in here if row.worse == row.worse]
        line += [f"{100 * float(np.mean(worse)):.1f} %" if worse else "-", len(here)]
        lines.append(line)
    header = (
        "estimator",
        *(f"{half}, {what}" for half in ("all", *HALVES) for what in ("mean", "worst")),
        "worse than control",
        "densities",
    )
    title = f"M = {m}: NMSE / NMSE of the oracle, geometric mean and worst"
    print_table(title, header, lines, markdown=markdown)


# --- the figure -----------------------------------------------------------------------------------

#: Label, color and marker of the estimators in the figure.
_MARKS = {
    "Gaussian ridge": ("Gaussian, ridge", "#777777", "s"),
    "Gaussian mle": ("Gaussian, ML", "#777777", "x"),
    "SSGE .99": ("SSGE at 0.99", "#0072B2", "o"),
    "Tikhonov": ("Tikhonov, default", "#E69F00", "^"),
    "best fixed": ("best fixed setting", "#009E73", "D"),
    "adaptive ridge": ("adaptive, ridge", "#D55E00", "o"),
    "adaptive qis": ("adaptive, QIS", "#CC79A7", "o"),
}
_LARGEST = 20.0  # the right end of the axis, at which larger ratios are drawn


def draw(rows: Sequence[Row], path: Path) -> Path:
    """Draw the NMSE relative to the oracle, with a panel for each M and a line for each density."""
    sizes = sorted({row.samples for row in rows})
    order = [row for row in rows if row.samples == sizes[0] and row.estimator == "oracle"]
    order.sort(key=lambda row: (HALVES.index(row.half), row.family.split("-")[0], row.d))
    places = {row.family: -i - HALVES.index(row.half) for i, row in enumerate(order)}
    height = 0.19 * (len(places) + 1) + 1.2
    fig, (panels,) = plots.figure(
        1, len(sizes), panel=(max(3.0, 8 / len(sizes)), height), sharex=True, sharey=True
    )
    for ax, m in zip(panels, sizes, strict=True):
        here = [row for row in rows if row.samples == m and row.family in places]
        ax.axvline(1, color="black", linewidth=1)
        for name, (label, color, marker) in _MARKS.items():
            of_name = [row for row in here if row.estimator == name]
            if of_name:
                ax.plot(
                    [min(row.ratio, _LARGEST) for row in of_name],
                    [places[row.family] for row in of_name],
                    marker, color=color, label=label, markersize=5, markeredgewidth=1.2,
                    markerfacecolor=color if marker == "o" else "none",
                )  # fmt: skip
        ax.set(xscale="log", title=f"M = {m}", ylim=(min(places.values()) - 0.7, 0.7))
        ax.set_xticks([1, 2, 5, 10, _LARGEST], ["1", "2", "5", "10", f"≥ {_LARGEST:g}"])
        ax.minorticks_off()
        ax.set_xlabel("NMSE / NMSE of the oracle")
    panels[0].set_yticks(list(places.values()), list(places))
    for half in HALVES:
        inside = [place for family, place in places.items() if _half(order, family) == half]
        if inside:
            panels[-1].text(
                1.02, np.mean(inside), half, rotation=270, va="center",
                transform=panels[-1].get_yaxis_transform(), color="#555555",
            )  # fmt: skip
    plots.legend(fig, columns=4)
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, dpi=150)
    return path


def _half(order: Sequence[Row], family: str) -> str:
    return next(row.half for row in order if row.family == family)
