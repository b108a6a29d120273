"""The runs of an experiment's folder: trained where missing, kept, continued after a kill."""

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
        """Its name."""
        ...

    @property
    def images(self) -> int:
        """Number of training images: without or with the validation part."""
        ...

    @property
    def stem(self) -> str:
        """Of the names of its files."""
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
    shown: ClassVar[Mapping[str, str]]

    def __init__(self, folder: Path, images: ImageData, settings: Any) -> None:
        self.folder, self.images, self.settings = folder, images, settings
        self.results = Table(folder / "results.csv", self.result_type)
        self.metrics = Table(folder / "metrics.csv", self.epoch_type)
        self.checkpoint = folder / "checkpoint.pt"

    def results_of(self, runs: Sequence[AnyRun]) -> list[Result]:
        """The results of these runs."""
        return [row for row in self.results.rows if self._run_of(row) in runs]

    def run_missing(self, runs: Iterable[AnyRun], epochs: Mapping[str, int]) -> None:
        """Train every run that has no result yet.

        Args:
            runs: all that there shall be.
            epochs: of each method.
        """
        finished = set(map(self._run_of, self.results.rows))
        missing = [run for run in runs if run not in finished]
        # A run writes its result last: figures without one are in its checkpoint, or void.
        self.metrics.replace(row for row in self.metrics.rows if self._run_of(row) in finished)
        steps = (epochs[run.method] * (run.images // self.settings.batch) for run in missing)
        with Progress(sum(steps)) as bar:
            for run in missing:
                bar.begin(self.name_of(run))
                self._run(run, epochs[run.method], bar)

    def _run(self, run: AnyRun, epochs: int, bar: Progress) -> None:
        images = self.images
        if self.is_final(run):
            images = replace(images, train=images.all_training())

        def on_epoch(epoch: Epoch) -> None:
            self.metrics.append([epoch])
            bar.show(**{name: getattr(epoch, column) for name, column in self.shown.items()})

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
        """Write weights to models/."""
        path = self._path(run)
        path.parent.mkdir(exist_ok=True)
        with atomic(path) as draft:
            torch.save(weights, draft)

    def load(self, run: AnyRun) -> dict[str, Any]:
        """Read them."""
        weights: dict[str, Any] = torch.load(self._path(run), weights_only=True, map_location="cpu")
        return weights

    def save_unfinished(self, network: str) -> None:
        """Write the weights of the run that was stopped, as of its last whole epoch.

        Args:
            network: what the checkpoint calls it.
        """
        if self.checkpoint.exists():
            state = torch.load(self.checkpoint, weights_only=True, map_location="cpu")
            self.save(self.run_type(*state["run"]["run"]), **{network: state[network]})

    def _run_of(self, row: Epoch | Result) -> AnyRun:
        return run_of(row, self.run_type)

    def _path(self, run: AnyRun) -> Path:
        return self.folder / "models" / f"{run.stem}.pt"
