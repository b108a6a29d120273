"""Training the encoder of InfoMax, without labels."""

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

import mige_ext as mige
from mige_ext.experiments.common.estimators import ESTIMATORS, make_estimator
from mige_ext.experiments.common.training import (
    Checkpoint,
    RandomState,
    Stateful,
    fit,
    overhead,
    seeded,
    shuffled,
)
from mige_ext.experiments.data.images import ImageData
from mige_ext.experiments.infomax.encoders import (
    NORMALIZATIONS,
    Encoder,
    Features,
    encode,
    frozen,
)
from mige_ext.experiments.infomax.methods import METHODS, Problem
from mige_ext.experiments.infomax.probes import effective_rank, linear_accuracy
from mige_ext.scores.base import ScoreEstimator

LINEAR_IMAGES = 10_000  # that the linear read-out after each epoch learns from, at most


@dataclass(frozen=True)
class Settings:
    """What the numbers of a run depend on, beside method and seed.

    Attributes:
        data: data set.
        epochs: passes of the encoder over the training images; 0 where there is none.
        batch: M, images in a step; also the samples of a score.
        latent: dimensions of z.
        width: channels of the first convolution; the next have twice and four times as many.
        hidden: units of fc.
        normalise: z under "batch", BatchNorm without affine part, "tanh", or "none": then it grows
            without bound under the entropy.
        projection: k, dimensions that x or h is projected to.
        alpha: mean squared pair distance of that block, with that of z for 1.
        estimator: of scores: "default", or a name in `ESTIMATORS`.
        threshold: of estimators that have one.
        prior: weight of prior matching.
        bf16: autocast of the encoder; objectives and probes stay in float32.
        probe_epochs: passes of the probes over the training images.
    """

    data: str = "cifar10"
    epochs: int = 20
    batch: int = 128
    latent: int = 64
    width: int = 64
    hidden: int = 1024
    normalise: str = "batch"
    projection: int = 64
    alpha: float = 1.0
    estimator: str = "default"
    threshold: float = 0.99
    prior: float = 1.0
    bf16: bool = False
    probe_epochs: int = 10

    def __post_init__(self) -> None:
        """Check the values; the data set is checked where it is loaded."""
        least = {"batch": 2, "epochs": 0, "latent": 1, "width": 1, "hidden": 1, "projection": 1}
        for name, value in {**least, "probe_epochs": 1}.items():
            if getattr(self, name) < value:
                raise ValueError(f"{name} must be at least {value}, got {getattr(self, name)}")
        if not 0 < self.alpha < math.inf:
            raise ValueError(f"alpha must be positive, got {self.alpha}")
        if not 0 <= self.prior < math.inf:
            raise ValueError(f"prior must be at least 0, got {self.prior}")
        if self.normalise not in NORMALIZATIONS:
            raise ValueError(
                f"normalise must be one of {list(NORMALIZATIONS)}, got {self.normalise!r}"
            )
        self.make_estimator()  # checks its name and the threshold

    def make_estimator(self) -> ScoreEstimator | None:
        """The score estimator of these settings; None for the default one."""
        if self.estimator == "default":
            return None
        if self.estimator not in ESTIMATORS:
            raise ValueError(
                f"estimator must be default or one of {list(ESTIMATORS)}, got {self.estimator!r}"
            )
        return make_estimator(self.estimator, threshold=self.threshold)


class Run(NamedTuple):
    """Which run it is, beside the settings."""

    method: str  # name in METHODS
    learning_rate: float  # of Adam; 0 where nothing is trained
    seed: int  # of weights, batches and probes
    images: int  # number of training images: without or with the validation part

    @property
    def stem(self) -> str:
        """Of the names of its files."""
        return f"{self.method}-rate{self.learning_rate}-seed{self.seed}-{self.images}"


@dataclass(frozen=True)
class Epoch:
    """A row of metrics.csv; the first four say which `Run` it is.

    Attributes:
        method: name in `METHODS`.
        learning_rate: of Adam; 0 where nothing is trained.
        seed: of weights and batches.
        images: number of training images.
        epoch: from 1.
        loss: mean over the epoch; of scores only its gradient means anything.
        rank: effective rank of z on the validation part, see `effective_rank`.
        linear_accuracy: on the validation part, of least squares from z to the classes.
        seconds: of training, without the measurements.
    """

    method: str
    learning_rate: float
    seed: int
    images: int
    epoch: int
    loss: float
    rank: float
    linear_accuracy: float
    seconds: float = field(compare=False)


# Training


def network(images: ImageData, settings: Settings) -> Encoder:
    """The untrained encoder."""
    return Encoder(
        images.shape,
        width=settings.width,
        hidden=settings.hidden,
        latent=settings.latent,
        normalize=settings.normalise,
    )


