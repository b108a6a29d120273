"""Comparing methods on images: final runs may train on the validation images too."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from mige_ext.experiments.common.comparison import Comparison
from mige_ext.experiments.common.runs import Run
from mige_ext.experiments.data import images as data
from mige_ext.experiments.data.images import ImageData


class ImageComparison(Comparison):
    """A comparison on images, whose final runs may train on the validation images too.

    Args:
        options: An ``ImageOptions``.
        settings: Settings of every run, with ``data``, ``epochs`` and ``batch``.
    """

    #: Columns of metrics.csv that are NaN for a run that is trained on the validation part.
    validated: ClassVar[Sequence[str]]
    problem: ImageData

    def load_problem(self) -> ImageData:
        """Load the images onto the device."""
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
        return {**super().agreed(), "retrain": self.options.retrain}

    def final_epochs(self) -> dict[str, int]:
        """Epochs of the final runs of each method."""
        return self.epochs(self.options.retrain or self.settings.epochs)

    def train_missing(self, runs: Iterable[Run], epochs: Mapping[str, int]) -> None:
        """Train every run that has no result for this number of epochs."""
        wanted = set(runs := list(runs))
        rows = self.results.rows
        stale = [r for r in rows if r.run in wanted and r.epochs != epochs[r.method]]
        if stale:
            self.results.replace([row for row in rows if row not in stale])
        super().train_missing(runs, epochs)

    def steps_of(self, run: Run, epochs: int) -> int:
        """Number of steps in this many epochs."""
        return epochs * int(run.images // self.settings.batch)

    def problem_of(self, run: Run) -> ImageData:
        """The images of a run; a final run has the validation images in its training part."""
        if self.is_final(run):
            return replace(self.problem, train=self.problem.all_training())
        return self.problem

    def settings_of(self, epochs: int) -> Any:
        """The settings of a run of this many epochs."""
        return replace(self.settings, epochs=epochs)

    def written(self, run: Run, metrics: Any) -> Any:
        """The metrics of an epoch, with NaN in the columns that a final run cannot measure."""
        if self.is_final(run):
            return replace(metrics, **dict.fromkeys(self.validated, math.nan))
        return metrics
