"""The identity of a run, and the rows of the tables that belong to a run."""

import math
from dataclasses import fields
from typing import Any, ClassVar, NamedTuple


class Run(NamedTuple):
    """Identity of a run among all runs of an experiment."""

    method: str
    value: float  # β or learning rate, the searched setting; 0 for a method without a setting
    seed: int  # seed of weights, batches and noise
    images: int = 0  # number of training images; 0 if there is no option ``--retrain``


class Row:
    """A row of results.csv or metrics.csv: a dataclass with columns for the run.

    The last column is a time, which is NaN in the result of a diverged run.
    """

    #: Column of ``Run.value``.
    setting: ClassVar[str] = "beta"

    @property
    def run(self) -> Run:
        """The run that the row belongs to."""
        row: Any = self
        return Run(row.method, getattr(row, self.setting), row.seed, getattr(row, "images", 0))

    @property
    def diverged(self) -> bool:
        """Whether the run reached numbers that are not finite."""
        row: Any = self
        return math.isnan(getattr(row, fields(row)[-1].name))


def row_of(row_type: type[Any], run: Run, **known: Any) -> Any:
    """A row of a run with these values, and NaN in every other column."""
    known |= {row_type.setting: run.value, **run._asdict()}
    return row_type(**{item.name: known.get(item.name, math.nan) for item in fields(row_type)})
