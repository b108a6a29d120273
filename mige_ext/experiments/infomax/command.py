"""The command ``infomax``: encoders trained without labels, and the accuracy of probes.

* A probe is a small classifier that is trained on one layer of the frozen encoder, in the same way
  for all methods.
* The learning rate of a method is the one with the best validation accuracy of the probes, averaged
  over layers and seeds. All methods have the same grid.

``common/comparison.py`` describes the search, the final runs and the test.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from mige_ext.experiments.common import options as common
from mige_ext.experiments.common.comparison import Comparison
from mige_ext.experiments.common.estimators import require_option
from mige_ext.experiments.common.experiment import command
from mige_ext.experiments.common.runs import Run
from mige_ext.experiments.common.training import overhead
from mige_ext.experiments.data.images import Split
from mige_ext.experiments.infomax.encoders import Features, frozen
from mige_ext.experiments.infomax.methods import METHODS
from mige_ext.experiments.infomax.probes import accuracy_of, probe_of, train_probe
from mige_ext.experiments.infomax.report import Result, draw, format_table
from mige_ext.experiments.infomax.training import Epoch, Settings, Trainer, network

QUICK_METHODS = ("random", "pca", "infonce", "mige", "entropy")
QUICK = Settings(data="digits", epochs=10, width=16, hidden=128, latent=16)


@dataclass(frozen=True)
class Options(common.ImageOptions):
    """Options that may change when the experiment is continued."""

    method: list[str] = common.method_option(METHODS, QUICK_METHODS)
    learning_rate: list[float] = common.grid_option("the learning rate of Adam", positive=True)
    seeds: int = common.seeds_option("3; --quick: 1")


class Encoders(Comparison):
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
    quick_values = slice(-1, None)
    validated = ("linear_accuracy",)

    def epochs_of(self, run: Run) -> int:
        """Number of epochs, which is 0 without an encoder and 1 for a random encoder."""
        method = METHODS[run.method]
        if method.encoder and method.make:
            return super().epochs_of(run)
        return int(method.encoder)

    def evaluate(self, run: Run, trainer: Trainer, rows: Sequence[Epoch]) -> list[Result]:
        """Train probes on the frozen encoder, save both, and return a result for each probe."""
        images, settings, encoder = trainer.problem, trainer.settings, trainer.encoder
        added = overhead(Trainer, images, run, settings) if trainer.objective else 0.0
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
            accuracies = self._accuracies(encoder, probes, images.validation)
        return [
            self.result(
                run,
                layer=layer,
                val_accuracy=accuracy,
                rank=rows[-1].rank if rows else math.nan,
                overhead=added,
                seconds=sum(row.seconds for row in rows),
            )
            for layer, accuracy in accuracies.items()
        ]

    def diverged(self, run: Run) -> list[Result]:
        """The results of a diverged run, which are NaN for every layer."""
        return [self.result(run, layer=layer) for layer in Features._fields]

    def _features(self, encoder: nn.Module, part: Split) -> dict[str, Tensor]:
        """The features of a part by layer."""
        return frozen(encoder, self.problem, part.images, bf16=self.settings.bf16)

    def _accuracies(
        self, encoder: nn.Module, probes: Mapping[str, nn.Module], part: Split
    ) -> dict[str, float]:
        """The accuracy of each probe on a part."""
        features = self._features(encoder, part)
        return {name: accuracy_of(probes[name], x, part.labels) for name, x in features.items()}

    def choose(self) -> dict[str, float]:
        """The learning rate with the best mean accuracy, by method; the lowest of equal ones."""
        return {
            method: max(values, key=lambda rate: (sum(values[rate]) / len(values[rate]), -rate))
            for method, values in self.searched("val_accuracy").items()
        }

    def test(self, run: Run, rows: Sequence[Result]) -> list[dict[str, Any]]:
        """The test accuracies of the saved probes."""
        weights, probes = self.load(run), dict[str, nn.Module]()
        encoder = network(run.method, self.problem, self.settings).to(self.device)
        encoder.load_state_dict(weights["encoder"])
        for layer, state in weights["probes"].items():
            classes, inputs = len(state["4.bias"]), state["0.weight"].shape[1]
            probes[layer] = probe_of(inputs, classes).to(self.device).eval()
            probes[layer].load_state_dict(state)
        accuracies = self._accuracies(encoder, probes, self.problem.test)
        return [{"accuracy": accuracies[row.layer]} for row in rows]

    def figures(self, shown: Sequence[Run]) -> dict[str, Figure]:
        """Learning curves and test accuracies."""
        return {"infomax": draw(self.metrics.rows, self.tested, shown)}

    def summary(self) -> str:
        """The conditions of the test, and its table."""
        return (
            f"{self.problem.name}: test accuracy of probes on the frozen layers,\n"
            f"after {self.options.retrain or self.settings.epochs} epochs without labels on "
            f"{self.final_images} images; seeds: {self.options.seeds}.\n"
            "Values are means over the seeds ± standard error; learning rates are chosen on the\n"
            f"validation images.\n\n{format_table(self.tested, self.settings.data)}"
        )


@command(Options, Settings)
def infomax(options: Options, given: dict[str, Any]) -> Encoders:
    """Unsupervised InfoMax on images: the accuracy of probes on encoders by MIGE and others."""
    settings = replace(QUICK if options.quick else Settings(), **given)
    if "threshold" in given:
        require_option(settings.estimator, "threshold")
    seeds, threads = (1, 1) if options.quick else (3, torch.get_num_threads())
    return Encoders(common.filled(options, seeds=seeds, threads=threads), settings)
