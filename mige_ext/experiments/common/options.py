"""Options of the commands: dataclass fields, each with its default, its range and its help.

``option`` declares a field that is both an option of the command line and a checked attribute.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import Field, dataclass, field, fields, replace
from functools import partial
from inspect import Parameter
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

import typer

from mige_ext.experiments.data import images as data

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

AnyOptions = TypeVar("AnyOptions", bound="DataclassInstance")


def option(
    default: Any,
    help: str,
    *flags: str,
    least: float | None = None,
    positive: bool = False,
    below: float = math.inf,
    choices: Iterable[str] = (),
    shown: str | None = None,
    on_command_line: bool = True,
) -> Any:
    """A dataclass field that is also an option of the command line.

    Args:
        default: Value if the option is not given.
        help: Sentence for ``--help``.
        *flags: Names on the command line, if they differ from the name of the field.
        least: Smallest value.
        positive: Whether the value must be greater than 0.
        below: Number that the value must be below.
        choices: The values that are allowed.
        shown: Text in ``--help`` for a default that depends on other options.
        on_command_line: Whether the command has the option.

    Returns:
        A field of a dataclass that is a ``Checked``.
    """
    metadata = {
        "help": f"{help[:-1]}: {', '.join(choices)}." if choices else help,
        "flags": flags,
        "least": least,
        "positive": positive,
        "below": below,
        "choices": list(choices),
        "shown": shown or (default is not None and default is not False and str(default)),
        "on_command_line": on_command_line,
    }
    return field(default=default, metadata=metadata)


#: A setting that only Python can change.
fixed = partial(option, on_command_line=False)


@dataclass(frozen=True)
class Checked:
    """A dataclass of options, whose values are checked.

    Raises:
        ValueError: A value, or an item of a list, is out of range. The message has the field, the
            range and the value.
    """

    def __post_init__(self) -> None:
        """Check every field against its range."""
        for item in fields(self):
            value = getattr(self, item.name)
            for single in value if isinstance(value, list) else [value]:
                expected = _violated(item, single) if single is not None else None
                if expected:
                    raise ValueError(f"{item.name} must be {expected}, got {single!r}")


def _violated(item: "Field[Any]", value: Any) -> str | None:
    """Description of the allowed values, or None if the value is in range."""
    limits = item.metadata
    if limits["choices"]:
        return None if value in limits["choices"] else f"one of {limits['choices']}"
    if not isinstance(value, int | float):
        return None
    real = "finite and " if isinstance(value, float) else ""
    if limits["positive"] and not 0 < value < math.inf:
        return f"{real}positive"
    least, below = limits["least"], limits["below"]
    if least is not None and not least <= value < below:
        return f"{real}at least {least}" + (f" and below {below}" if below < math.inf else "")
    return None


def parameters(options_type: type["DataclassInstance"], panel: str) -> Iterator[Parameter]:
    """The parameters of a typer command that has the fields of a dataclass as options.

    Args:
        options_type: Dataclass whose fields are made by ``option``.
        panel: Heading of these options in ``--help``.
    """
    hints = get_type_hints(options_type)
    for item in fields(options_type):
        declared = item.metadata
        if not declared["on_command_line"]:
            continue
        info = typer.Option(
            None,
            *declared["flags"],
            help=declared["help"],
            min=declared["least"],
            show_default=declared["shown"],
            rich_help_panel=panel,
        )
        yield Parameter(
            item.name, Parameter.KEYWORD_ONLY, default=info, annotation=hints[item.name] | None
        )


def filled(options: AnyOptions, **defaults: Any) -> AnyOptions:
    """The options, with these values instead of None."""
    missing = {name: value for name, value in defaults.items() if getattr(options, name) is None}
    return replace(options, **missing)


@dataclass(frozen=True)
class Options(Checked):
    """Options of every experiment."""

    quick: bool = option(False, "Run a small version, which takes less than a minute.", "--quick")
    resume: bool = option(False, "Continue in --out, with the same settings.", "--resume")
    threads: int = option(
        None, "Number of CPU threads.", least=1, shown="1 for small networks, else all"
    )
    out: Path = option(None, "Folder of the results.", shown="runs/ and the name of the command")


def data_option(default: str, more: str = "", shown: str | None = None) -> Any:
    """The option of the image set. ``more`` names other data of the experiment."""
    return option(default, f"Data: {', '.join(data.names())}{more}.", shown=shown)


def method_option(methods: Iterable[str], quick: Iterable[str]) -> Any:
    """The option of the methods to compare. ``quick`` names the methods of ``--quick``."""
    sentence = f"Method to compare: {', '.join(methods)}. Give the option once for each method."
    return option(None, sentence, shown=f"all; --quick: {', '.join(quick)}")


def grid_option(setting: str, **limits: Any) -> Any:
    """The option of the grid of the setting that is searched."""
    sentence = f"Value of {setting} to try in every method. Give the option once for each value."
    return option(None, sentence, shown="the grid of each method", **limits)


def seeds_option(shown: str) -> Any:
    """The option of the number of seeds, whose default differs between experiments."""
    return option(None, "Seeds of the final runs, which are tested.", least=1, shown=shown)


@dataclass(frozen=True)
class ComparisonOptions(Options):
    """Options of an experiment that trains, chooses and tests methods."""

    method: list[str] = method_option((), ())
    seeds: int = seeds_option("3")
    grid_seeds: int = option(
        None, "Seeds per setting in the search.", least=1, shown="as many as --seeds"
    )
    device: str = option("auto", "Device to compute on: auto, cpu, cuda, or a GPU like cuda:1.")
    data_dir: Path = option(None, "Folder of the data files.", shown="the cache of downloads")


@dataclass(frozen=True)
class ImageOptions(ComparisonOptions):
    """Options of a comparison whose final runs may train on the validation images too."""

    retrain: int = option(
        None, "Epochs of a last training on training and validation images.", least=1, shown="none"
    )
