"""The common style of all figures: colors by method, mean ± deviation bands, PNG and PDF.

Figures are made without pyplot, because it has global state and may need a display.
"""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from mige_ext.experiments.common.statistics import by_method

# The palette of Okabe and Ito, whose colors differ in every common form of color blindness.
_CYCLE = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#999999"]

#: The color of each method in every figure. A label that is not listed gets the next color of
#: ``_CYCLE``. Colors in the same figure differ by at least 18 in CIEDE2000.
PALETTE: dict[str, str] = {
    "truth": "#000000",
    "MIGE": "#D55E00",
    "MINE": "#0072B2",
    "MINE-f": "#009E73",
    "JSD": "#CC79A7",
    "InfoNCE": "#E69F00",
    "VIB": "#56B4E9",
    "deterministic": "#666666",
    "dropout": "#009999",
    "conf. penalty": "#66CC99",
    "label smoothing": "#003399",
    "Gaussian score": "#AA3377",
    "Gaussian score II": "#339966",
    "entropy": "#663300",
    "L2": "#FF99CC",
    "no removal": "#404040",
    "contraction": "#660099",
    "MIGE, matched": "#99CC99",
    "MIGE, paired": "#996600",
    "MIGE, permuted s": "#BB77AA",
    "Tikhonov": "#FF9999",
    "SSGE .99": "#99CCFF",
    "HSIC": "#0000FF",
    "HSIC, whitened": "#9966FF",
    "HSIC, whitened + center": "#CCCC00",
    "adversary, regressor": "#FF3399",
    "adversary, classifier": "#006600",
    "CLUB": "#009900",
    "distance correlation": "#000066",
    "MMD between groups": "#330000",
    "sliced information": "#00FF66",
    "gradient reversal": "#FF9900",
    "LEACE": "#FF66FF",
    "entropy of z": "#CC00CC",
    "VIB, mean": "#33CC33",
    "VIB, BatchNorm": "#0066FF",
    "squared norm": "#990000",
    "center loss": "#999966",
    "quadratic LEACE": "#006666",
    "kernel erasure": "#FF0033",
    "random encoder": "#999999",
    "pixels": "#00CCFF",
    "PCA": "#666699",
    "MIGE II": "#3300CC",
    "MIGE, draws": "#CCCC33",
    "JSD + PM": "#CC00FF",
    "InfoNCE + PM": "#CCCC99",
}

_STYLE: Any = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.labelsize": 10,
    "axes.prop_cycle": cycler(color=_CYCLE),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 9,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.7,
    "legend.fontsize": 10,
    "legend.frameon": False,
    "pdf.fonttype": 42,  # TrueType, which keeps text as text
    "savefig.dpi": 200,
}


def figure(
    rows: int = 1, columns: int = 1, *, panel: tuple[float, float] = (3.2, 2.5), **subplots: Any
) -> tuple[Figure, NDArray[np.object_]]:
    """Make a figure in the shared style.

    Args:
        rows: rows of panels.
        columns: columns of panels.
        panel: width and height of one panel in inches.
        **subplots: further arguments of :meth:`matplotlib.figure.Figure.subplots`.

    Returns:
        The figure, and an array of its axes of shape (rows, columns).
    """
    with mpl.rc_context(_STYLE):
        fig = Figure(figsize=(panel[0] * columns, panel[1] * rows), layout="constrained")
        return fig, fig.subplots(rows, columns, squeeze=False, **subplots)


def band(ax: Axes, x: ArrayLike, samples: ArrayLike, *, label: str, **line: Any) -> None:
    """Draw the mean over seeds as a line and one standard deviation around it as a band.

    Args:
        ax: axes to draw in.
        x: positions (N,).
        samples: values (S, N), with a row for each seed. One seed gives a line without a band.
        label: label in the legend, and name of the color in ``PALETTE``.
        **line: further arguments of :meth:`matplotlib.axes.Axes.plot`, which override the color.

    Raises:
        ValueError: ``samples`` does not have shape (S, N).
    """
    at, values = np.asarray(x, dtype=float), np.asarray(samples, dtype=float)
    if values.ndim != 2 or values.shape[1:] != at.shape:
        raise ValueError(f"samples must have shape (S, {at.size}) to go with x, got {values.shape}")
    if label in PALETTE:
        line = {"color": PALETTE[label], **line}
    mean, deviation = values.mean(0), values.std(0)
    (drawn,) = ax.plot(at, mean, label=label, **line)
    if len(values) > 1:
        low, high = mean - deviation, mean + deviation
        ax.fill_between(at, low, high, color=drawn.get_color(), alpha=0.18, linewidth=0)


