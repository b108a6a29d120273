"""A task: a small model, the methods that train it, and a measure of the result."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

#: Methods that every task has, by their names in the table.
DEFAULT, CONTROL = "default", "Gaussian"


@dataclass(frozen=True)
class Task:
    """One task of the benchmark.

    Attributes:
        name: Name in the table and of ``--task``.
        half: "chosen" if the results of the task were used to choose the default, otherwise
            "held-out".
        measure: Name and unit of the measure by which the methods are ranked.
        higher: Whether a higher measure is better.
        methods: The methods by name. A method takes a seed, and returns measures by name, of which
            the first is ``measure``.
        rivals: Names of the methods with which the default is compared.
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
        half: ``Task.half`` of the task.
        method: Name of the method.
        seed: Seed of the data order, the weights and the noise.
        measure: Name of the measure.
        value: Value of the measure, in the unit that ``measure`` names.
    """

    task: str
    half: str
    method: str
    seed: int
    measure: str
    value: float
