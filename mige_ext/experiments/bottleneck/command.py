"""The command ``bottleneck``: trains every method at every β of its grid, with several seeds.

* β is chosen by the validation errors of the seeds. ``--choice one-se`` takes the largest β whose
  mean error is within one standard error of the least mean error. ``--choice least`` takes the β
  with the least mean error.
* ``--retrain 0`` takes the number of epochs with the least validation error.

``common/comparison.py`` describes the search, the final runs and the test.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from matplotlib.figure import Figure

from mige_ext.experiments.bottleneck.methods import METHODS, PAPER, Settings
from mige_ext.experiments.bottleneck.report import Result, draw, draw_tests, format_table
from mige_ext.experiments.bottleneck.training import Epoch, Trainer, build, measure
from mige_ext.experiments.common import options as common
from mige_ext.experiments.common.comparison import Comparison
from mige_ext.experiments.common.estimators import require_option
from mige_ext.experiments.common.experiment import command
from mige_ext.experiments.common.runs import Run
from mige_ext.experiments.common.statistics import by_method, one_standard_error_rule
from mige_ext.experiments.common.training import overhead

QUICK_METHODS = ("baseline", "vib", "mige")
CHOICES = ("one-se", "least")


@dataclass(frozen=True)
class Options(common.ImageOptions):
    """Options that may change when the experiment is continued."""

    method: list[str] = common.method_option(METHODS, QUICK_METHODS)
    beta: list[float] = common.grid_option("β", least=0)
    choice: str = common.option(
        "one-se",
        "Choose the largest β within one standard error of the least error, or the β with the "
        "least error.",
        choices=CHOICES,
    )
    seeds: int = common.seeds_option("digits: 10; else 3; --quick: 2")
    retrain: int = common.option(
        None,
        "Epochs of a last training on training and validation images. 0 takes the number with the "
        "least validation error.",
        least=0,
        shown="none",
    )


class Bottlenecks(Comparison):
    """Runs of the Information Bottleneck."""

    quick_note = "The small version: fewer methods, epochs, seeds and values of β."
    measured = "Test error of classifiers, and a bound of I(z; x)"
    following = "python -m mige_ext removal, which removes a nuisance"
    methods, quick_methods = METHODS, QUICK_METHODS
    setting, symbol = "beta", "β="
    stem = "{method}-beta{value}-seed{seed}-{images}"
    result_type, trainer_type = Result, Trainer
    progress: ClassVar = {"val_error": "val_error", "information": "information"}
    quick_values, recorded = slice(None, None, 2), ("choice",)
    validated = ("cross_entropy", "val_error", "average_error")

    def __init__(self, options: Options, settings: Settings) -> None:
        super().__init__(options, settings)
        averaged, peeked = settings.average > 0, settings.peek
        measured = {
            "test_error": True,
            "average_test_error": averaged,
            "least_test_error": peeked,
            "least_average_test_error": averaged and peeked,
        }
        self.all_wrong = {name: 1.0 if of else math.nan for name, of in measured.items()}
        for method, values in self.values.items():
            if METHODS[method].dropout and values[-1] >= 1:
                raise ValueError(f"beta must be below 1 as the rate of dropout, got {values[-1]}")
        strongest = max(self.values.get("label-smoothing", [0.0]))
        if strongest + settings.smoothing >= 1:
            raise ValueError(
                "smoothing plus β of label-smoothing must be below 1, "
                f"got {settings.smoothing} + {strongest}"
            )
        if "mige-draws" in self.values and settings.draws < 2:
            raise ValueError(f"draws must be at least 2 for mige-draws, got {settings.draws}")

    def evaluate(self, run: Run, trainer: Trainer, rows: Sequence[Epoch]) -> list[Result]:
        """Save a classifier and its averaged weights, and return the result of the last epoch."""
        averaged = trainer.averaged and trainer.averaged.state_dict()
        self.save(run, model=trainer.model.state_dict(), average=averaged)
        last = self.written(run, rows[-1])
        kept = ("val_error", "information", "rank", "calibration")
        result = self.result(
            run,
            **{column: getattr(last, column) for column in kept},
            average_val_error=last.average_error,
            # NaN if no epoch was measured on the test part
            least_test_error=min(row.peeked_error for row in rows),
            least_average_test_error=min(row.peeked_average_error for row in rows),
            overhead=overhead(Trainer, trainer.problem, run, trainer.settings, repeats=10),
            seconds=sum(row.seconds for row in rows),
        )
        return [result]

    def choose(self) -> dict[str, float]:
        """β of each method, chosen by the validation errors."""
        errors = self.searched("val_error")
        return {
            name: choose_beta(of_method, self.options.choice) for name, of_method in errors.items()
        }

    def epochs_of(self, run: Run) -> int:
        """Number of epochs of a run; ``--retrain 0`` gives a final run its ``best_epochs``."""
        if self.is_final(run) and self.options.retrain == 0:
            return self.best_epochs.get(run.method, self.settings.epochs)
        return super().epochs_of(run)

    @cached_property
    def best_epochs(self) -> dict[str, int]:
        """Number of epochs with least mean validation error, by method, without diverged runs."""
        runs = [run for run in self.search_runs if run.value == self.choice[run.method]]
        errors: dict[Run, list[float]] = {run: [] for run in self.without_divergence(runs)}
        for row in self.metrics.rows:
            errors.get(row.run, []).append(row.val_error)
        return {
            method: int(np.mean([errors[run] for run in of_method], axis=0).argmin()) + 1
            for method, of_method in by_method(list(errors)).items()
        }

    def test(self, run: Run, rows: Sequence[Result]) -> list[dict[str, Any]]:
        """The test errors of the final weights and of the averaged weights."""
        weights, model = self.load(run), build(self.problem, run, self.settings)
        model.load_state_dict(weights["model"])
        measured = measure(model, self.problem, self.problem.test)
        tested = {
            "test_error": measured.error,
            "test_cross_entropy": measured.cross_entropy,
        }
        if weights["average"] is not None:
            model.load_state_dict(weights["average"])
            average = measure(model, self.problem, self.problem.test)
            tested["average_test_error"] = average.error
        return [tested]

    @property
    def published(self) -> bool:
        """Whether the paper has numbers for these images."""
        return bool(self.settings.data == "mnist")

    def figures(self, shown: Sequence[Run]) -> dict[str, Figure]:
        """Learning curves with the trade-off over β, and the tests."""
        figures = {"bottleneck": draw(self.results_of(self.search_runs), self.metrics.rows, shown)}
        if self.tested:
            figures["tests"] = draw_tests(self.tested, published=self.published)
        return figures

    def summary(self) -> str:
        """The conditions of the test, and its table."""
        images, numbers = self.problem, sorted(map(self.epochs_of, self.final_runs))
        epochs = " to ".join(f"{number}" for number in dict.fromkeys([numbers[0], numbers[-1]]))
        return (
            f"{images.name}: {len(images.train)} training, {len(images.validation)} validation and "
            f"{len(images.test)} test images;\n"
            f"tested after {epochs} epochs on {self.final_images} images; "
            f"seeds: {self.options.seeds}.\n"
            f"Values are means over the seeds ± standard error; β is chosen on the validation "
            f"images.\n\n{format_table(self.tested, published=self.published)}"
        )


def choose_beta(errors: Mapping[float, Sequence[float]], choice: str) -> float:
    """Choose β by the validation errors over seeds. Among equal errors, the largest β is chosen."""
    if len(errors) == 1:
        return next(iter(errors))
    if choice == "one-se":
        return one_standard_error_rule(errors)
    return min(errors, key=lambda beta: (np.mean(errors[beta]), -beta))


@command(Options, Settings)
def bottleneck(options: Options, given: dict[str, Any]) -> Bottlenecks:
    """The Information Bottleneck on images: test error and information of MIGE and others."""
    small, quick = given.get("data", Settings.data) == "digits", options.quick
    if quick:
        given = {"epochs": 40, **given}
    settings = replace(Settings() if small else PAPER, **given)
    if "threshold" in given:
        require_option(settings.estimator, "threshold")
    threads = 1 if small else torch.get_num_threads()
    seeds = 2 if quick else 10 if small else 3
    return Bottlenecks(common.filled(options, seeds=seeds, threads=threads), settings)