def learning_curves(
    axes: Mapping[str, Axes],
    metrics: Sequence[Any],
    shown: Sequence[Any],
    methods: Mapping[str, Any],
    *,
    x: str = "epoch",
    percent: Sequence[str] = (),
    levels: Sequence[str] = (),
) -> None:
    """Draw columns of metrics.csv as lines, one for each method, with bands.

    A line is the mean over the seeds, and a band the standard deviation. A line ends at the end of
    the shortest run. Infinite values are not drawn.

    Args:
        axes: axes of each column.
        metrics: rows of metrics.csv.
        shown: runs to draw, which have one value of the setting for each method.
        methods: methods by name, for their labels.
        x: column of the positions.
        percent: columns that are drawn in percent.
        levels: methods that are drawn as a dotted line at their first value.
    """

    def values(runs: Sequence[Sequence[Any]], column: str, length: int) -> NDArray[np.float64]:
        table = np.array([[getattr(row, column) for row in rows[:length]] for rows in runs], float)
        return np.where(np.isinf(table), np.nan, table) * (100 if column in percent else 1)

    for ax in axes.values():
        ax.set_xlabel(x)
        if x == "epoch":
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    for method, runs in by_method(shown).items():
        begun = [[row for row in metrics if row.run == run] for run in runs]
        begun = [rows for rows in begun if rows]
        if not begun:
            continue
        shared, label = min(map(len, begun)), methods[method].label
        for column, ax in axes.items():
            drawn = values(begun, column, shared)
            if method in levels:
                level = drawn[:, 0].mean()
                ax.axhline(level, color=PALETTE[label], linestyle=":", label=label)
            else:
                marker = "o" if shared == 1 else ""  # a line of one point is invisible
                band(ax, values(begun[:1], x, shared)[0], drawn, label=label, marker=marker)


def legend(fig: Figure, columns: int | None = None) -> None:
    """Put one legend above the figure, with each label once in the order of first appearance.

    Args:
        fig: the figure.
        columns: largest number of columns; by default one for each label. There are fewer columns
            if the last row would contain a single label.
    """
    handles: dict[str, Any] = {}
    for ax in fig.axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    count = len(handles)
    most = columns or max(count, 1)
    ncols = next((n for n in range(most, 1, -1) if count % n != 1), most)
    with mpl.rc_context(_STYLE):
        fig.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=ncols)


def errorbar(ax: Axes, x: ArrayLike, y: ArrayLike, name: str, **style: Any) -> None:
    """Draw points with bars in the color of a method.

    Args:
        ax: axes to draw in.
        x: positions.
        y: values.
        name: key of ``PALETTE``, and the label in the legend if ``style`` has no label.
        **style: further arguments of :meth:`matplotlib.axes.Axes.errorbar`. An error that is NaN,
            as for a single seed, is drawn without a bar.
    """
    errors = {bar: np.nan_to_num(style.pop(bar)) for bar in ("xerr", "yerr") if bar in style}
    style = {"color": PALETTE[name], "marker": "o", "label": name} | style
    ax.errorbar(x, y, **errors, **style)


def caption(fig: Figure, *sentences: str) -> None:
    """Put a caption below the figure, with lines of the figure's width."""
    width = min(100, int(16 * fig.get_figwidth()))  # about 17 characters per inch
    text = textwrap.fill(" ".join(sentences), width)
    fig.supxlabel(text, fontsize=8, color="#555555")


def save(fig: Figure, stem: str | Path) -> tuple[Path, Path]:
    """Write ``stem.png`` and ``stem.pdf``, and return both paths. A missing folder is made."""
    png, pdf = (Path(f"{stem}.{suffix}") for suffix in ("png", "pdf"))
    png.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(_STYLE):
        fig.savefig(png)
        fig.savefig(pdf, metadata={"CreationDate": None})  # the same numbers give the same bytes
    return png, pdf
