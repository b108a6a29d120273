"""Comparisons of methods, with a search over one setting of each method.

1. Search: train every method at every value of its grid, and choose the value with the best
   validation results.
2. Final runs: train every method at the chosen value, with all seeds. With ``--retrain``, final
   runs train on the training and validation images together. Without ``--retrain``, runs of the
   search are final runs too, and are not trained again.
3. Test: test the final runs. No other code reads the test part.

The states are saved after each epoch, and ``--resume`` continues an interrupted command.
"""

import itertools
import math
import sys
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from matplotlib.figure import Figure

from mige_ext.experiments.common import plots, statistics
from mige_ext.experiments.common.checkpoint import load_tensors
from mige_ext.experiments.common.device import device_of
from mige_ext.experiments.common.experiment import Experiment
from mige_ext.experiments.common.folder import Table, atomic
from mige_ext.experiments.common.methods import Method
from mige_ext.experiments.common.progress import Progress
from mige_ext.experiments.common.runs import Run, row_of
from mige_ext.experiments.common.training import DivergedError, Trainer, train
from mige_ext.experiments.data import images as data


class Comparison(Experiment):
    """A comparison of methods, with a search over one setting of each method.

    Args:
        options: A ``ComparisonOptions``. The class attribute ``setting``, such as "beta", names the
            option that lists the values to search. If the list is empty, each method's own grid is
            searched.
        settings: Settings of every run.

    Raises:
        ValueError: A method or a value of the setting does not exist.
    """

    #: Methods by name.
    methods: ClassVar[Mapping[str, Method]]
    #: Methods of ``--quick``.
    quick_methods: ClassVar[Sequence[str]]
    #: Name of the setting that is searched: a field of the options, and a column of the tables.
    setting: ClassVar[str]
    #: Name of the setting in the progress bar.
    symbol: ClassVar[str]
    #: File name of a run in models/ without the suffix: a format string with the fields of ``Run``.
    stem: ClassVar[str]
    #: Dataclass of a row of results.csv.
    result_type: ClassVar[type[Any]]
    #: Trainer of a run.
    trainer_type: ClassVar[type[Trainer]]
    #: Name of the trained network: an attribute of the trainer, and a key in checkpoints and in the
    #: files of models/.
    network_name: ClassVar[str] = "model"
    #: Part of each grid that ``--quick`` searches.
    quick_values: ClassVar[slice]
    #: Test results of a diverged run, by column, as if all predictions were wrong. A run with NaN
    #: in the first of these columns has not been tested yet.
    all_wrong: Mapping[str, float] = MappingProxyType({"accuracy": 0.0})
    #: Options of the experiment that config.json records.
    recorded: ClassVar[Sequence[str]] = ()
    #: Columns of metrics.csv that the progress bar shows: name in the bar -> name of the column.
    progress: ClassVar[Mapping[str, str]]
    #: Columns of metrics.csv that are NaN for a run that trains on the validation images.
    validated: ClassVar[Sequence[str]] = ()
    #: Numbers of training images of a search run and of a final run; 0 if the experiment has no
    #: option ``--retrain``.
    search_images = final_images = 0

    def __init__(self, options: Any, settings: Any) -> None:
        super().__init__(options, settings)
        names = options.method or (self.quick_methods if options.quick else self.methods)
        self.values = {name: self._values(name) for name in names}
        if options.grid_seeds and options.grid_seeds > options.seeds:
            raise ValueError(
                f"grid_seeds must be at most the {options.seeds} seeds of --seeds, "
                f"got {options.grid_seeds}"
            )
        self.device = device_of(options.device)
        self.problem = self.load_problem()
        self.search_runs: list[Run] = []
        self.final_runs: list[Run] = []
        self.tested: list[Any] = []

    def _values(self, method: str) -> list[float]:
        """The grid of a method, in ascending order."""
        if method not in self.methods:
            raise ValueError(f"method must be one of {list(self.methods)}, got {method!r}")
        default = self.methods[method].strengths
        if default == (0.0,):  # the method does not have the setting
            return [0.0]
        if self.options.quick:
            default = default[self.quick_values]
        return sorted(set(getattr(self.options, self.setting) or default))

    def load_problem(self) -> Any:
        """Load the data onto the device, by default images."""
        images = data.load(self.settings.data, self.options.data_dir).to(self.device)
        if self.settings.batch > len(images.train):
            raise ValueError(
                f"batch must be at most the {len(images.train)} training images, "
                f"got {self.settings.batch}"
            )
        self.search_images = self.final_images = len(images.train)
        if self.options.retrain is not None:
            self.final_images += len(images.validation)
        return images

    def agreed(self) -> dict[str, Any]:
        """Values that must be the same when the experiment is continued."""
        retrain = {"retrain": self.options.retrain} if hasattr(self.options, "retrain") else {}
        return {**super().agreed(), "checksum": self.problem.checksum(), **retrain}

    def about(self) -> dict[str, Any]:
        """Further values for config.json."""
        return {
            "methods": list(self.values),
            f"{self.setting}s": self.values,
            "seeds": self.options.seeds,
            "grid_seeds": self.options.grid_seeds,
            "device": str(self.device),
            **{name: getattr(self.options, name) for name in self.recorded},
        }

    def open_tables(self) -> None:
        """Read results.csv and metrics.csv in the folder."""
        folder = self.options.out
        self.results = Table(folder / "results.csv", self.result_type)
        self.metrics = Table(folder / "metrics.csv", self.trainer_type.epoch_type)
        self.checkpoint = folder / "checkpoint.pt"

    # Search and final runs

    def run(self) -> None:
        """Search, choose, train every method at its chosen value with all seeds, and test it."""
        self.search()
        self.final_runs = [
            Run(method, self.choice[method], seed, self.final_images)
            for seed in range(self.options.seeds)
            for method in self.values
        ]
        self.train_missing(self.final_runs)
        self.tested = self.read_test(self.final_runs)

    def search(self) -> None:
        """Train every method at every value of its grid, and choose one value for each method."""
        seeds = self.options.seeds
        # Seeds form the outer loop, so an interrupted search has every value of the first seeds.
        self.search_runs = [
            Run(method, value, seed, self.search_images)
            for seed in range(self.options.grid_seeds or seeds)
            for method, values in self.values.items()
            for value in values
        ]
        self.train_missing(self.search_runs)
        self.choice = self.choose()

    @abstractmethod
    def choose(self) -> dict[str, float]:
        """The value of the setting for each method, by the validation results of the search."""

    # Training

    def train_missing(self, runs: Sequence[Run]) -> None:
        """Train every run that has no result for its number of epochs."""
        rows = self.results.rows
        stale = [r for r in rows if r.run in runs and self._epochs_differ(r)]
        if stale:
            self.results.replace([row for row in rows if row not in stale])
        done = {row.run for row in self.results.rows}
        missing = [run for run in runs if run not in done]
        if not missing:
            return
        self.complete = False
        # Drop metrics of unfinished runs: a run that resumes writes them again from its checkpoint.
        self.metrics.replace([row for row in self.metrics.rows if row.run in done])
        steps = [self.steps_of(run) for run in missing]
        with Progress(sum(steps)) as bar:
            for i, run in enumerate(missing):
                bar.reach(sum(steps[:i]))
                bar.begin(self.name_of(run))
                self._run(run, bar)
            bar.end()

    def _epochs_differ(self, row: Any) -> bool:
        return hasattr(row, "epochs") and row.epochs != self.epochs_of(row.run)

    def _run(self, run: Run, bar: Progress) -> None:
        settings, start, epochs = self.settings_of(run), bar.n, itertools.count(1)

        def on_epoch(metrics: Any) -> None:
            metrics = self.written(run, metrics)
            self.metrics.append([metrics])
            bar.reach(start + self.steps_of(run) * next(epochs) // settings.epochs)
            bar.show(**{name: getattr(metrics, column) for name, column in self.progress.items()})

        try:
            trainer, rows = train(
                self.trainer_type,
                self.problem_of(run),
                run,
                settings,
                checkpoint=self.checkpoint,
                on_epoch=on_epoch,
                on_step=bar.step,
            )
            results = self.evaluate(run, trainer, rows)
        except DivergedError as reason:
            results = self.diverged(run)
            self._path(run).unlink(missing_ok=True)  # save_interrupted may have written the file
            bar.write(_diverged_message(self.name_of(run), reason), file=sys.stderr)
        self.results.append(results)
        self.checkpoint.unlink(missing_ok=True)

    @abstractmethod
    def evaluate(self, run: Run, trainer: Any, rows: Sequence[Any]) -> list[Any]:
        """Save a trained run, and measure it on the validation part.

        Args:
            run: The run.
            trainer: Trainer after the last epoch.
            rows: Metrics of all epochs.

        Returns:
            The rows of the run in results.csv, made by ``result``, with NaN in the columns of the
            test.
        """

    def result(self, run: Run, **columns: Any) -> Any:
        """A row of results.csv, with NaN in every column that is not given."""
        return row_of(self.result_type, run, epochs=self.epochs_of(run), **columns)

    def diverged(self, run: Run) -> list[Any]:
        """The results of a diverged run, which are NaN."""
        return [self.result(run)]

    def problem_of(self, run: Run) -> Any:
        """The data of a run. With ``--retrain``, final runs train on the validation images too."""
        if self.is_final(run):
            return replace(self.problem, train=self.problem.all_training())
        return self.problem

    def settings_of(self, run: Run) -> Any:
        """The settings of a run, with the run's number of epochs."""
        epochs = self.epochs_of(run)
        if epochs == self.settings.epochs:
            return self.settings
        return replace(self.settings, epochs=epochs)

    def epochs_of(self, run: Run) -> int:
        """Number of epochs of a run, which is ``--retrain`` if the run is final."""
        return int(self.options.retrain if self.is_final(run) else self.settings.epochs)

    def steps_of(self, run: Run) -> int:
        """Number of steps of a run."""
        return self.epochs_of(run) * int(run.images // self.settings.batch)

    def written(self, run: Run, metrics: Any) -> Any:
        """The metrics of an epoch, with NaN in the columns that a final run cannot measure."""
        if self.is_final(run):
            return replace(metrics, **dict.fromkeys(self.validated, math.nan))
        return metrics

    def name_of(self, run: Run) -> str:
        """Name of a run in the progress bar."""
        label = self.methods[run.method].label
        return f"{label} {self.symbol}{run.value:g} seed {run.seed}"

    # Test

    def read_test(self, runs: Sequence[Run]) -> list[Any]:
        """Test the runs that are not tested yet, and return the results of all runs.

        If ``test`` raises DivergedError, the result of the test is ``all_wrong``.
        """
        column = next(iter(self.all_wrong))
        for run in runs:
            rows = self.results_of([run])
            if not any(math.isnan(getattr(row, column)) for row in rows):
                continue
            changes: Sequence[Mapping[str, Any]] = [self.all_wrong] * len(rows)
            if not rows[0].diverged:
                try:
                    changes = self.test(run, rows)
                except DivergedError as reason:
                    print(_diverged_message(self.name_of(run), reason), file=sys.stderr)
            tested = map(lambda row, change: replace(row, **change), rows, changes)
            self.results.replace(
                [next(tested) if row.run == run else row for row in self.results.rows]
            )
        return self.results_of(runs)

    @abstractmethod
    def test(self, run: Run, rows: Sequence[Any]) -> list[dict[str, Any]]:
        """Test results of a run, by column, for each of its rows in results.csv.

        Raises:
            DivergedError: numbers of the run on the test part are not finite.
        """

    # Results

    def results_of(self, runs: Sequence[Run]) -> list[Any]:
        """The results of these runs."""
        return [row for row in self.results.rows if row.run in runs]

    def searched(self, column: str) -> dict[str, dict[float, list[float]]]:
        """A column of the search results, by method and by value of the setting.

        Values with a diverged run are left out (``statistics.without_divergence``).
        """
        return {
            method: {
                value: [getattr(row, column) for row in of_value]
                for value, of_value in statistics.without_divergence(rows).items()
            }
            for method, rows in statistics.by_method(self.results_of(self.search_runs)).items()
        }

    def without_divergence(self, runs: Sequence[Run]) -> list[Run]:
        """The runs that did not diverge."""
        diverged = {row.run for row in self.results.rows if row.diverged}
        return [run for run in runs if run not in diverged]

    def is_final(self, run: Run) -> bool:
        """Whether a run trains on the validation images, and has no validation results.

        With ``--retrain`` this is true for all ``final_runs``, and otherwise for no run.
        """
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
        remedy = f"delete the rows of this run in {self.results.path}, and train it with --resume"
        return load_tensors(self._path(run), remedy)

    def save_interrupted(self) -> None:
        """Write the figures, and the weights of the interrupted run after its last whole epoch."""
        if self.checkpoint.exists():
            state = load_tensors(self.checkpoint, "delete it")
            run = Run(*state["run"]["run"])
            if not self.results_of([run]):
                self.save(run, **{self.network_name: state[self.network_name]})
        self._save(self.figures(self.without_divergence(self._latest())))

    def _latest(self) -> list[Run]:
        """For each method, the search runs at the value that was trained last."""
        runs = dict.fromkeys(row.run for row in self.metrics.rows if not self.is_final(row.run))
        last = {run.method: run._replace(seed=0) for run in runs}
        return [run for run in runs if run._replace(seed=0) == last[run.method]]

    def save_figures(self) -> list[Path]:
        """Draw the results, and return the paths of results.csv and of the figures."""
        shown = self.final_runs
        # Learning curves show validation results, which final runs with --retrain do not have.
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


def _diverged_message(name: str, reason: DivergedError) -> str:
    return f"{name} diverged; its predictions count as wrong: {reason}"
