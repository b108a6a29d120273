"""The command ``python -m benchmarks operators``."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from benchmarks.operators.run import OPERATORS, Options, run
from benchmarks.options import Markdown, OptionalThreads


def operators(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="OPERATOR", help=f"Operators to measure: {', '.join(OPERATORS)}."),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Measure every operator.")] = False,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="Measure on this device.")] = "cpu",
    dtype: Annotated[
        Literal["float32", "float64"], typer.Option(help="Compute in this dtype.")
    ] = "float32",
    threads: OptionalThreads = None,
    seconds: Annotated[
        float,
        typer.Option(min=0, help="Measure for this long at each size, and at least five rounds."),
    ] = 1.0,
    no_compile: Annotated[
        bool, typer.Option("--no-compile", help="Leave out the baseline under torch.compile.")
    ] = False,
    markdown: Markdown = False,
    csv: Annotated[
        Path | None,
        typer.Option(
            help="File of the results. Rows of other machines, operators and sizes are kept."
        ),
    ] = None,
    figure: Annotated[Path | None, typer.Option(help="Draw the roofline to this file.")] = None,
    save: Annotated[
        bool,
        typer.Option(
            "--save",
            help="Write operators-<machine>.csv to benchmarks/results, and roofline-<machine>.png "
            "with all operators of the CSV file.",
        ),
    ] = False,
    compare: Annotated[
        Path | None,
        typer.Option(
            help="Compare with rows of the same machine in this CSV file. The exit status is 1 if "
            "an operator became slower, and 2 if the file has no such row."
        ),
    ] = None,
    tolerance: Annotated[
        float,
        typer.Option(min=0, help="Largest slowdown in percent that does not count as slower."),
    ] = 25.0,
) -> None:
    """Measure single operators and their baselines.

    The tables also compare each operator with the roofline of this machine.
    """
    if every == bool(names):
        raise typer.BadParameter(f"name operators or give --all; there are {', '.join(OPERATORS)}")
    for name in names or ():
        if name not in OPERATORS:
            raise typer.BadParameter(
                f"there is no operator {name}; there are {', '.join(OPERATORS)}"
            )
    try:
        options = Options(
            device=device, dtype=dtype, threads=threads, seconds=seconds, compiled=not no_compile,
            markdown=markdown, csv=csv, figure=figure, save=save, compare=compare,
            tolerance=tolerance,
        )  # fmt: skip
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if status := run(list(OPERATORS) if every else names or [], options):
        raise typer.Exit(status)
