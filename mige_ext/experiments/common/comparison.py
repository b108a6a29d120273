"""The runs of an experiment on images: trained where missing, kept, continued after a kill."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from mige_ext.experiments.common.runs import Table, atomic, run_of, sound_settings
from mige_ext.experiments.common.training import DivergedError, Progress
from mige_ext.experiments.data.images import ImageData

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


class RunLike(Protocol):
    """Which run it is, beside the settings: a named tuple of the first columns of both tables."""

    @property
    def method(self) -> str:
        """Name of its method."""
        ...

    @property
    def stem(self) -> str:
        """Beginning of the names of its files."""
        ...


class RunOnImages(RunLike, Protocol):
    """A run whose training images are without or with the validation part."""

    @property
    def images(self) -> int:
        """Their number."""
        ...


AnyRun = TypeVar("AnyRun", bound=RunLike)
AnyRunOnImages = TypeVar("AnyRunOnImages", bound=RunOnImages)
Epoch = TypeVar("Epoch", bound="DataclassInstance")
Result = TypeVar("Result", bound="DataclassInstance")
OnStep = Callable[[Mapping[str, Tensor]], object]


class Comparison(ABC, Generic[AnyRun, Epoch, Result]):
    """The runs of a folder.

    Args:
        folder: with results.csv, metrics.csv, checkpoint.pt and models/.
        settings: of every run.

    Raises:
        ValueError: a table in the folder has other columns.
    """

    run_type: type[AnyRun]
    epoch_type: type[Epoch]
    result_type: type[Result]
    #: Columns of metrics.csv that the progress bar shows, by what it calls them.
    progress: ClassVar[Mapping[str, str]]

    def __init__(self, folder: Path, settings: Any) -> None:
        self.folder, self.settings = folder, settings
        self.results = Table(folder / "results.csv", self.result_type)
        self.metrics = Table(folder / "metrics.csv", self.epoch_type)
        self.checkpoint = folder / "checkpoint.pt"

    def results_of(self, runs: Sequence[AnyRun]) -> list[Result]:
        """The results of these runs."""
        return [row for row in self.results.rows if self.run_of(row) in runs]

    def by_setting(
        self, runs: Sequence[AnyRun], setting: str, column: str
    ) -> dict[str, dict[float, list[float]]]:
        """A column of the results of these runs, by method, and then by a setting of theirs.

        Settings in which a run diverged are left out, see `sound_settings`.
        """
        groups: dict[str, list[Any]] = {}
        for row in self.results_of(runs):
            groups.setdefault(self.run_of(row).method, []).append(row)
        return {
            method: {
                value: [getattr(row, column) for row in rows if getattr(row, setting) == value]
                for value in sound_settings(rows, setting)
            }
            for method, rows in groups.items()
        }

    def sound(self, runs: Sequence[AnyRun]) -> list[AnyRun]:
        """Those that have not diverged: whose curves can be compared."""
        rows: list[Any] = self.results.rows
        diverged = {self.run_of(row) for row in rows if row.diverged}
        return [run for run in runs if run not in diverged]

    def run_missing(self, runs: Iterable[AnyRun], epochs: Mapping[str, int]) -> None:
        """Train every run that has no result yet; one that diverges has a result as well.

        Args:
            runs: all that there shall be.
            epochs: of each method.
        """
        finished = set(map(self.run_of, self.results.rows))
        missing = [run for run in runs if run not in finished]
        if not missing:
            return
        # A run writes its result last: figures without one are in its checkpoint, or void.
        self.metrics.replace(row for row in self.metrics.rows if self.run_of(row) in finished)
        steps = [self.steps_of(run, epochs[run.method]) for run in missing]
        with Progress(sum(steps)) as bar:
            for i, run in enumerate(missing):
                bar.begin(self.name_of(run), at=sum(steps[:i]))
                self._run(run, epochs[run.method], bar)
            bar.end()

    def _run(self, run: AnyRun, epochs: int, bar: Progress) -> None:
        def on_epoch(epoch: Epoch) -> None:
            epoch = self.told(run, epoch)
            self.metrics.append([epoch])
            bar.show(**{name: getattr(epoch, column) for name, column in self.progress.items()})

        try:
            results = self.train(run, epochs, on_epoch, bar.step)
        except DivergedError as reason:
            results = self.diverged(run, epochs)
            self._path(run).unlink(missing_ok=True)  # of when it was stopped before
            bar.tell(f"{self.name_of(run)} diverged, and counts as never right: {reason}")
        self.results.append(results)
        self.checkpoint.unlink(missing_ok=True)

    @abstractmethod
    def train(
        self, run: AnyRun, epochs: int, on_epoch: Callable[[Epoch], object], on_step: OnStep
    ) -> list[Result]:
        """Train and save a run, from the checkpoint on; gives the rows of its results."""

    @abstractmethod
    def diverged(self, run: AnyRun, epochs: int) -> list[Result]:
        """The results of a run that diverged; their property of that name is true."""

    @abstractmethod
    def steps_of(self, run: AnyRun, epochs: int) -> int:
        """The number of its steps in so many epochs."""

    def told(self, run: AnyRun, epoch: Epoch) -> Epoch:
        """What is written of an epoch."""
        return epoch

    @abstractmethod
    def name_of(self, run: AnyRun) -> str:
        """What the progress bar calls it."""

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


class ComparisonOnImages(Comparison[AnyRunOnImages, Epoch, Result]):
    """Runs that choose a setting, and are then trained on the validation part too.

    Args:
        folder: see `Comparison`.
        images: the data, on the device to compute on.
        settings: of every run, with ``epochs`` and ``batch``.
    """

    #: Columns of metrics.csv that mean nothing where the validation part was trained on.
    validated: ClassVar[Sequence[str]]

    def __init__(self, folder: Path, images: ImageData, settings: Any) -> None:
        super().__init__(folder, settings)
        self.images = images

    def latest(self) -> list[AnyRunOnImages]:
        """Of each method the runs with the settings that were trained last, before a choice."""
        begun: Any = dict.fromkeys(map(self.run_of, self.metrics.rows))
        grid = [run for run in begun if not self.is_final(run)]
        last = {run.method: run._replace(seed=0) for run in grid}
        return [run for run in grid if run._replace(seed=0) == last[run.method]]

    def run_missing(self, runs: Iterable[AnyRunOnImages], epochs: Mapping[str, int]) -> None:
        """Train every run that has no result yet, or that of another number of epochs."""
        wanted = set(runs := list(runs))
        rows: list[Any] = self.results.rows
        stale = [r for r in rows if self.run_of(r) in wanted and r.epochs != epochs[r.method]]
        if stale:
            self.results.replace(row for row in list(rows) if row not in stale)
        super().run_missing(runs, epochs)

    def steps_of(self, run: AnyRunOnImages, epochs: int) -> int:
        """The number of its steps in so many epochs."""
        return epochs * int(run.images // self.settings.batch)

    def is_final(self, run: AnyRunOnImages) -> bool:
        """Whether it is trained on the validation part too, which then tells nothing about it."""
        return run.images != len(self.images.train)

    def images_of(self, run: AnyRunOnImages) -> ImageData:
        """The data, with what this run is trained on."""
        if self.is_final(run):
            return replace(self.images, train=self.images.all_training())
        return self.images

    def told(self, run: AnyRunOnImages, epoch: Epoch) -> Epoch:
        """What is written of an epoch."""
        if self.is_final(run):
            epoch = replace(epoch, **dict.fromkeys(self.validated, math.nan))
        return epoch
