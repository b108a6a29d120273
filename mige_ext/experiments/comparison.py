"""The runs of an experiment on images: trained where missing, kept, continued after a kill."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from mige_ext.experiments.data import ImageData
from mige_ext.experiments.runs import Table, atomic, run_of
from mige_ext.experiments.training import Progress

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


class RunLike(Protocol):
    """Which run it is, beside the settings: a named tuple of the first columns of both tables."""

    @property
    def method(self) -> str:
        """Name of its method."""
        ...

    @property
    def images(self) -> int:
        """Number of training images: without or with the validation part."""
        ...

    @property
    def stem(self) -> str:
        """Beginning of the names of its files."""
        ...


AnyRun = TypeVar("AnyRun", bound=RunLike)
Epoch = TypeVar("Epoch", bound="DataclassInstance")
Result = TypeVar("Result", bound="DataclassInstance")
OnStep = Callable[[Mapping[str, Tensor]], object]


class Comparison(ABC, Generic[AnyRun, Epoch, Result]):
    """The runs of a folder.

    Args:
        folder: with results.csv, metrics.csv, checkpoint.pt and models/.
        images: the data, on the device to compute on.
        settings: of every run, with ``epochs`` and ``batch``.

    Raises:
        ValueError: a table in the folder has other columns.
    """

    run_type: type[AnyRun]
    epoch_type: type[Epoch]
    result_type: type[Result]
    #: Columns of metrics.csv that the progress bar shows, by what it calls them.
    progress: ClassVar[Mapping[str, str]]
    #: Columns of metrics.csv that mean nothing where the validation part was trained on.
    validated: ClassVar[Sequence[str]]

    def __init__(self, folder: Path, images: ImageData, settings: Any) -> None:
        self.folder, self.images, self.settings = folder, images, settings
        self.results = Table(folder / "results.csv", self.result_type)
        self.metrics = Table(folder / "metrics.csv", self.epoch_type)
        self.checkpoint = folder / "checkpoint.pt"

    def results_of(self, runs: Sequence[AnyRun]) -> list[Result]:
        """The results of these runs."""
        return [row for row in self.results.rows if self.run_of(row) in runs]

    def by_setting(
        self, runs: Sequence[AnyRun], setting: str, column: str
    ) -> dict[str, dict[float, list[float]]]:
        """A column of the results of these runs, by method, and then by a setting of theirs."""
        values: dict[str, dict[float, list[float]]] = {}
        for row in self.results_of(runs):
            of_method = values.setdefault(self.run_of(row).method, {})
            of_method.setdefault(getattr(row, setting), []).append(getattr(row, column))
        return values

    def latest(self) -> list[AnyRun]:
        """Of each method the runs with the settings that were trained last, before a choice."""
        begun: Any = dict.fromkeys(map(self.run_of, self.metrics.rows))
        grid = [run for run in begun if not self.is_final(run)]
        last = {run.method: run._replace(seed=0) for run in grid}
        return [run for run in grid if run._replace(seed=0) == last[run.method]]

    def run_missing(self, runs: Iterable[AnyRun], epochs: Mapping[str, int]) -> None:
        """Train every run that has no result yet, or that of another number of epochs.

        Args:
            runs: all that there shall be.
            epochs: of each method.
        """
        wanted = set(runs := list(runs))
        rows: list[Any] = self.results.rows
        stale = [r for r in rows if self.run_of(r) in wanted and r.epochs != epochs[r.method]]
        if stale:
            self.results.replace(row for row in list(rows) if row not in stale)
        finished = set(map(self.run_of, self.results.rows))
        missing = [run for run in runs if run not in finished]
        if not missing:
            return
        # A run writes its result last: figures without one are in its checkpoint, or void.
        self.metrics.replace(row for row in self.metrics.rows if self.run_of(row) in finished)
        steps = (epochs[run.method] * (run.images // self.settings.batch) for run in missing)
        with Progress(sum(steps)) as bar:
            for run in missing:
                bar.begin(self.name_of(run))
                self._run(run, epochs[run.method], bar)

    def _run(self, run: AnyRun, epochs: int, bar: Progress) -> None:
        images, final = self.images, self.is_final(run)
        if final:
            images = replace(images, train=images.all_training())

        def on_epoch(epoch: Epoch) -> None:
            if final:
                epoch = replace(epoch, **dict.fromkeys(self.validated, math.nan))
            self.metrics.append([epoch])
            bar.show(**{name: getattr(epoch, column) for name, column in self.progress.items()})

        settings = replace(self.settings, epochs=epochs)
        self.results.append(self.train(run, images, settings, on_epoch, bar.step))
        self.checkpoint.unlink(missing_ok=True)

    @abstractmethod
    def train(
        self,
        run: AnyRun,
        images: ImageData,
        settings: Any,
        on_epoch: Callable[[Epoch], object],
        on_step: OnStep,
    ) -> list[Result]:
        """Train and save a run, from the checkpoint on; gives the rows of its results."""

    @abstractmethod
    def name_of(self, run: AnyRun) -> str:
        """What the progress bar calls it."""

    def is_final(self, run: AnyRun) -> bool:
        """Whether it is trained on the validation part too, which then tells nothing about it."""
        return run.images != len(self.images.train)

    def save(self, run: AnyRun, **weights: object) -> None:
        """Write the weights of a run to models/."""
        path = self._path(run)
        path.parent.mkdir(exist_ok=True)
        with atomic(path) as draft:
            torch.save(weights, draft)

    def load(self, run: AnyRun) -> dict[str, Any]:
        """The weights of a run, on the CPU."""
        weights: dict[str, Any] = torch.load(self._path(run), weights_only=True, map_location="cpu")
        return weights

    def save_unfinished(self, network: str) -> None:
        """Write the weights of the run that was stopped, as of its last whole epoch.

        Args:
            network: what the checkpoint calls it.
        """
        if not self.checkpoint.exists():
            return
        state = torch.load(self.checkpoint, weights_only=True, map_location="cpu")
        run = self.run_type(*state["run"]["run"])
        if not self.results_of([run]):
            self.save(run, **{network: state[network]})

    def run_of(self, row: Epoch | Result) -> AnyRun:
        """The run that a row belongs to."""
        return run_of(row, self.run_type)

    def _path(self, run: AnyRun) -> Path:
        return self.folder / "models" / f"{run.stem}.pt"
