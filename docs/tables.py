"""The directives ``accuracy`` and ``pairs``, which are tables of files.

``accuracy`` is a table of ``benchmarks/results/accuracy.csv``:

    ```{accuracy} ratio
    :samples: 256
    ```

``ratio`` gives a line for each estimator: the NMSE of its scores relative to that of the best
setting in hindsight, as the geometric mean over the densities and the worst density, for every M.
Any other column of the file gives a line for each density, for one M. The table has only rows of
the file.

``pairs`` is a table of ``pairs.csv``, features × features, for one kind of function:

    ```{pairs} scores
    ```
"""

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results" / "accuracy.csv"
PAIRS = Path(__file__).parent / "pairs.csv"
#: Rows that nobody can choose: settings in hindsight, and a part of an estimator.
HIDDEN = ("oracle", "best ", "Gaussian part")

Rows = list[dict[str, str]]


def load() -> Rows:
    """Reads the rows of the estimators that a user can choose."""
    with RESULTS.open(newline="") as file:
        return [row for row in csv.DictReader(file) if not row["estimator"].startswith(HIDDEN)]


def summary(rows: Rows) -> list[list[str]]:
    """The table of ``ratio``: estimators × M."""
    samples = sorted({int(row["samples"]) for row in rows})
    lines = [["score error / that of the best setting", *(f"M = {m}" for m in samples)]]
    for name in dict.fromkeys(row["estimator"] for row in rows):
        line = [name]
        for m in samples:
            ratios = [
                float(row["ratio"])
                for row in rows
                if row["estimator"] == name and int(row["samples"]) == m
            ]
            mean = math.exp(sum(map(math.log, ratios)) / len(ratios)) if ratios else math.nan
            line.append(f"{mean:.2f} (worst {max(ratios):.1f})" if ratios else "–")
        lines.append(line)
    return lines


def densities(rows: Rows, column: str, samples: int) -> list[list[str]]:
    """The table of another column for one M: densities × estimators."""
    here = [row for row in rows if int(row["samples"]) == samples and row[column]]
    values = {(row["family"], row["estimator"]): float(row[column]) for row in here}
    names = list(dict.fromkeys(row["estimator"] for row in here))
    lines = [["density", *names]]
    for density in dict.fromkeys(row["family"] for row in here):
        found = [values.get((density, name), math.nan) for name in names]
        lines.append([density, *("–" if math.isnan(v) else f"{v:.3f}" for v in found)])
    return lines


class Accuracy(SphinxDirective):
    """The directive; the module describes it."""

    required_arguments = 1
    option_spec: ClassVar = {"samples": directives.positive_int}

    def run(self) -> list[nodes.Node]:
        """Makes the table."""
        self.env.note_dependency(str(RESULTS))
        rows = load()
        (column,) = self.arguments
        if column == "ratio":
            return [table(summary(rows))]
        return [table(densities(rows, column, self.options["samples"]))]


class Pairs(SphinxDirective):
    """The directive of features in pairs; the module describes it."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        """Makes the table."""
        self.env.note_dependency(str(PAIRS))
        with PAIRS.open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["function"] == self.arguments[0]]
        return [table(triangle({(row["first"], row["second"]): row["outcome"] for row in rows}))]


def triangle(outcomes: dict[tuple[str, str], str]) -> list[list[str]]:
    """The lower triangle of the table of pairs. Its columns have the numbers of the features."""
    features = list(dict.fromkeys(first for first, _ in outcomes))
    lines = [["", *(str(number + 1) for number in range(len(features)))]]
    for number, row in enumerate(features):
        cells = [outcomes.get((column, row), "–") for column in features[: number + 1]]
        lines.append([f"{number + 1} {row}", *cells, *[""] * (len(features) - len(cells))])
    return lines


def table(lines: Sequence[Sequence[str]]) -> nodes.table:
    """A table of lines of cells. The first line is the header."""
    group = nodes.tgroup("", cols=len(lines[0]))
    group += [nodes.colspec(colwidth=1) for _ in lines[0]]
    header, *body = [
        nodes.row("", *(nodes.entry("", nodes.paragraph("", cell)) for cell in line))
        for line in lines
    ]
    group += [nodes.thead("", header), nodes.tbody("", *body)]
    return nodes.table("", group)


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the directive."""
    app.add_directive("accuracy", Accuracy)
    app.add_directive("pairs", Pairs)
    return {"parallel_read_safe": True}
