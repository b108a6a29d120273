"""The output of the benchmarks: tables, CSV files, and comparisons with bounds."""

import csv
from collections.abc import Sequence
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


class Bounds:
    """Measured values with bounds that must hold.

    Attributes:
        rows: Name, measured value, bound, and "ok" or "MISSED".
    """

    def __init__(self) -> None:
        self.rows: list[tuple[str, float, str, str]] = []

    def at_most(self, what: str, value: float, bound: float) -> None:
        """Add a value with an upper bound."""
        self.rows.append((what, value, f"<= {bound:g}", "ok" if value <= bound else "MISSED"))

    def at_least(self, what: str, value: float, bound: float) -> None:
        """Add a value with a lower bound."""
        self.rows.append((what, value, f">= {bound:g}", "ok" if value >= bound else "MISSED"))

    def report(self, *, markdown: bool = False) -> list[str]:
        """Print the table, if it has rows, and return the names of the missed bounds."""
        if self.rows:
            header = ("quantity", "measured", "bound", "result")
            print_table("Bounds", header, self.rows, markdown=markdown)
        return [row[0] for row in self.rows if row[3] != "ok"]


def print_table(
    title: str, header: Sequence[str], rows: Sequence[Sequence[object]], *, markdown: bool = False
) -> None:
    """Print a table in Markdown, or in columns of which the first is aligned to the left."""
    text = [[_cell(value) for value in row] for row in rows]
    if markdown:
        print(f"\n### {title}\n")
        for line in (list(header), ["---"] * len(header), *text):
            print(f"| {' | '.join(line)} |")
        return
    widths = [max(len(line[i]) for line in [list(header), *text]) for i in range(len(header))]
    print(f"\n{title}")
    for line in [list(header), *text]:
        cells = zip(line, widths, strict=True)
        print("  " + "  ".join(c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(cells)))


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Write a table, with six significant digits of floats."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for row in rows:
            writer.writerow([f"{v:.6g}" if isinstance(v, float) else v for v in row])
    print(f"  -> {path}")


def _cell(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
