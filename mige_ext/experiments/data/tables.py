"""The tables of the experiments: rows with inputs, a label and nuisances.

A nuisance is a column that a representation of the inputs should not reveal.

======= ============================================================ ==========================
name    rows and label                                               nuisances
======= ============================================================ ==========================
adult   32,561 people of a census (UCI); income above $50,000        age, sex, race
compas  7,214 defendants (ProPublica); recidivism within two years   race, age
crime   1,993 communities (UCI); violent crimes above the median     racepctblack, racePctHisp
health  171,067 years of members of a health plan; comorbidity       age_group, sex
======= ============================================================ ==========================

The nuisances of ``crime`` are the fractions of Black and of Hispanic residents. With UCI's files of
``adult``, the 16,281 rows of ``adult.test`` are the test part.

Numbers are standardized with the moments of the training rows. Categories are one-hot encoded.
Nuisances are inputs too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mige_ext.experiments.data.parts import checksum, stratified_split
from mige_ext.experiments.data.table_files import TABLES, PublishedTable, Rows, load_rows

#: Fractions of the training and validation rows, if there is no official test part.
TRAIN_FRACTION, VALIDATION_FRACTION = 0.6, 0.15
#: Fraction of the official training rows for validation, if there is an official test part.
_HELD_OUT = 0.2


@dataclass(frozen=True)
class TablePart:
    """Rows of a table."""

    x: Tensor  # (N, inputs) float32
    labels: Tensor  # (N,) int64
    nuisances: Mapping[str, Tensor]  # (N,) each, standardized float32, or int64 if categorical

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.x)

    def to(self, device: torch.device | str) -> "TablePart":
        """Copy to a device."""
        nuisances = {name: column.to(device) for name, column in self.nuisances.items()}
        return TablePart(self.x.to(device), self.labels.to(device), nuisances)


@dataclass(frozen=True)
class TableData:
    """A labeled table in three parts."""

    name: str
    train: TablePart  # for gradients
    validation: TablePart  # for the choice of settings
    test: TablePart  # read once, at the end
    inputs: tuple[str, ...]  # name of each input column
    categories: Mapping[str, tuple[str, ...]]  # values of each categorical nuisance
    classes: int = 2

    def checksum(self) -> str:
        """CRC-32 of all parts, to detect rows of other files."""
        return checksum(
            tensor
            for part in (self.train, self.validation, self.test)
            for tensor in (part.x, part.labels, *part.nuisances.values())
        )

    def to(self, device: torch.device | str) -> "TableData":
        """Copy to a device."""
        parts = {part: getattr(self, part).to(device) for part in ("train", "validation", "test")}
        return replace(self, **parts)


def names() -> list[str]:
    """The names of all tables."""
    return sorted(TABLES)


def load(name: str, data_dir: Path | None = None) -> TableData:
    """Load a table by name.

    Args:
        name: one of :func:`names`.
        data_dir: folder with the official files. Without this folder, the table comes from the
            cache or from a package (:mod:`~mige_ext.experiments.data.table_files`).

    Returns:
        The table with its fixed split.

    Raises:
        ValueError: the name is unknown, or files are damaged.
        OSError: ``data_dir`` is not a folder, or the files are not found.
    """
    if name not in names():
        raise ValueError(f"--data must be one of {', '.join(names())}, got {name!r}")
    if data_dir is not None and not data_dir.is_dir():
        raise NotADirectoryError(f"--data-dir must be an existing folder, got {data_dir}")
    return encode(TABLES[name], load_rows(TABLES[name], data_dir))


def encode(table: PublishedTable, files: Sequence[Rows]) -> TableData:
    """Turn the rows of a table into numbers, and divide them.

    Args:
        table: the table.
        files: the rows of each file. The second file, if there is one, is the official test part.

    Returns:
        The table with a split that is stratified by the label, with seed 0.

    Raises:
        ValueError: a value is not a number, or the label has one value only.
    """
    rows = [row for file in files for row in file]
    columns = {name: [row[at] for row in rows] for at, name in enumerate(table.columns)}
    labels = _labels(table, columns[table.label])
    if len(np.unique(labels)) < 2:
        raise ValueError(f"{table.name} must have rows with and without {table.positive!r}")
    parts = _split(labels, [len(file) for file in files])
    numbers = {name: _numbers(name, columns[name]) for name in table.numbers}
    scaled = {name: _standardized(column, parts[0]) for name, column in numbers.items()}
    inputs, input_names = list(scaled.values()), list(scaled)
    nuisances = {name: scaled[name] for name in table.nuisances if name in scaled}
    categories = {}
    for name in table.categories:
        values, index = np.unique(columns[name], return_inverse=True)
        inputs += [(index == i).astype(np.float32) for i in range(len(values))]
        input_names += [f"{name}={value}" for value in values]
        if name in table.nuisances:
            nuisances[name] = index.astype(np.int64)
            categories[name] = tuple(values.tolist())
    x = np.stack(inputs, 1)
    train, validation, test = (
        TablePart(
            torch.from_numpy(x[part]),
            torch.from_numpy(labels[part]),
            {name: torch.from_numpy(nuisances[name][part]) for name in table.nuisances},
        )
        for part in parts
    )
    return TableData(table.name, train, validation, test, tuple(input_names), categories)


def _labels(table: PublishedTable, values: Sequence[str]) -> np.ndarray:
    """The class (N,) int64 of each row."""
    if table.threshold is not None:
        return (_numbers(table.label, values) > table.threshold).astype(np.int64)
    # UCI's test rows have a full stop after the label.
    return np.array([value.removesuffix(".") == table.positive for value in values], np.int64)


def _split(labels: np.ndarray, sizes: Sequence[int]) -> list[list[int]]:
    """Row numbers of the training, validation and test parts."""
    if len(sizes) == 1:
        train, validation = (
            round(fraction * len(labels)) for fraction in (TRAIN_FRACTION, VALIDATION_FRACTION)
        )
        return stratified_split(
            labels.tolist(), (train, validation, len(labels) - train - validation), seed=0
        )
    validation = round(_HELD_OUT * sizes[0])
    parts = stratified_split(labels[: sizes[0]].tolist(), (sizes[0] - validation, validation), 0)
    return [*parts, list(range(sizes[0], len(labels)))]


def _numbers(name: str, values: Sequence[str]) -> np.ndarray:
    try:
        return np.array(values, dtype=np.float64)
    except ValueError as error:
        raise ValueError(f"the column {name} must have numbers: {error}") from error


def _standardized(column: np.ndarray, train: Sequence[int]) -> np.ndarray:
    mean, deviation = column[train].mean(), column[train].std()
    return ((column - mean) / (deviation or 1)).astype(np.float32)
