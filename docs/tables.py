"""The directive ``pairs``, a table of ``pairs.csv``: features × features, for one function."""

import csv
from collections.abc import Sequence
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

PAIRS = Path(__file__).parent / "pairs.csv"


class Pairs(SphinxDirective):
    """The directive; the module describes it."""

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
    app.add_directive("pairs", Pairs)
    return {"parallel_read_safe": True}