class Trainer:
    """Everything that a run changes: encoder, objective, optimiser.

    Args:
        images: the data, on the device to compute on.
        run: which method and seed.
        settings: everything else.
    """

    def __init__(self, images: ImageData, run: Run, settings: Settings) -> None:
        self.images, self.settings = images, settings
        self.device, method = images.train.images.device, METHODS[run.method]
        self.encoder = network(images, settings)
        problem = Problem(
            self.encoder.conv_size,
            settings.latent,
            settings.make_estimator(),
            mige.RandomProjection(settings.projection, seed=run.seed),
            settings.alpha,
            settings.prior,
        )
        self.objective = method.objective(problem) if method.objective else _nothing
        if method.objective is None:
            for layer in self.encoder.modules():
                if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
                    layer.momentum = None  # the plain average, because one epoch may be few steps
        modules: list[nn.Module] = [self.encoder]
        modules += [self.objective] if isinstance(self.objective, nn.Module) else []
        self.modules = nn.ModuleList(modules).to(self.device)
        self.encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimiser = torch.optim.Adam(self.modules.parameters(), run.learning_rate, fused=True)

    def step(self, numbers: Tensor) -> dict[str, Tensor]:
        """One step on the training images of these numbers, (batch)."""
        pixels = self.images.train.images[numbers]
        loss = self.objective(*encode(self.encoder, self.images, pixels, bf16=self.settings.bf16))
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        return {"loss": loss}

    def parts(self) -> dict[str, Stateful]:
        """All that has a state."""
        parts: dict[str, Stateful] = {"encoder": self.encoder, "optimiser": self.optimiser}
        if isinstance(self.objective, nn.Module):
            parts["objective"] = self.objective
        return parts


def _nothing(images: Tensor, features: Features) -> Tensor:
    """The objective of a step that learns nothing: what a step costs without one."""
    return 0 * features.y.sum()


def train(
    images: ImageData,
    run: Run,
    settings: Settings,
    *,
    checkpoint: Path | None = None,
    on_epoch: Callable[[Epoch], object] = lambda _: None,
    on_step: Callable[[Mapping[str, Tensor]], object] | None = None,
) -> tuple[Trainer, list[Epoch]]:
    """Train an encoder, from the checkpoint on where it holds this run.

    An epoch of a random encoder changes nothing but the averages of its BatchNorm.

    Args:
        images: the data; computes on the device where it lies.
        run: which method and seed; the global random state stays as it was.
        settings: everything else.
        checkpoint: file that the run is kept in after each epoch.
        on_epoch: called with the figures of each epoch, those of the checkpoint first.
        on_step: called after each step with its loss.

    Returns:
        The encoder in its trainer after the last epoch, and the figures of all epochs.

    Raises:
        DivergedError: see `fit`.
    """
    device, epochs = images.train.images.device, list[Epoch]()
    with seeded(run.seed, device):
        # Batches have a stream of their own: methods draw different amounts of noise.
        random = RandomState(device, run.seed)
        trainer = Trainer(images, run, settings)

        def close(epoch: int, means: dict[str, float], seconds: float) -> Epoch:
            learnt, asked = images.train, images.validation
            z_learnt, z = (
                frozen(trainer.encoder, images, pixels, bf16=settings.bf16, layers=["y"])["y"]
                for pixels in (learnt.images[:LINEAR_IMAGES], asked.images)
            )
            labels = learnt.labels[:LINEAR_IMAGES]
            accuracy = linear_accuracy(z_learnt, labels, z, asked.labels)
            return Epoch(*run, epoch, means["loss"], effective_rank(z), accuracy, seconds)

        for row in fit(
            trainer.step,
            close,
            batches=shuffled(len(images.train), settings.batch, random),
            epochs=settings.epochs,
            random=random,
            parts=trainer.parts(),
            checkpoint=Checkpoint(
                checkpoint,
                {"run": list(run), "settings": asdict(settings), "device": device.type},
                Epoch,
            ),
            on_step=on_step,
        ):
            epochs.append(row)
            on_epoch(row)
    return trainer, epochs


def epochs_of(methods: Iterable[str], epochs: int) -> dict[str, int]:
    """Epochs of each method: 0 without an encoder, 1 with a random one."""
    return {
        name: 0 if not METHODS[name].encoder else epochs if METHODS[name].objective else 1
        for name in methods
    }


def objective_overhead(images: ImageData, run: Run, settings: Settings, repeats: int = 5) -> float:
    """What the objective adds to a step, as a share of a step without one; fastest, in turns."""
    device = images.train.images.device
    with seeded(run.seed, device):
        full = Trainer(images, run, settings)
        plain = copy.copy(full)
        plain.objective = _nothing
        numbers = torch.arange(settings.batch, device=device)
        steps = (lambda: full.step(numbers)), (lambda: plain.step(numbers))
        return overhead(*steps, device, repeats)
