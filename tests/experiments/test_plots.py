"""Colors, bands, legends and captions that all figures share."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from mige_ext.experiments.common import plots


def test_band_shows_mean_and_deviation_in_the_color_of_the_method() -> None:
    _, panels = plots.figure()
    ax, samples = panels[0, 0], np.array([[1.0, 2.0], [3.0, 6.0]])
    plots.band(ax, [0, 1], samples, label="MIGE")
    (line,), (area,) = ax.lines, ax.collections
    np.testing.assert_array_equal(line.get_ydata(), [2, 4])
    heights = area.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (1, 6)
    assert to_hex(line.get_color()) == plots.PALETTE["MIGE"].lower()
    plots.band(ax, [0, 1], samples[:1], label="one seed")
    assert len(ax.collections) == 1


def test_band_rejects_samples_of_another_length() -> None:
    _, panels = plots.figure()
    with pytest.raises(ValueError, match=r"samples must have shape \(S, 3\) .* got \(2, 2\)"):
        plots.band(panels[0, 0], [0, 1, 2], np.zeros((2, 2)), label="MIGE")


def test_colors_of_methods_are_distinct() -> None:
    assert len(set(plots.PALETTE.values())) == len(plots.PALETTE)


def a_figure() -> Figure:
    figure, panels = plots.figure(1, 1)
    for name in ("a", "b"):
        samples = np.random.default_rng(0).random((3, 3))
        plots.band(panels.flat[0], np.arange(3), samples, label=name)
    plots.legend(figure)
    return figure


def test_a_legend_names_each_method_once_and_the_figure_is_saved(tmp_path: Path) -> None:
    figure = a_figure()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]
    for path in plots.save(figure, tmp_path / "folder" / "curves.v1"):
        assert path.parent == tmp_path / "folder"
        assert path.stem == "curves.v1"
        assert path.stat().st_size > 5_000


@pytest.mark.parametrize("width", [2.6, 5.2, 12.0])
def test_a_caption_fits_into_the_figure(width: float) -> None:
    figure, _ = plots.figure(panel=(width, 2.5))
    plots.caption(figure, *["A sentence about the samples, the seeds and the methods."] * 4)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    (text,) = (text for text in figure.texts if text.get_text().startswith("A sentence"))
    extent = text.get_window_extent(canvas.get_renderer())
    assert extent.x0 >= 0 and extent.x1 <= figure.bbox.width


def test_saving_a_figure_again_gives_the_same_bytes(tmp_path: Path) -> None:
    first = [path.read_bytes() for path in plots.save(a_figure(), tmp_path / "a")]
    assert first == [path.read_bytes() for path in plots.save(a_figure(), tmp_path / "b")]
    assert b"CreationDate" not in first[1]
