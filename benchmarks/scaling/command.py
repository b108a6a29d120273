"""The command ``python -m benchmarks scaling``."""

from pathlib import Path
from typing import Annotated, Literal

import torch
import typer

from benchmarks.machine import machine
from benchmarks.options import OptionalThreads
from benchmarks.scaling.cost import cost
from benchmarks.scaling.landmarks import error
from benchmarks.tables import RESULTS
from mige_ext.experiments.common.device import cpu_threads


def scaling(
    quick: Annotated[
        bool, typer.Option("--quick", help="Measure smaller sizes, in about two minutes.")
    ] = False,
    threads: OptionalThreads = None,
    seconds: Annotated[
        float,
        typer.Option(
            min=0,
            help="Longest time in seconds for the scores of one estimator with growing M.",
        ),
    ] = 240.0,
    only: Annotated[
        Literal["cost", "error"] | None, typer.Option(help="Run only one of the two studies.")
    ] = None,
    out: Annotated[
        Path,
        typer.Option(show_default="benchmarks/results", help="Folder of the tables and figures."),
    ] = RESULTS,
) -> None:
    """Measure cost and error of scores for growing sizes.

    The cost is the time and the peak memory of one score, by SSGE with all samples and by
    landmarks. The results are scaling.csv and scaling.png. The figure has the exponents p of
    cost ~ size^p.

    The error is measured for m landmarks and for m samples alone, relative to SSGE with all samples
    and relative to the true score. The results are landmarks.csv and landmarks.png.
    """
    with cpu_threads(threads or torch.get_num_threads()):
        print(f"{machine()}; threads: {torch.get_num_threads()}")
        if only != "error":
            cost(out, quick, seconds)
        if only != "cost":
            error(out, quick)
