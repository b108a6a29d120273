"""The one look of all figures: colours by method, mean ± deviation bands, PNG and PDF.

Figures are made without pyplot: there is no global state to close, and no display is needed.
"""

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

__all__ = ["PALETTE", "band", "figure", "legend", "save"]

# Okabe and Ito's palette, distinguishable in every common form of colour blindness.
_CYCLE = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#999999"]

#: A method has the same colour in every figure; labels that are not listed take the cycle.
PALETTE: dict[str, str] = {
    "truth": "#000000",
    "MIGE": "#D55E00",
    "MINE": "#0072B2",
    "MINE-f": "#009E73",
    "JSD": "#CC79A7",
    "InfoNCE": "#E69F00",
    "VIB": "#56B4E9",
    "deterministic": "#666666",
    "dropout": "#B3B300",
    "conf. penalty": "#7F6BB3",
    "label smoothing": "#A0522D",
    "Gaussian score": "#F0A3A3",
    "Gaussian score II": "#C76E6E",
    "entropy": "#8FBF8F",
    "L2": "#B8B8B8",
    "no removal": "#404040",
    "MIGE, matched": "#F0A070",
    "SSGE .99": "#7A3B00",
    "HSIC": "#A8DDB5",
    "HSIC, whitened": "#43A06B",
    "HSIC, whitened + centre": "#00533A",
    "adversary, regressor": "#C9A8E0",
    "adversary, classifier": "#6A3D9A",
    "CLUB": "#E6C229",
    "random encoder": "#808080",
    "pixels": "#1B7837",
    "PCA": "#5AAE61",
    "MIGE II": "#8C2D04",
    "MIGE, draws": "#B2182B",
    "JSD + PM": "#7A0177",
    "InfoNCE + PM": "#8C6D1F",
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
    "pdf.fonttype": 42,  # TrueType: text in the PDF stays text
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
        **subplots: passed on to `matplotlib.figure.Figure.subplots`.

    Returns:
        The figure, and its axes as an array of shape (rows, columns).
    """
    with mpl.rc_context(_STYLE):
        fig = Figure(figsize=(panel[0] * columns, panel[1] * rows), layout="constrained")
        FigureCanvasAgg(fig)
        return fig, fig.subplots(rows, columns, squeeze=False, **subplots)


def band(ax: Axes, x: ArrayLike, samples: ArrayLike, *, label: str, **line: Any) -> None:
    """Draw the mean over seeds as a line and one standard deviation around it as a band.

    Args:
        ax: where to draw.
        x: positions, (N,).
        samples: a row a seed, (S, N). With one seed there is a line and no band.
        label: legend label; a name in `PALETTE` sets the colour.
        **line: passed on to the line, over the defaults.

    Raises:
        ValueError: samples is not (S, N) for the N of x.
    """
    at, values = np.asarray(x, dtype=float), np.asarray(samples, dtype=float)
    if values.ndim != 2 or values.shape[1:] != at.shape:
        raise ValueError(f"samples must have shape (S, {at.size}) to go with x, got {values.shape}")
    if label in PALETTE:
        line = {"color": PALETTE[label], **line}
    mean, deviation = values.mean(0), values.std(0)
    (drawn,) = ax.plot(at, mean, label=label, **line)
    if len(values) > 1:
        ax.fill_between(
            at,
            mean - deviation,
            mean + deviation,
            color=drawn.get_color(),
            alpha=0.18,
            linewidth=0,
        )


def legend(fig: Figure, columns: int | None = None) -> None:
    """Put one legend over the whole figure: every label once, in the order of first appearance."""
    handles: dict[str, Any] = {}
    for ax in fig.axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    with mpl.rc_context(_STYLE):
        fig.legend(
            list(handles.values()),
            list(handles),
            loc="outside upper center",
            ncols=columns or max(len(handles), 1),
        )


def save(fig: Figure, stem: str | Path) -> tuple[Path, Path]:
    """Write the figure as ``stem.png`` and ``stem.pdf``, making the folder where it is missing.

    Returns:
        The two paths.
    """
    png, pdf = (Path(f"{stem}.{suffix}") for suffix in ("png", "pdf"))
    png.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(_STYLE):
        fig.savefig(png)
        fig.savefig(pdf, metadata={"CreationDate": None})  # same numbers, same bytes
    return png, pdf
