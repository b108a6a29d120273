"""The files of an interrupted experiment.

Ctrl-C ends a command with exit status 130. The folder then contains:

* ``config.json``, the settings, written at the start;
* ``results.csv``, the results of every finished run;
* ``metrics.csv``, a row for every whole epoch, also of the stopped run;
* ``checkpoint.pt``, the state of the stopped run after its last whole epoch (``checkpoint.py``);
* ``models/``, the weights of every finished run and of the stopped run;
* the figures, drawn from the rows of the tables so far.

If the process is killed, the figures and the weights of the stopped run are missing. ``--resume``
always continues from the checkpoint to bitwise the same numbers.

The toy experiment has ``config.json``, ``toy.csv`` and the figure. The table is saved after each
pair of a dimension and a method, and ``--resume`` computes the pairs that the table lacks.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import typer


@contextmanager
def exit_on_interrupt(save: Callable[[], object], folder: Path) -> Iterator[None]:
    """Turn Ctrl-C into a saved folder, a message and exit status 130.

    Args:
        save: A function that writes the results of an unfinished experiment.
        folder: Folder of the results, which the message names.

    Raises:
        typer.Exit: Ctrl-C was pressed; the exit code is 130.
    """
    try:
        yield
    except KeyboardInterrupt:
        save()
        typer.echo(
            f"Stopped. {folder} has the results so far and the figures. --resume continues.",
            err=True,
        )
        raise typer.Exit(130) from None
