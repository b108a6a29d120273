"""Tables for the terminal."""

import math
from collections.abc import Sequence
from itertools import zip_longest


def format_columns(
    heads: Sequence[str], rows: Sequence[Sequence[str]], *, left: Sequence[int] = (0,)
) -> str:
    """Align cells in columns that are two spaces apart.

    Args:
        heads: Heading of each column. A heading may have several lines.
        rows: Cells of each row, from the left. A cell beyond the last column is a note.
        left: Columns that are aligned to the left.

    Returns:
        The table.
    """
    stacks = [head.split("\n") for head in heads]
    height = max(map(len, stacks))
    above = zip(*([""] * (height - len(stack)) + stack for stack in stacks), strict=True)
    lines = [*above, *rows]
    columns = list(zip_longest(*lines, fillvalue=""))[: len(heads)]
    widths = [max(map(len, column)) for column in columns]

    def aligned(at: int, cell: str) -> str:
        if at >= len(heads):
            return cell
        return cell.ljust(widths[at]) if at in left else cell.rjust(widths[at])

    return "\n".join(
        "  ".join(aligned(at, cell) for at, cell in enumerate(line)).rstrip() for line in lines
    )


def format_number(value: float | None, spec: str) -> str:
    """A number in this format; "–" for None and NaN, "∞" for infinity."""
    if value is None or math.isnan(value):
        return "–"
    return "∞" if math.isinf(value) else format(value, spec)
