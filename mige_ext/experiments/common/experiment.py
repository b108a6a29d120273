"""The steps that the commands of all experiments have in common.

A command declares its options and returns an ``Experiment``. ``command`` turns the options into a
typer command, reports invalid options, opens the folder, runs the experiment, saves an interrupted
experiment, and prints the summary.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, fields
from inspect import Parameter, Signature
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import typer

from mige_ext.experiments.common.device import cpu_threads
from mige_ext.experiments.common.folder import DamagedError, locked, open_folder
from mige_ext.experiments.common.interrupted import exit_on_interrupt
from mige_ext.experiments.common.options import Options, filled, parameters

#: Line that every experiment prints under its table with ``--quick``.
QUICK_NOTE = "The small version shows that everything runs. Its numbers do not rank the methods."

AnyOptions = TypeVar("AnyOptions", bound=Options)


class Experiment(ABC):
    """The interface of an experiment that ``command`` uses.

    Args:
        options: Options that may change when the experiment is continued.
        settings: Dataclass of every value on which the numbers depend.
    """

    #: First line of the output with ``--quick``, which says what is smaller.
    quick_note: ClassVar[str]
    #: Name of the measured quantity, for the last line of the output.
    measured: ClassVar[str]
    #: The command to run next, for the last line of the output.
    following: ClassVar[str]
    #: Whether every result existed before this run, so that the run computed nothing.
    complete = True

    def __init__(self, options: Any, settings: Any) -> None:
        self.options, self.settings = options, settings

    def agreed(self) -> dict[str, Any]:
        """Values that must be the same when the experiment is continued."""
        return {**asdict(self.settings), "threads": self.options.threads}

    def about(self) -> dict[str, Any]:
        """Further values for config.json."""
        return {}

    @abstractmethod
    def open_tables(self) -> None:
        """Read the tables in the folder."""

    @abstractmethod
    def run(self) -> None:
        """Compute every result that the tables lack. Ctrl-C may interrupt this method."""

    @abstractmethod
    def save_interrupted(self) -> None:
        """Write the results of an unfinished experiment."""

    @abstractmethod
    def summary(self) -> str:
        """The conditions of the results, and their table."""

    @abstractmethod
    def save_figures(self) -> Sequence[Path]:
        """Draw the results, and return the files to print under the summary, tables first."""


def command(
    options_type: type[AnyOptions], settings_type: type[Any]
) -> Callable[[Callable[[AnyOptions, dict[str, Any]], Experiment]], Callable[..., None]]:
    """Turn a function that makes an experiment into a command.

    The arguments of the function are an ``options_type`` and a dictionary of the settings that the
    user gave. The name of the function is the name of the command, and the docstring is the help.

    Args:
        options_type: Dataclass of options that may change when the experiment is continued.
        settings_type: Dataclass of settings that must stay the same.

    Returns:
        A decorator. The command takes the fields of both dataclasses as keywords. The command
        raises typer.BadParameter for an invalid value, before anything is written, and typer.Exit
        with code 130 after Ctrl-C.
    """

    def decorate(make: Callable[[AnyOptions, dict[str, Any]], Experiment]) -> Callable[..., None]:
        def run(**values: Any) -> None:
            given = {name: value for name, value in values.items() if value is not None}
            own = {
                item.name: given.pop(item.name)
                for item in fields(options_type)
                if item.name in given
            }
            with ExitStack() as stack:
                try:
                    options = filled(options_type(**own), out=Path("runs") / make.__name__)
                    experiment = make(options, given)
                    options = experiment.options
                    about = {"command": make.__name__, **experiment.about()}
                    open_folder(options.out, experiment.agreed(), about, resume=options.resume)
                    stack.enter_context(locked(options.out))
                    experiment.open_tables()
                except (ValueError, ImportError, OSError, RuntimeError) as error:
                    raise typer.BadParameter(_named(str(error), declared)) from None
                if options.quick:
                    typer.echo(experiment.quick_note)
                try:
                    with (
                        cpu_threads(options.threads),
                        exit_on_interrupt(experiment.save_interrupted, options.out),
                    ):
                        experiment.run()
                except DamagedError as error:
                    raise typer.BadParameter(str(error)) from None
                if experiment.complete:
                    typer.echo(f"Nothing was computed, because {options.out} has every result.")
                files = "\n".join(map(str, experiment.save_figures()))
                quick, following = "", experiment.following
                if options.quick:
                    quick = f"\n\n{QUICK_NOTE}"
                    following = f"python -m mige_ext {make.__name__}"
                typer.echo(f"\n{experiment.summary()}{quick}\n\n{files}")
                typer.echo(f"{experiment.measured}: see {options.out}. Next: {following}.")

        declared = [*parameters(settings_type, "Settings"), *parameters(options_type, "Options")]
        run.__name__, run.__doc__ = make.__name__, make.__doc__
        run.__signature__ = Signature(declared)  # type: ignore[attr-defined]
        return run

    return decorate


def _named(message: str, declared: Sequence[Parameter]) -> str:
    """The message. If its first word names a parameter, the name of the option replaces it."""
    name, _, rest = message.partition(" ")
    if name in {parameter.name for parameter in declared}:
        return f"--{name.replace('_', '-')} {rest}"
    return message
