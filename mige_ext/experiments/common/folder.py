"""The folder of an experiment: settings in config.json, and tables in CSV files.

A file is either extended line by line or replaced as a whole, so that ``--resume`` works even if
the process was killed.
"""

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, get_type_hints

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Row = TypeVar("Row", bound="DataclassInstance")


class DamagedError(ValueError):
    """A file of the folder cannot be read. The message says what to do."""


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes from writing to a folder, where the system can lock folders.

    Raises:
        ValueError: Another process writes to the folder.
    """
    try:
        import fcntl
    except ImportError:  # not on Windows
        yield
        return
    folder = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"--out must be a folder that no other process uses, got {path}: wait for the "
                "other run, or choose another folder"
            ) from None
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(folder)  # releases the lock


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Write a file as a whole: the context gives the path of a draft, which then replaces ``path``.

    A reader always sees either the old file or the new file, even if the writer is killed. After an
    error the old file remains.
    """
    draft = path.with_name(f".{path.name}.tmp")
    try:
        yield draft
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


class Table(Generic[Row]):
    """A CSV file of dataclass rows whose fields are str, int or float; NaN is an empty cell.

    If a writer is killed, the last line may be incomplete. Such a line is dropped.

    Args:
        path: File. Its rows are read if it exists.
        row_type: Dataclass whose fields are the columns.

    Raises:
        ValueError: The file has other columns.
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
        header, *lines = csv.reader(io.StringIO(whole, newline="")) if whole else [self.columns]
        if header != self.columns:
            raise ValueError(f"{path} must have the columns {self.columns}, got {header}")
        for number, line in enumerate(lines, 2):
            row = {}
            try:
                for name, cell in zip(self.columns, line, strict=True):
                    row[name] = math.nan if types[name] is float and not cell else types[name](cell)
            except ValueError:
                raise DamagedError(
                    f"line {number} of {path} is damaged: delete the line. Got {line}"
                ) from None
            self.rows.append(row_type(**row))
        if whole != text or not whole:
            self.replace(self.rows)

    def append(self, rows: Iterable[Row]) -> None:
        """Add rows at the end of the file. Several rows are added together or not at all."""
        rows = list(rows)
        if len(rows) != 1:
            self.replace([*self.rows, *rows])
            return
        header = [] if self.path.exists() else [self.columns]
        with self.path.open("a", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([*header, *map(_cells, rows)])
        self.rows += rows

    def replace(self, rows: Iterable[Row]) -> None:
        """Replace all rows."""
        self.rows = list(rows)
        with atomic(self.path) as draft, draft.open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([self.columns, *map(_cells, self.rows)])


def _read_config(path: Path) -> dict[str, Any]:
    try:
        recorded: dict[str, Any] = json.loads(path.read_text())
        recorded["settings"].items()
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DamagedError(
            f"--resume needs the settings of the results, and {path} is damaged: choose another "
            "folder with --out"
        ) from None
    return recorded


def _cells(row: "DataclassInstance") -> list[Any]:
    return ["" if value != value else value for value in asdict(row).values()]  # NaN != NaN


def open_folder(
    path: Path, settings: Mapping[str, Any], about: Mapping[str, Any], *, resume: bool
) -> None:
    """Create the folder of an experiment, or open it to continue.

    The function writes config.json, ``{"settings": settings, **about}``.

    Args:
        path: Folder.
        settings: Values on which the numbers depend, as JSON. Results in the folder must have the
            same settings.
        about: Further values, as JSON. ``command``, the name of the experiment, must be the one of
            the results in the folder. Other values may differ.
        resume: Whether to continue with the results in the folder.

    Raises:
        ValueError: The path cannot be a folder; the folder has results and ``resume`` is False; the
            folder has no results and ``resume`` is True; the results in the folder are of another
            command or have other settings; or the folder cannot be written.
    """
    for part in (path, *path.parents):
        if part.exists() and not part.is_dir():
            raise ValueError(f"--out must be a folder, got {path}: {part} is a file")
    config = path / "config.json"
    if resume and not config.exists():
        raise ValueError(
            f"--resume needs a folder with results, and {path} has none: leave --resume out, or "
            "name the folder with --out"
        )
    if config.exists() and not resume:
        raise ValueError(
            f"--out must be a folder without results, got {path}: continue there with --resume, "
            "or choose another folder"
        )
    if config.exists():
        recorded = _read_config(config)
        now, before = about.get("command"), recorded.get("command")
        if before not in (None, now):
            raise ValueError(
                f"--resume needs a folder with results of {now}, but {path} has results of {before}"
            )
        earlier = recorded["settings"]
        differing = [
            f"{name} is {settings.get(name)!r} now and was {earlier.get(name)!r}"
            for name in dict.fromkeys([*settings, *earlier])
            if settings.get(name) != earlier.get(name)
        ]
        if differing:
            raise ValueError(
                f"--resume must have the settings of the runs in {path}: {'; '.join(differing)}"
            )
    try:
        path.mkdir(parents=True, exist_ok=True)
        with atomic(config) as draft:
            draft.write_text(json.dumps({"settings": settings, **about}, indent=2) + "\n")
    except OSError as error:
        raise ValueError(
            f"--out must be a folder that can be written, got {path}: {error.strerror}"
        ) from None
