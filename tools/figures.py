"""Draw the figures of the experiments in benchmarks/results from the CSV files there.

    python tools/figures.py [NAME ...]

Run this command after a change in the code of a figure. ``bottleneck-mnist-grid.png`` cannot be
drawn again, because no file has its runs.
"""

import argparse
import csv
import math
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

from matplotlib.figure import Figure

from mige_ext.experiments.bottleneck import report as bottleneck
from mige_ext.experiments.bottleneck.training import Epoch
from mige_ext.experiments.common import plots
from mige_ext.experiments.common.statistics import spread_of_methods
from mige_ext.experiments.infomax import report as infomax
from mige_ext.experiments.infomax.methods import METHODS
from mige_ext.experiments.removal import report as removal
from mige_ext.experiments.removal.command import MARGIN, choose_beta

RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results"


def read(name: str, row_type: type[Any]) -> list[Any]:
    """The rows of a CSV file. An empty or missing cell is NaN, or 0 in an integer column."""
    types = get_type_hints(row_type)
    empty = {float: math.nan, int: 0}
    with (RESULTS / f"{name}.csv").open(newline="") as file:
        return [
            row_type(**{
                column.name: types[column.name](
                    line.get(column.name) or empty[types[column.name]]
                )
                for column in fields(row_type)
            })
            for line in csv.DictReader(file)
        ]  # fmt: skip


def draw_infomax(epochs: int) -> Figure:
    """The probes on encoders that were trained for some epochs on all 50,000 images.

    Methods without training, which have at most one epoch, are in every figure.
    """
    rows = read("infomax-cifar10", infomax.Result)
    tested = [row for row in rows if row.images == 50_000 and row.epochs in (0, 1, epochs)]
    tested.sort(key=lambda row: list(METHODS).index(row.method))
    fig, ((ax,),) = plots.figure(1, 1, panel=(7.0, 4.2))
    infomax.draw_probes(ax, tested)
    plots.legend(fig, columns=4)
    seeds = spread_of_methods(tested)
    plots.caption(fig, f"Accuracy of networks on each frozen layer, on test images: {seeds}.")
    return fig


def draw_bottleneck_on_digits() -> Figure:
    """Error against information for every β."""
    rows = read("bottleneck-digits", bottleneck.Result)
    return bottleneck.draw(rows, [], [row.run for row in rows])


def draw_bottleneck_for_60_epochs() -> Figure:
    """The learning curves."""
    rows = read("bottleneck-mnist-60-epochs", Epoch)
    return bottleneck.draw([], rows, list(dict.fromkeys(row.run for row in rows)))


def draw_bottleneck_tests(epochs: int) -> Figure:
    """The test errors of the runs of some epochs."""
    rows = read("bottleneck-mnist", bottleneck.Result)
    return bottleneck.draw_tests([row for row in rows if row.epochs == epochs], published=True)


def draw_removal(data: str, nuisance: str, *, blind: bool = False) -> Figure:
    """The trade-off of every method, and the tests at the β that a search with seed 0 chose.

    With ``blind``, the runs are those whose β was chosen without the nuisance.
    """
    every = read("removal-blind" if blind else "removal", removal.Result)
    rows = [row for row in every if (row.data, row.nuisance) == (data, nuisance)]
    search = [row for row in rows if row.seed == 0]
    choice = {row.method: choose_beta(search, row.method, blind=blind) for row in search}
    return removal.draw(rows, [row for row in rows if row.beta == choice[row.method]], MARGIN)


FIGURES = {
    "infomax-cifar10": lambda: draw_infomax(3),
    "infomax-cifar10-30-epochs": lambda: draw_infomax(30),
    "bottleneck-digits": draw_bottleneck_on_digits,
    "bottleneck-mnist": lambda: draw_bottleneck_tests(8),
    "bottleneck-mnist-tests-60-epochs": lambda: draw_bottleneck_tests(60),
    "bottleneck-mnist-60-epochs": draw_bottleneck_for_60_epochs,
    "removal-mnist": lambda: draw_removal("mnist", "rotation"),
    "removal-fashion": lambda: draw_removal("fashion", "rotation"),
    "removal-structural": lambda: draw_removal("structural", "attribute"),
    "removal-adult-age": lambda: draw_removal("adult", "age"),
    "removal-adult-sex": lambda: draw_removal("adult", "sex"),
    "removal-adult-sex-given-label": lambda: draw_removal("adult", "sex given label"),
    "removal-compas-race": lambda: draw_removal("compas", "race"),
    "removal-compas-age": lambda: draw_removal("compas", "age"),
    "removal-blind-adult-sex": lambda: draw_removal("adult", "sex", blind=True),
    "removal-blind-adult-age": lambda: draw_removal("adult", "age", blind=True),
    "removal-blind-fashion": lambda: draw_removal("fashion", "rotation", blind=True),
    "removal-blind-structural": lambda: draw_removal("structural", "attribute", blind=True),
    "removal-blind-compas-race": lambda: draw_removal("compas", "race", blind=True),
    "removal-blind-mnist": lambda: draw_removal("mnist", "rotation", blind=True),
}


def main() -> None:
    """Draw the figures that the command line names, by default all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[*FIGURES, []], default=[], metavar="NAME")
    for name in parser.parse_args().names or FIGURES:
        png, pdf = plots.save(FIGURES[name](), RESULTS / name)
        pdf.unlink()
        print(png)


if __name__ == "__main__":
    main()
