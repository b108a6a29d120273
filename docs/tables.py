"""The directive ``accuracy``: a table of ``benchmarks/results/accuracy.csv``.

    ```{accuracy} ratio
    :samples: 256
    ```

``ratio`` is one line an estimator: the error of its scores relative to that of the best setting in
hindsight, geometric mean over the families and the worst, for every M. Any other column of the file
is one line a family, for one M. What the file does not have is not in the table.
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
#: What the file has of a hindsight that nobody has, or of a part of an estimator.
HIDDEN = ("oracle", "best ", "Gaussian part")

Rows = list[dict[str, str]]


def load() -> Rows:
    """The rows of estimators that one can choose."""
    with RESULTS.open(newline="") as file:
        return [row for row in csv.DictReader(file) if not row["estimator"].startswith(HIDDEN)]


def summary(rows: Rows) -> list[list[str]]:
    """Estimators × M: geometric mean and worst ratio."""
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


def families(rows: Rows, column: str, samples: int) -> list[list[str]]:
    """Families × estimators: one column, where it is defined."""
    here = [row for row in rows if int(row["samples"]) == samples and row[column]]
    values = {(row["family"], row["estimator"]): float(row[column]) for row in here}
    names = list(dict.fromkeys(row["estimator"] for row in here))
    lines = [["family", *names]]
    for family in dict.fromkeys(row["family"] for row in here):
        found = [values.get((family, name), math.nan) for name in names]
        lines.append([family, *("–" if math.isnan(v) else f"{v:.3f}" for v in found)])
    return lines


class Accuracy(SphinxDirective):
    """See the module."""

    required_arguments = 1
    option_spec: ClassVar = {"samples": directives.positive_int}

    def run(self) -> list[nodes.Node]:
        """The table."""
        self.env.note_dependency(str(RESULTS))
        rows = load()
        (column,) = self.arguments
        if column == "ratio":
            return [table(summary(rows))]
        return [table(families(rows, column, self.options["samples"]))]


def table(lines: Sequence[Sequence[str]]) -> nodes.table:
    """Lines of cells, the first of them the header."""
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
    return {"parallel_read_safe": True}
