"""The command ``demo``: the four experiments in small, one after the other."""

from pathlib import Path
from typing import Annotated

import typer

from mige_ext.experiments.bottleneck.command import bottleneck
from mige_ext.experiments.infomax.command import infomax
from mige_ext.experiments.removal.command import removal
from mige_ext.experiments.toy.command import toy

#: Each experiment, with the figure that shows its result.
EXPERIMENTS = {
    toy: "toy.png: I and dI/dρ of Gaussians, by MIGE and by critics",
    infomax: "infomax.png: encoders without labels, and what probes find in them",
    bottleneck: "bottleneck.png: classifiers that forget their input",
    removal: "removal.png: classifiers that forget a nuisance",
}


def demo(
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("runs/demo"),
) -> None:
    """Run the small version of all four experiments, which takes about a minute.

    A demo that was stopped continues, and a finished one prints its tables again.
    """
    for number, experiment in enumerate(EXPERIMENTS, 1):
        name, folder = experiment.__name__, out / experiment.__name__
        typer.echo(f"\n{number} of {len(EXPERIMENTS)}: python -m mige_ext {name} --quick")
        try:
            experiment(quick=True, out=folder, resume=(folder / "config.json").exists())
        except typer.Exit:  # Ctrl-C, and the experiment has said so
            typer.echo("The demo continues if you run it again.", err=True)
            raise
    typer.echo("\nThe figures, of runs that are too short to rank the methods:")
    for experiment, figure in EXPERIMENTS.items():
        typer.echo(f"  {out / experiment.__name__}/{figure}")
