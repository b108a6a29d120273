"""What experiments share: tables, folders that can be continued, the choice of a setting."""

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, get_type_hints

import numpy as np
import torch

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Row = TypeVar("Row", bound="DataclassInstance")
AnyRun = TypeVar("AnyRun")


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A path to write to that takes the place of ``path`` at the end, or vanishes at an error.

    A reader sees all of the old file or all of the new one, even where the writer is killed.
    """
    draft = path.with_name(f".{path.name}.tmp")
    try:
        yield draft
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


class Table(Generic[Row]):
    """A CSV file of dataclass rows whose fields are str, int or float; NaN is an empty cell.

    A last line without an end is the trace of a killed writer, and is dropped.

    Args:
        path: the file; the rows that it holds already are read.
        row_type: the dataclass; its fields are the columns.

    Raises:
        ValueError: the file has other columns.
    """

    def __init__(self, path: Path, row_type: type[Row]) -> None:
        self.path = path
        self.columns = [field.name for field in fields(row_type)]
        self.rows: list[Row] = []
        if not path.exists():
            return
        types = get_type_hints(row_type)
        text = path.read_text()
        whole = text[: text.rfind("\n") + 1]
        header, *lines = csv.reader(io.StringIO(whole, newline=""))
        if header != self.columns:
            raise ValueError(f"{path} must have the columns {self.columns}, got {header}")
        for line in lines:
            row = {}
            for name, cell in zip(self.columns, line, strict=True):
                row[name] = math.nan if types[name] is float and not cell else types[name](cell)
            self.rows.append(row_type(**row))
        if whole != text:
            self.replace(self.rows)

    def append(self, rows: Iterable[Row]) -> None:
        """Add rows at the end of the file."""
        rows = list(rows)
        header = [] if self.path.exists() else [self.columns]
        with self.path.open("a", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([*header, *map(_cells, rows)])
        self.rows += rows

    def replace(self, rows: Iterable[Row]) -> None:
        """Put rows in place of all."""
        self.rows = list(rows)
        with atomic(self.path) as draft, draft.open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([self.columns, *map(_cells, self.rows)])


def _cells(row: "DataclassInstance") -> list[Any]:
    return ["" if value != value else value for value in asdict(row).values()]  # NaN != NaN


def open_folder(
    path: Path, settings: Mapping[str, Any], about: Mapping[str, Any], *, resume: bool
) -> None:
    """Make the folder of an experiment, or open it again to continue.

    Writes config.json, ``{"settings": settings, **about}``.

    Args:
        path: the folder.
        settings: what has to agree for results to be comparable; JSON values.
        about: what may differ when the experiment is continued.
        resume: whether the folder may hold results already.

    Raises:
        ValueError: the folder holds results, and ``resume`` is not given, or they were made with
            other settings.
    """
    config = path / "config.json"
    if config.exists() and not resume:
        raise ValueError(
            f"--out must be a folder without results, got {path}: continue there with --resume, "
            "or choose another"
        )
    if config.exists():
        earlier = json.loads(config.read_text())["settings"]
        differing = [
            f"{name} is {settings.get(name)!r} now and was {earlier.get(name)!r}"
            for name in dict.fromkeys([*settings, *earlier])
            if settings.get(name) != earlier.get(name)
        ]
        if differing:
            raise ValueError(
                f"--resume must have the settings of the runs in {path}: {'; '.join(differing)}"
            )
    path.mkdir(parents=True, exist_ok=True)
    with atomic(config) as draft:
        draft.write_text(json.dumps({"settings": settings, **about}, indent=2) + "\n")


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean and its standard error; the latter is NaN for a single value."""
    error = np.std(values, ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return float(np.mean(values)), float(error)


def sound_settings(rows: Sequence[Any], setting: str) -> list[float]:
    """The values of a column for which no run diverged; the smallest alone where there is none.

    Args:
        rows: results of one method.
        setting: the column.
    """
    values = sorted({getattr(row, setting) for row in rows})
    diverged = {getattr(row, setting) for row in rows if row.diverged}
    return [value for value in values if value not in diverged] or values[:1]


def told_of_divergence(rows: Sequence[Any]) -> str:
    """What a line of a table ends with, where some of its runs diverged."""
    number = sum(row.diverged for row in rows)
    return f"  {number} of {len(rows)} diverged" if number else ""


def one_standard_error_rule(errors: Mapping[float, Sequence[float]]) -> float:
    """Choose the strongest regularisation that does no measurable harm (Breiman et al., 1984).

    Args:
        errors: strength of the regularisation to validation errors over seeds.

    Returns:
        The largest strength whose mean error is within one standard error of the least mean. With
        one seed there is no standard error: the largest strength with the least error.
    """
    summary = {strength: mean_and_error(values) for strength, values in errors.items()}
    least, error = min(summary.values())
    limit = least if math.isnan(error) else least + error
    return max(strength for strength, (mean, _) in summary.items() if mean <= limit)


def run_of(row: "DataclassInstance", run_type: type[AnyRun]) -> AnyRun:
    """The run that a row of a table belongs to.

    Args:
        row: its first columns say which run.
        run_type: a named tuple of these columns.

    Returns:
        The run.
    """
    names: Sequence[str] = run_type._fields  # type: ignore[attr-defined]
    return run_type(*(getattr(row, name) for name in names))


@contextmanager
def cpu_threads(number: int) -> Iterator[None]:
    """Compute with this many threads for a while.

    Small networks are fastest with one; with two, one that waits for the other while a third
    program runs made the toy seven times slower.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def device_of(name: str) -> torch.device:
    """What the option ``--device`` names: "auto" is the GPU where there is one.

    Raises:
        ValueError: none of auto, cpu and cuda, or a GPU that this torch does not have.
    """
    available = torch.cuda.is_available()
    if name == "auto":
        return torch.device("cuda" if available else "cpu")
    if name.split(":")[0] not in ("cpu", "cuda"):
        raise ValueError(f"--device must be auto, cpu or cuda, got {name!r}")
    if name.startswith("cuda") and not available:
        raise ValueError(f"--device {name}: this torch has no GPU to compute on")
    return torch.device(name)
