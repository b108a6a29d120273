"""Tables and figures of the experiments that compare methods: widths, captions, positions."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from mige_ext.experiments.bottleneck import report as bottleneck
from mige_ext.experiments.bottleneck.methods import METHODS
from mige_ext.experiments.bottleneck.training import Epoch
from mige_ext.experiments.common import plots
from mige_ext.experiments.common.runs import Run, row_of
from mige_ext.experiments.infomax import report as infomax
from mige_ext.experiments.removal import report as removal


def results(report: Any, seeds: int = 2, **columns: Any) -> list[Any]:
    """Results of every method, with 0.5 in every column of floats that is not given."""
    floats = {item.name: 0.5 for item in dataclasses.fields(report.Result) if item.type is float}
    words = {"data": "structural", "nuisance": "attribute", "attacker": "MLP 256, standardized"}
    known = {item.name for item in dataclasses.fields(report.Result)}
    given = {name: value for name, value in words.items() if name in known} | floats | columns
    own = {"method", "seed", "images", report.Result.setting}
    given = {name: value for name, value in given.items() if name not in own}
    return [
        row_of(report.Result, Run(method, 0.0125, seed), **given)
        for method in report.METHODS
        for seed in range(seeds)
    ]


def infomax_results() -> list[Any]:
    rows = results(infomax, seconds=12345.6)
    return [
        dataclasses.replace(row, layer=layer, accuracy=row.accuracy + 0.01 * row.seed)
        for row in rows
        for layer in infomax.LAYERS
    ]


def lines_of(table: str) -> Sequence[str]:
    lines = table.splitlines()
    assert max(map(len, lines)) <= 100
    return lines


def caption_of(figure: Figure) -> str:
    assert figure._supxlabel is not None  # type: ignore[attr-defined]
    text: str = figure._supxlabel.get_text()  # type: ignore[attr-defined]
    assert max(map(len, text.splitlines())) <= 100
    return " ".join(text.split())


def test_tables_fit_into_a_terminal_and_name_times_as_times() -> None:
    for table in (
        infomax.format_table(infomax_results(), "cifar10"),
        bottleneck.format_table(results(bottleneck), published=True),
    ):
        head = "\n".join(lines_of(table)[:3])
        assert "time of the" in head and "% of a step" in head
    lines_of(removal.format_table(results(removal)))


def test_the_caption_of_infomax_tells_the_two_accuracies_apart() -> None:
    caption = caption_of(infomax.draw([], infomax_results(), []))
    assert "least-squares" in caption and "validation images" in caption
    assert "networks on each frozen layer, on test images." in caption


def test_the_figure_of_removal_says_what_lies_outside_the_panels() -> None:
    rows = [
        dataclasses.replace(row, accuracy=0.6 if row.method == "leace-quadratic" else 0.9)
        for row in results(removal)
    ]
    figure = removal.draw(rows, rows, 0.005)
    assert "costs more than 4 points of accuracy is outside the panels" in caption_of(figure)
    for ax in figure.axes[1:]:
        low, high = ax.get_ylim()
        assert low == pytest.approx(86) and high > 90


@pytest.mark.parametrize("betas", [(0.0025, 0.02), (1.0, 1000.0)])
def test_the_axis_of_beta_shows_no_range_without_runs(betas: tuple[float, float]) -> None:
    rows = [row for row in results(removal) if row.method in ("none", "vib")]
    nan = float("nan")
    rows = [
        dataclasses.replace(row, beta=beta, val_leak_nats=nan)
        for row in rows
        for beta in (betas if row.method == "vib" else [0.0])
    ]
    axis = removal.draw(rows, rows, 0.005).axes[0]
    low, high = axis.get_xlim()
    assert (low, high) == (-betas[0] / 2, 2 * betas[1])
    assert axis.get_xscale() == "symlog"


def test_the_caption_of_the_bottleneck_needs_no_beta_of_a_method_without_one() -> None:
    rows = [row for row in results(bottleneck) if row.method == "baseline"]
    rows += [dataclasses.replace(row, beta=0.1) for row in rows]
    shown = [Run("baseline", 0.0, 0)]
    floats = {item.name: 0.5 for item in dataclasses.fields(Epoch) if item.type is float}
    floats.pop("beta")
    metrics = [row_of(Epoch, shown[0], **floats, epoch=epoch) for epoch in (1, 2)]
    caption = caption_of(bottleneck.draw(rows, metrics, shown))
    assert "least mean error of a method" in caption
    assert caption.startswith("no β; ")


@pytest.mark.parametrize("averaged", [False, True])
@pytest.mark.parametrize("peeked", [False, True])
def test_test_errors_are_drawn_at_the_ticks_of_their_methods(averaged: bool, peeked: bool) -> None:
    nan = float("nan")
    rows = results(
        bottleneck,
        average_test_error=0.4 if averaged else nan,
        least_test_error=0.4 if peeked else nan,
    )
    (ax,) = bottleneck.draw_tests(rows).axes
    assert sum(line.get_marker() == "<" for line in ax.lines) == len(METHODS) * peeked
    marked = [line for line in ax.lines if line.get_marker() == "o"]
    places = {
        float(np.ravel(line.get_ydata())[0])
        for line in marked
        if line.get_markerfacecolor() != "white"
    }
    assert places == set(range(len(METHODS)))
    assert len(marked) == len(METHODS) * (1 + averaged)


def test_long_captions_are_wrapped() -> None:
    figure, _ = plots.figure()
    plots.caption(figure, "word " * 60, "End.")
    assert caption_of(figure).endswith("word End.")
