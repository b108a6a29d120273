"""The figures of the experiments in benchmarks/results are drawn from the CSV files there."""

import pytest
from matplotlib.figure import Figure

from tools.figures import FIGURES, RESULTS


@pytest.mark.parametrize("name", FIGURES)
def test_figure_of_the_results_is_drawn_from_its_file(name: str) -> None:
    assert (RESULTS / f"{name}.png").exists()
    drawn: Figure = FIGURES[name]()
    for ax in drawn.axes:
        assert ax.has_data(), "an empty panel"
        assert ax.get_xlabel() or ax.get_title()
