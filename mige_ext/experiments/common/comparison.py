"""Comparing methods: search one setting of each, choose its value, train the final runs, test them.

An experiment adds its methods, its trainer, the results of a trained run, and its figures.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from matplotlib.figure import Figure

from mige_ext.experiments.common import plots
from mige_ext.experiments.common.device import device_of
from mige_ext.experiments.common.experiment import Experiment
from mige_ext.experiments.common.folder import Table, atomic
from mige_ext.experiments.common.progress import Progress
from mige_ext.experiments.common.runs import Run, row_of
from mige_ext.experiments.common.statistics import by_method, settings_without_divergence
from mige_ext.experiments.common.training import DivergedError, OnStep, Trainer, train


class Comparison(Experiment):
    """A comparison of methods, each with one setting whose value is searched.

    Each method is trained at every value of its grid. The validation results choose one value. The
    final runs are trained at that value and tested.

    Args:
        options: A ``ComparisonOptions``, with a list of values named like ``setting``.
        settings: Settings of every run.

    Raises:
        ValueError: A method or a value of the setting does not exist.
    """

    #: Methods by name; each has a ``label``.
    methods: ClassVar[Mapping[str, Any]]
    #: Methods of ``--quick``.
    quick_methods: ClassVar[Sequence[str]]
    #: Column of the setting that is searched.
    setting: ClassVar[str]
    #: Name of that setting in the progress bar.
    symbol: ClassVar[str]
    #: Name of the file of a run in models/, without the suffix.
    stem: ClassVar[str]
    #: Dataclass of a row of results.csv.
    result_type: ClassVar[type[Any]]
    #: Trainer of a run.
    trainer_type: ClassVar[type[Trainer]]
    #: Name of the trained network: an attribute of the trainer, and a key in checkpoints and in the
    #: files of models/.
    network_name: ClassVar[str] = "model"
    #: For each name in the progress bar, the column of metrics.csv that it shows.
    progress: ClassVar[Mapping[str, str]]
    #: Numbers of training images of a search run and of a final run; 0 if the two do not differ.
    search_images = final_images = 0

    def __init__(self, options: Any, settings: Any) -> None:
        super().__init__(options, settings)
        names = options.method or (self.quick_methods if options.quick else self.methods)
        self.values = {name: self._values(name) for name in names}
        self.device = device_of(options.device)
        self.problem = self.load_problem()
        self.search_runs: list[Run] = []
        self.final_runs: list[Run] = []
        self.tested: list[Any] = []

    def _values(self, method: str) -> list[float]:
        """The grid of a method, in ascending order."""
        if method not in self.methods:
            raise ValueError(f"method must be one of {list(self.methods)}, got {method!r}")
        default = self.default_values(method)
        if default == [0.0]:
            return default
        return sorted(set(getattr(self.options, self.setting) or default))

    @abstractmethod
    def default_values(self, method: str) -> list[float]:
        """The grid of a method if the options give none; [0] if the method lacks the setting."""

    @abstractmethod
    def load_problem(self) -> Any:
        """Load the data onto the device."""

    def agreed(self) -> dict[str, Any]:
        """Values that must be the same when the experiment is continued."""
        return {**super().agreed(), "checksum": self.problem.checksum()}

    def about(self) -> dict[str, Any]:
        """Further values for config.json."""
        return {
            "methods": list(self.values),
            f"{self.setting}s": self.values,
            "seeds": self.options.seeds,
            "grid_seeds": self.options.grid_seeds,
            "device": str(self.device),
        }

    def open_tables(self) -> None:
        """Read results.csv and metrics.csv in the folder."""
        folder = self.options.out
        self.results = Table(folder / "results.csv", self.result_type)
        self.metrics = Table(folder / "metrics.csv", self.trainer_type.epoch_type)
        self.checkpoint = folder / "checkpoint.pt"

    # The course of the experiment

    def run(self) -> None:
        """Search, choose, train every method at its chosen value with all seeds, and test it."""
        self.search()
        self.final_runs = [
            Run(method, self.choice[method], seed, self.final_images)
            for seed in range(self.options.seeds)
            for method in self.values
        ]
        self.train_missing(self.final_runs, self.final_epochs())
        self.tested = self.read_test(self.final_runs)

    def search(self) -> None:
        """Train every method at every value of its grid, and choose one value for each method."""
        seeds = self.options.seeds
        # The runs are ordered by seed. An interrupted search then has all runs of its first seeds.
        self.search_runs = [
            Run(method, value, seed, self.search_images)
            for seed in range(min(self.options.grid_seeds or seeds, seeds))
            for method, values in self.values.items()
            for value in values
        ]
        self.train_missing(self.search_runs, self.epochs(self.settings.epochs))
        self.choice = self.choose()

    @abstractmethod
    def choose(self) -> dict[str, float]:
        """The value of the setting for each method, by the validation results of the search."""

    def epochs(self, number: int) -> dict[str, int]:
        """Epochs of each method, where a trained method takes this number."""
        return dict.fromkeys(self.values, number)

    def final_epochs(self) -> dict[str, int]:
        """Epochs of the final runs of each method."""
        return self.epochs(self.settings.epochs)

    # Training

    def train_missing(self, runs: Iterable[Run], epochs: Mapping[str, int]) -> None:
        """Train every run that has no result, for the epochs of its method."""
        done = {row.run for row in self.results.rows}
        missing = [run for run in runs if run not in done]
        if not missing:
            return
        self.complete = False
        # Drop metrics of unfinished runs: a run that resumes writes them again from its checkpoint.
        self.metrics.replace([row for row in self.metrics.rows if row.run in done])
        steps = [self.steps_of(run, epochs[run.method]) for run in missing]
        with Progress(sum(steps)) as bar:
            for i, run in enumerate(missing):
                bar.begin(self.name_of(run), at=sum(steps[:i]))
                self._run(run, epochs[run.method], bar)
            bar.end()

    def _run(self, run: Run, epochs: int, bar: Progress) -> None:
        def on_epoch(metrics: Any) -> None:
            metrics = self.written(run, metrics)
            self.metrics.append([metrics])
            bar.show(**{name: getattr(metrics, column) for name, column in self.progress.items()})

        try:
            results = self.train(run, epochs, on_epoch, bar.step)
        except DivergedError as reason:
            results = self.diverged(run, epochs)
            self._path(run).unlink(missing_ok=True)  # written if the run was interrupted before
            bar.write(f"{self.name_of(run)} diverged, and counts as never right: {reason}")
        self.results.append(results)
        self.checkpoint.unlink(missing_ok=True)

    def train(
        self, run: Run, epochs: int, on_epoch: Callable[[Any], object], on_step: OnStep
    ) -> list[Any]:
        """Train a run, or continue it from its checkpoint; returns its results."""
        trainer, rows = train(
            self.trainer_type,
            self.problem_of(run),
            run,
            self.settings_of(epochs),
            checkpoint=self.checkpoint,
            on_epoch=on_epoch,
            on_step=on_step,
        )
        return self.evaluate(run, epochs, trainer, rows)

    @abstractmethod
    def evaluate(self, run: Run, epochs: int, trainer: Any, rows: Sequence[Any]) -> list[Any]:
        """Save a run after its last epoch, and measure it on the validation part.

        Returns:
            The rows of its results, with NaN for the test part.
        """

    def diverged(self, run: Run, epochs: int) -> list[Any]:
        """The results of a diverged run, which are NaN."""
        return [row_of(self.result_type, run, epochs=epochs)]

    def problem_of(self, run: Run) -> Any:
        """The data of a run."""
        return self.problem

    def settings_of(self, epochs: int) -> Any:
        """The settings of a run of this many epochs."""
        return self.settings

    @abstractmethod
    def steps_of(self, run: Run, epochs: int) -> int:
        """Number of steps in this many epochs."""

    def written(self, run: Run, metrics: Any) -> Any:
        """The metrics of an epoch as a row of metrics.csv."""
        return metrics

    def name_of(self, run: Run) -> str:
        """Name of a run in the progress bar."""
        label = self.methods[run.method].label
        return f"{label} {self.symbol}{run.value:g} seed {run.seed}"

    # Test

    def read_test(self, runs: Sequence[Run]) -> list[Any]:
        """Test the runs that are not tested yet; returns the results of all of them."""
        never_right = self.never_right()
        column = next(iter(never_right))
        for run in runs:
            rows = self.results_of([run])
            if not any(math.isnan(getattr(row, column)) for row in rows):
                continue
            if rows[0].diverged:
                tested = [replace(row, **never_right) for row in rows]
            else:
                tested = self.test(run, rows)
            new = dict(zip(map(id, rows), tested, strict=True))
            self.results.replace([new.get(id(row), row) for row in self.results.rows])
        return self.results_of(runs)

    @abstractmethod
    def never_right(self) -> dict[str, float]:
        """Test results of a diverged run, by column, as if no prediction were right.

        A run with NaN in the first of these columns has not been tested yet.
        """

    @abstractmethod
    def test(self, run: Run, rows: Sequence[Any]) -> list[Any]:
        """The results of a run with its test results."""

    # Results

    def results_of(self, runs: Sequence[Run]) -> list[Any]:
        """The results of these runs."""
        return [row for row in self.results.rows if row.run in runs]

    def by_value(self, column: str) -> dict[str, dict[float, list[float]]]:
        """A column of the results of the search, by method and by value of the setting.

        A value with a diverged run is left out, see ``settings_without_divergence``.
        """
        return {
            method: {
                value: [getattr(r, column) for r in rows if getattr(r, self.setting) == value]
                for value in settings_without_divergence(rows, self.setting)
            }
            for method, rows in by_method(self.results_of(self.search_runs)).items()
        }

    def without_divergence(self, runs: Sequence[Run]) -> list[Run]:
        """The runs that did not diverge, whose curves can be compared."""
        diverged = {row.run for row in self.results.rows if row.diverged}
        return [run for run in runs if run not in diverged]

    def is_final(self, run: Run) -> bool:
        """Whether a run trains on the validation part too, and so cannot be measured on it."""
        return run.images != self.search_images

    # Files

    def save(self, run: Run, **weights: object) -> None:
        """Write the weights of a run to models/."""
        path = self._path(run)
        path.parent.mkdir(exist_ok=True)
        with atomic(path) as draft:
            torch.save(weights, draft)

    def load(self, run: Run) -> dict[str, Any]:
        """The weights of a run, on the CPU."""
        weights: dict[str, Any] = torch.load(self._path(run), weights_only=True, map_location="cpu")
        return weights

    def save_interrupted(self) -> None:
        """Write the weights of the stopped run after its last whole epoch, and the figures."""
        if self.checkpoint.exists():
            state = torch.load(self.checkpoint, weights_only=True, map_location="cpu")
            run = Run(*state["run"]["run"])
            if not self.results_of([run]):
                self.save(run, **{self.network_name: state[self.network_name]})
        self._save(self.figures(self.without_divergence(self._latest())))

    def _latest(self) -> list[Run]:
        """For each method, the runs of the search at the value that was trained last."""
        runs = dict.fromkeys(row.run for row in self.metrics.rows if not self.is_final(row.run))
        last = {run.method: run._replace(seed=0) for run in runs}
        return [run for run in runs if run._replace(seed=0) == last[run.method]]

    def save_figures(self) -> list[Path]:
        """Draw the results; returns results.csv and the figures."""
        shown = self.final_runs
        if any(map(self.is_final, shown)):
            shown = [r for r in self.search_runs if r.value == self.choice[r.method]]
        return [self.results.path, *self._save(self.figures(self.without_divergence(shown)))]

    def _save(self, figures: Mapping[str, Figure]) -> list[Path]:
        return [plots.save(figure, self.options.out / name)[0] for name, figure in figures.items()]

    @abstractmethod
    def figures(self, shown: Sequence[Run]) -> dict[str, Figure]:
        """The figures by name; ``shown`` are the runs whose learning curves are drawn."""

    def _path(self, run: Run) -> Path:
        return self.options.out / "models" / f"{self.stem.format(**run._asdict())}.pt"
