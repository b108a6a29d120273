"""InfoMax as a command: encoders trained without labels, and the accuracy of probes on each layer.

* Probes are trained on the frozen encoder, by one protocol for all methods.
* For each trained method, the learning rate with the best validation accuracy of the probes is
  chosen. The accuracy is the mean over layers and seeds. All methods choose from the same grid.
* ``--retrain`` trains the chosen settings again on training and validation images.
* The test set is read once, after the last training, and only for the final runs.
* Everything is on disk after each epoch. ``--resume`` continues an interrupted command.

``--quick`` takes scikit-learn's digits, of 8×8 pixels and one channel, and small layers. It shows
that everything runs. Its numbers do not rank the methods.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from mige_ext.experiments.common.estimators import require_option
from mige_ext.experiments.common.experiment import command
from mige_ext.experiments.common.image_comparison import ImageComparison
from mige_ext.experiments.common.options import (
    ImageOptions,
    filled,
    grid_option,
    method_option,
    seeds_option,
)
from mige_ext.experiments.common.runs import Run, row_of
from mige_ext.experiments.common.training import OnStep, overhead
from mige_ext.experiments.data.images import Split
from mige_ext.experiments.infomax.encoders import Features, Pixels, PrincipalComponents, frozen
from mige_ext.experiments.infomax.methods import LEARNING_RATES, METHODS
from mige_ext.experiments.infomax.probes import accuracy_of, probe_of, train_probe
from mige_ext.experiments.infomax.report import Result, draw, format_table
from mige_ext.experiments.infomax.training import Epoch, Settings, Trainer, network

QUICK_METHODS = ("random", "pca", "infonce", "mige", "entropy")
QUICK = Settings(data="digits", epochs=10, width=16, hidden=128, latent=16)


@dataclass(frozen=True)
class Options(ImageOptions):
    """Options that may change when the experiment is continued."""

    method: list[str] = method_option(METHODS, QUICK_METHODS)
    learning_rate: list[float] = grid_option("the learning rate of Adam", positive=True)
    seeds: int = seeds_option("3; quick 1")


class Encoders(ImageComparison):
    """Runs of InfoMax."""

    quick_note = "The small version: digits of 8×8 pixels, small layers, fewer methods, one seed."
    measured = "Test accuracy of probes on every layer"
    following = "python -m mige_ext bottleneck, the paper's Table 2"
    methods, quick_methods = METHODS, QUICK_METHODS
    setting, symbol = "learning_rate", "rate "
    stem = "{method}-rate{value}-seed{seed}-{images}"
    result_type, trainer_type = Result, Trainer
    network_name = "encoder"
    progress: ClassVar = {"linear": "linear_accuracy", "rank": "rank"}
    validated = ("linear_accuracy",)

    def default_values(self, method: str) -> list[float]:
        """The grid of learning rates; 0 alone for a method without training."""
        if METHODS[method].objective is None:
            return [0.0]
        return list(LEARNING_RATES[-1 if self.options.quick else 0 :])

    def epochs(self, number: int) -> dict[str, int]:
        """Epochs of each method: 0 for a method without an encoder, 1 for a random encoder."""
        return {
            name: 0 if not METHODS[name].encoder else number if METHODS[name].objective else 1
            for name in self.values
        }

    def train(
        self, run: Run, epochs: int, on_epoch: Callable[[Epoch], object], on_step: OnStep
    ) -> list[Result]:
        """Train a run; pixels and their principal components have no encoder to train."""
        if METHODS[run.method].encoder:
            return super().train(run, epochs, on_epoch, on_step)
        return self.evaluate(run, epochs, None, [])

    def evaluate(
        self, run: Run, epochs: int, trainer: Trainer | None, rows: Sequence[Epoch]
    ) -> list[Result]:
        """Train probes on the frozen encoder and save both; returns a result for each probe."""
        images, settings, added = self.problem_of(run), self.settings, 0.0
        encoder: Any = self._encoder(run) if trainer is None else trainer.encoder
        if trainer is None:
            encoder.fit(images.normalize(images.train.images))
        elif trainer.objective is not None:
            added = overhead(Trainer, images, run, trainer.settings)
        probes = {
            layer: train_probe(
                features, images.train.labels, images.classes, settings.probe_epochs, run.seed
            )
            for layer, features in self._features(encoder, images.train).items()
        }
        weights = {layer: probe.state_dict() for layer, probe in probes.items()}
        self.save(run, encoder=encoder.state_dict(), probes=weights)
        accuracies = dict.fromkeys(probes, math.nan)
        if not self.is_final(run):
            accuracies = _accuracies(
                probes, self._features(encoder, images.validation), images.validation.labels
            )
        return [
            row_of(
                Result,
                run,
                epochs=epochs,
                layer=layer,
                val_accuracy=accuracy,
                rank=rows[-1].rank if rows else math.nan,
                overhead=added,
                seconds=sum(row.seconds for row in rows),
            )
            for layer, accuracy in accuracies.items()
        ]

    def diverged(self, run: Run, epochs: int) -> list[Result]:
        """NaN for every layer."""
        (row,) = super().diverged(run, epochs)
        return [replace(row, layer=layer) for layer in Features._fields]

    def _encoder(self, run: Run) -> Any:
        """An untrained encoder, or the pixels or principal components of a method without one."""
        if METHODS[run.method].encoder:
            return network(self.problem, self.settings).to(self.device)
        if run.method == "pixels":
            return Pixels()
        inputs = math.prod(self.problem.shape)
        return PrincipalComponents(inputs, self.settings.latent).to(self.device)

    def _features(self, encoder: nn.Module, part: Split) -> dict[str, Tensor]:
        """The features of a part that the probes read, by layer."""
        return frozen(encoder, self.problem, part.images, bf16=self.settings.bf16)

    def choose(self) -> dict[str, float]:
        """The learning rate with the best mean accuracy, by method; of equals, the lowest."""
        return {
            method: max(values, key=lambda rate: (sum(values[rate]) / len(values[rate]), -rate))
            for method, values in self.by_value("val_accuracy").items()
        }

    def never_right(self) -> dict[str, float]:
        """Test results of a diverged run."""
        return {"accuracy": 0.0}

    def test(self, run: Run, rows: Sequence[Result]) -> list[Result]:
        """The results with the test accuracies of the saved probes."""
        weights, encoder, part = self.load(run), self._encoder(run), self.problem.test
        encoder.load_state_dict(weights["encoder"])
        features, probes = self._features(encoder, part), dict[str, nn.Module]()
        for layer, state in weights["probes"].items():
            probe = probe_of(features[layer].shape[1], self.problem.classes).to(self.device)
            probe.load_state_dict(state)
            probes[layer] = probe.eval()
        accuracies = _accuracies(probes, features, part.labels)
        return [replace(row, accuracy=accuracies[row.layer]) for row in rows]

    def figures(self, shown: Sequence[Run]) -> dict[str, Figure]:
        """Learning curves and test accuracies."""
        return {"infomax": draw(self.metrics.rows, self.tested, shown)}

    def summary(self) -> str:
        """The conditions of the test, and its table."""
        return (
            f"{self.problem.name}: test accuracy of probes on the frozen layers, after "
            f"{self.options.retrain or self.settings.epochs} epochs without labels on "
            f"{self.final_images} images; seeds: {self.options.seeds}.\n"
            "Values are means over the seeds ± standard error; learning rates are chosen on the "
            f"validation images.\n\n{format_table(self.tested, self.settings.data)}"
        )


def _accuracies(
    probes: Mapping[str, nn.Module], features: Mapping[str, Tensor], labels: Tensor
) -> dict[str, float]:
    """Accuracy of each probe."""
    return {name: accuracy_of(probe, features[name], labels) for name, probe in probes.items()}


@command(Options, Settings)
def infomax(options: Options, given: dict[str, Any]) -> Encoders:
    """Unsupervised InfoMax on images: what probes find in encoders trained by MIGE and others."""
    settings = replace(QUICK if options.quick else Settings(), **given)
    if "threshold" in given:
        require_option(settings.estimator, "threshold")
    seeds, threads = (1, 1) if options.quick else (3, torch.get_num_threads())
    return Encoders(filled(options, seeds=seeds, threads=threads), settings)
