"""The command ``demo``: the small versions of the four experiments, one after another."""

from pathlib import Path
from typing import Annotated

import typer

from mige_ext.experiments.bottleneck.command import bottleneck
from mige_ext.experiments.infomax.command import infomax
from mige_ext.experiments.removal.command import removal
from mige_ext.experiments.toy.command import toy

#: Each experiment, with its figure and a description of the figure.
EXPERIMENTS = {
    toy: "toy.png: I and dI/dρ of Gaussians, by MIGE and by critics",
    infomax: "infomax.png: accuracy of probes on encoders that were trained without labels",
    bottleneck: "bottleneck.png: error of classifiers against information about the input",
    removal: "removal.png: error of classifiers against information about a nuisance",
}


def demo(
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("runs/demo"),
) -> None:
    """Run the small version of all four experiments, which takes about a minute.

    A stopped demo continues, and a finished demo prints its tables again.
    """
    for number, experiment in enumerate(EXPERIMENTS, 1):
        name, folder = experiment.__name__, out / experiment.__name__
        typer.echo(f"\n{number} of {len(EXPERIMENTS)}: python -m mige_ext {name} --quick")
        try:
            experiment(quick=True, out=folder, resume=(folder / "config.json").exists())
        except typer.Exit:  # after Ctrl-C, when the experiment has printed its own message
            typer.echo("The demo continues if you run it again.", err=True)
            raise
    typer.echo("\nThe figures (the runs are too short to rank the methods):")
    for experiment, figure in EXPERIMENTS.items():
        typer.echo(f"  {out / experiment.__name__}/{figure}")
