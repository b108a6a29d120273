"""Options that several benchmarks have: types of parameters, and the check of names."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated

import typer

Methods = Annotated[
    list[str] | None,
    typer.Option("--method", metavar="NAME", help="Method to run; repeatable. Default: all."),
]
Seeds = Annotated[int, typer.Option(min=1, help="Train each method with this many seeds.")]
Threads = Annotated[int, typer.Option(min=1, help="Use this many threads.")]
OptionalThreads = Annotated[
    int | None, typer.Option(min=1, help="Use this many CPU threads. Default: torch's number.")
]
Markdown = Annotated[bool, typer.Option("--markdown", help="Print the tables in Markdown.")]
Out = Annotated[
    Path, typer.Option(file_okay=False, help="Write the results, a CSV file, to this folder.")
]
ResumableOut = Annotated[
    Path,
    typer.Option(
        file_okay=False,
        help="Write the results, a CSV file and a figure, to this folder. Rows that the CSV file "
        "has are not computed again, so an interrupted benchmark continues.",
    ),
]
Save = Annotated[bool, typer.Option("--save", help="Use the folder benchmarks/results as --out.")]


def require_known(option: str, names: Sequence[str] | None, known: Collection[str]) -> None:
    """Raise ``typer.BadParameter`` if a name that was given to an option is not in ``known``."""
    for name in names or ():
        if name not in known:
            raise typer.BadParameter(f"{option}: there is no {name}; there are {', '.join(known)}")
