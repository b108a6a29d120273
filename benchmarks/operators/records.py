"""Results of the microbenchmarks: records, CSV files of records, and their comparison."""

import csv
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

RATIOS = ("x_published", "x_eager", "x_compiled", "x_library")


@dataclass(frozen=True)
class Record:
    """One operator at one size: the machine, the time, and the ratios to the baselines."""

    machine: str  # the processor, or the GPU
    device: str  # cpu or cuda
    threads: str  # "-" on CUDA
    torch: str  # version of torch
    operator: str
    size: str
    dtype: str
    ms: float  # median time of a call
    gflops: float  # counted flop / time
    gbs: float  # counted bytes / time
    roofline_percent: float
    x_published: float | None  # time of the published algorithm / ms
    x_eager: float | None
    x_compiled: float | None
    x_library: float | None
    library: str  # name of the library of x_library
    peak_gflops: float  # ceilings, measured in the same run
    peak_gbs: float

    def where(self) -> str:
        """The device "cuda", or the number of threads on the CPU."""
        if self.device != "cpu":
            return self.device
        return f"{self.threads} thread{'s' if self.threads != '1' else ''}"

    def group(self) -> tuple[str, str, str]:
        """The fields that comparable measurements have in common."""
        return self.machine, self.device, self.threads

    def key(self) -> tuple[str, ...]:
        """The fields that identify a measurement. The version of torch is not among them."""
        return (*self.group(), self.operator, self.size, self.dtype)


def slug(record: Record) -> str:
    """The machine as part of a file name, such as ``amd-epyc-2-threads``."""
    name = f"{record.machine} {record.where()}".lower()
    return re.sub(r"[^a-z0-9]+", "-", name).strip("-")


# --- CSV ------------------------------------------------------------------------------------------


def read(path: Path) -> list[Record]:
    """The records in a file that :func:`merge` wrote."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    missing = {field.name for field in fields(Record)} - set(rows[0] if rows else ())
    if missing:
        columns = ", ".join(sorted(missing))
        raise ValueError(f"{path} must be a file of microbenchmarks, got no column {columns}")
    return [
        Record(**{field.name: _parse(field.type, row[field.name]) for field in fields(Record)})
        for row in rows
    ]


def merge(path: Path, records: Sequence[Record]) -> list[Record]:
    """Add records to a file, replace records with the same key, and return all records."""
    merged = {record.key(): record for record in read(path)} if path.exists() else {}
    merged.update({record.key(): record for record in records})
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")  # keeps the old file if the disk is full
    with temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([field.name for field in fields(Record)])
        for record in merged.values():
            writer.writerow(_text(value) for value in asdict(record).values())
    temporary.replace(path)
    return list(merged.values())


def _parse(kind: object, text: str) -> Any:
    if kind is str:
        return text
    return float(text) if text else None


def _text(value: str | float | None) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else value


# --- comparison -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """A record and the stored record with the same key."""

    now: Record
    stored: Record
    tolerance: float  # percent

    @property
    def ratio(self) -> float:
        """Time now / time stored."""
        return self.now.ms / self.stored.ms

    @property
    def slower(self) -> bool:
        """Whether the slowdown exceeds the tolerance."""
        return self.ratio > 1 + self.tolerance / 100


def compare(
    records: Sequence[Record], stored: Sequence[Record], tolerance: float
) -> list[Comparison]:
    """Pairs of a record and the stored record with the same key."""
    by_key = {record.key(): record for record in stored}
    return [
        Comparison(record, by_key[record.key()], tolerance)
        for record in records
        if record.key() in by_key
    ]
