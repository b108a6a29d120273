"""The palette and the legend of the figures: distinct colors and balanced rows."""

from itertools import combinations

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from numpy.typing import NDArray

from mige_ext.experiments.bottleneck.methods import METHODS as BOTTLENECK
from mige_ext.experiments.common import plots
from mige_ext.experiments.infomax.methods import METHODS as INFOMAX
from mige_ext.experiments.removal.methods import METHODS as REMOVAL


def oklab(color: str) -> NDArray[np.float64]:
    """The color in Oklab, in which distances are perceptual (Ottosson, 2020)."""
    rgb = np.array(to_rgb(color))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_cones = [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
    to_lab = [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
    return np.array(to_lab) @ np.cbrt(np.array(to_cones) @ linear)


@pytest.mark.parametrize(
    "methods", [BOTTLENECK, INFOMAX, REMOVAL], ids=["bottleneck", "infomax", "removal"]
)
def test_colors_of_one_figure_are_distinct(methods: dict[str, object]) -> None:
    labels = [method.label for method in methods.values()]  # type: ignore[attr-defined]
    for a, b in combinations(labels, 2):
        distance = np.linalg.norm(oklab(plots.PALETTE[a]) - oklab(plots.PALETTE[b]))
        assert distance > 0.1, (a, b, distance)


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (4, 4), (5, 3), (8, 4), (9, 3), (12, 4)])
def test_no_row_of_a_legend_holds_a_single_label(count: int, columns: int) -> None:
    figure, ((ax,),) = plots.figure()
    for number in range(count):
        ax.plot([0, 1], [0, 1], label=str(number))
    plots.legend(figure, columns=min(count, 4))
    (legend,) = figure.legends
    assert legend._ncols == columns  # type: ignore[attr-defined]
