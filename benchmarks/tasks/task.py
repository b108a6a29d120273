"""A task: something to train, the methods that train it, and a measure of the result."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

#: Methods that every task has, by their names in the table.
DEFAULT, CONTROL = "default", "Gaussian"


@dataclass(frozen=True)
class Task:
    """One task of the benchmark.

    Attributes:
        name: Name in the table and of ``--task``.
        half: "chosen" if the task was used to choose the default, or "held-out".
        measure: Name and unit of the measure that judges the methods.
        higher: Whether a higher measure is better.
        methods: The methods by name. A method takes a seed, and returns the measures of its run by
            name; the first one judges.
        rivals: Names of the methods whose best is the rival of the default.
    """

    name: str
    half: str
    measure: str
    higher: bool
    methods: Mapping[str, Callable[[int], Mapping[str, float]]]
    rivals: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """A measure of one run, a line of tasks.csv.

    Attributes:
        task: Name of the task.
        half: "chosen" or "held-out".
        method: Name of the method.
        seed: Seed of the data order, the weights and the noise.
        measure: Name of the measure.
        value: Its value, in the unit that ``measure`` names.
    """

    task: str
    half: str
    method: str
    seed: int
    measure: str
    value: float
