"""Encoder and probe of InfoMax: training without labels, and what a classifier finds afterwards."""

import copy
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import mige_ext as mige
from mige_ext.experiments.bottleneck_methods import ESTIMATORS
from mige_ext.experiments.data import ImageData, Split
from mige_ext.experiments.infomax_methods import METHODS, Features, Problem
from mige_ext.experiments.training import Checkpoint, RandomState, Stateful, fit, overhead, seeded
from mige_ext.score import ScoreEstimator

CHUNK = 1000  # images encoded at once, to bound the memory
NORMALISATIONS = ("batch", "tanh", "none")
LINEAR_IMAGES = 10_000  # that the linear read-out after each epoch learns from, at most


@dataclass(frozen=True)
class Settings:
    """What the numbers of a run depend on, beside method and seed.

    Attributes:
        data: data set.
        epochs: passes of the encoder over the training images.
        batch: M, images in a step; also the samples of a score.
        learning_rate: of Adam; 0 takes that of the method.
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
    learning_rate: float = 0.0
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
        least = {"batch": 2, "epochs": 1, "latent": 1, "width": 1, "hidden": 1, "projection": 1}
        for name, value in {**least, "probe_epochs": 1}.items():
            if getattr(self, name) < value:
                raise ValueError(f"{name} must be at least {value}, got {getattr(self, name)}")
        if not 0 < self.alpha < math.inf:
            raise ValueError(f"alpha must be positive, got {self.alpha}")
        for name in ("learning_rate", "prior"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        if self.normalise not in NORMALISATIONS:
            raise ValueError(
                f"normalise must be one of {list(NORMALISATIONS)}, got {self.normalise!r}"
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
        cls = ESTIMATORS[self.estimator]
        has = "threshold" in inspect.signature(cls).parameters
        made: ScoreEstimator = cls(**({"threshold": self.threshold} if has else {}))
        return made


class Run(NamedTuple):
    """Which run it is, beside the settings."""

    method: str  # name in METHODS
    seed: int  # of weights, batches and probes


@dataclass(frozen=True)
class Epoch:
    """A row of metrics.csv.

    Attributes:
        method: name in `METHODS`.
        seed: of weights and batches.
        epoch: from 1.
        loss: mean over the epoch; of scores only its gradient means anything.
        rank: effective rank of z on the validation part, see `effective_rank`.
        linear_accuracy: on the validation part, of least squares from z to the classes.
        seconds: of training, without the measurements.
    """

    method: str
    seed: int
    epoch: int
    loss: float
    rank: float
    linear_accuracy: float
    seconds: float = field(compare=False)


# Networks


class Encoder(nn.Module):
    """Three convolutions of 4×4 with stride 2, fc, and z (Hjelm et al., ICLR 2019).

    Args:
        shape: (C, H, W) of an image.
        settings: its widths, and the normalisation of z.
    """

    def __init__(self, shape: tuple[int, int, int], settings: Settings) -> None:
        super().__init__()
        channels, height, width = shape
        layers: list[nn.Module] = []
        for outputs in (settings.width, 2 * settings.width, 4 * settings.width):
            layers += [nn.Conv2d(channels, outputs, 4, stride=2, padding=1, bias=False)]
            layers += [nn.BatchNorm2d(outputs), nn.ReLU()]
            channels = outputs
        self.conv_size = channels * (height // 8) * (width // 8)
        self.conv = nn.Sequential(*layers, nn.Flatten())
        self.fc = nn.Sequential(
            nn.Linear(self.conv_size, settings.hidden, bias=False),
            nn.BatchNorm1d(settings.hidden),
            nn.ReLU(),
        )
        self.linear = nn.Linear(settings.hidden, settings.latent)
        normalisations = {
            "batch": nn.BatchNorm1d(settings.latent, affine=False),
            "tanh": nn.Tanh(),
            "none": nn.Identity(),
        }
        self.normalise = normalisations[settings.normalise]

    def forward(self, x: Tensor) -> Features:
        """(N, C, H, W) to the features, in float32 under autocast too."""
        conv = self.conv(x)
        fc = self.fc(conv)
        return Features(conv.float(), fc.float(), self.normalise(self.linear(fc).float()))


def probe_of(inputs: int, classes: int) -> nn.Sequential:
    """A classifier of frozen features, the same for all methods and layers."""
    return nn.Sequential(
        nn.Linear(inputs, 200),
        nn.BatchNorm1d(200),
        nn.Dropout(0.1),
        nn.ReLU(),
        nn.Linear(200, classes),
    )


# Training


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
        self.encoder = Encoder(images.shape, settings)
        problem = Problem(
            self.encoder.conv_size,
            settings.latent,
            settings.make_estimator(),
            mige.RandomProjection(settings.projection, seed=run.seed),
            settings.alpha,
            settings.prior,
        )
        self.objective = method.objective(problem) if method.objective else _nothing
        modules: list[nn.Module] = [self.encoder]
        modules += [self.objective] if isinstance(self.objective, nn.Module) else []
        self.modules = nn.ModuleList(modules).to(self.device)
        if self.device.type == "cuda":
            self.encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        rate = settings.learning_rate or method.learning_rate
        self.optimiser = torch.optim.Adam(self.modules.parameters(), rate, fused=True)

    def encode(self, images: Tensor) -> tuple[Tensor, Features]:
        """Pixels of uint8 images as network input, and their features."""
        x = self.images.normalise(images)
        if self.device.type == "cuda":
            x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.bf16):
            features: Features = self.encoder(x)
        return x, features

    def step(self, numbers: Tensor) -> dict[str, Tensor]:
        """One step on the training images of these numbers, (batch)."""
        loss = self.objective(*self.encode(self.images.train.images[numbers]))
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        return {"loss": loss}

    def parts(self) -> dict[str, Stateful]:
        """All that has a state."""
        return {"modules": self.modules, "optimiser": self.optimiser}

    @torch.no_grad()
    def features(self, images: Tensor, layers: tuple[str, ...] = Features._fields) -> list[Tensor]:
        """Frozen features of many images, a tensor a layer; kept in half precision but for z."""
        self.encoder.eval()
        chunks = []
        for chunk in images.split(CHUNK):
            _, told = self.encode(chunk)
            chunks.append([_kept(getattr(told, name), name) for name in layers])
        self.encoder.train()
        return [torch.cat(of_layer) for of_layer in zip(*chunks, strict=True)]


def _nothing(images: Tensor, features: Features) -> Tensor:
    """The objective of a step that learns nothing: what a step costs without one."""
    return 0 * features.y.sum()


def _kept(features: Tensor, name: str) -> Tensor:
    return features if name == "y" else features.half()


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

    A random encoder passes one epoch too, and changes nothing but the averages of its BatchNorm.

    Args:
        images: the data; computes on the device where it lies.
        run: which method and seed; the global random state stays as it was.
        settings: everything else.
        checkpoint: file that the run is kept in after each epoch.
        on_epoch: called with the figures of each epoch, those of the checkpoint first.
        on_step: called after each step with its loss.

    Returns:
        The encoder in its trainer after the last epoch, and the figures of all epochs.
    """
    device, epochs = images.train.images.device, list[Epoch]()
    with seeded(run.seed, device):
        trainer = Trainer(images, run, settings)

        def close(epoch: int, means: dict[str, float], seconds: float) -> Epoch:
            (z,) = trainer.features(images.validation.images, ("y",))
            part = images.train
            (known,) = trainer.features(part.images[:LINEAR_IMAGES], ("y",))
            accuracy = linear_accuracy(
                known, part.labels[:LINEAR_IMAGES], z, images.validation.labels
            )
            return Epoch(*run, epoch, means["loss"], effective_rank(z), accuracy, seconds)

        for row in fit(
            trainer.step,
            close,
            images=len(images.train),
            batch=settings.batch,
            epochs=epochs_of(run, settings),
            random=RandomState(device, run.seed),
            parts=trainer.parts(),
            checkpoint=Checkpoint(
                checkpoint, {"run": list(run), "settings": asdict(settings)}, Epoch
            ),
            on_step=on_step,
        ):
            epochs.append(row)
            on_epoch(row)
    return trainer, epochs


def epochs_of(run: Run, settings: Settings) -> int:
    """Epochs of a run: 0 without an encoder, 1 with a random one."""
    method = METHODS[run.method]
    return 0 if not method.encoder else settings.epochs if method.objective else 1


# Measuring


def effective_rank(z: Tensor) -> float:
    """Exp of the entropy of the normalised eigenvalues of Cov(z), (N, d); d where z is white."""
    share = torch.linalg.eigvalsh(z.double().mT.cov()).clamp(min=0)
    return torch.special.entr(share / share.sum()).sum().exp().item()


def linear_accuracy(z: Tensor, labels: Tensor, other: Tensor, other_labels: Tensor) -> float:
    """Share of right labels of other z, by least squares from z to the classes."""
    one = torch.ones_like
    design, asked = (torch.cat([codes, one(codes[:, :1])], 1).double() for codes in (z, other))
    gram = design.mT @ design
    ridge = 1e-6 * gram.diagonal().mean() * torch.eye(len(gram), device=z.device)
    weights = torch.linalg.solve(gram + ridge, design.mT @ F.one_hot(labels).double())
    return ((asked @ weights).argmax(1) == other_labels).double().mean().item()


def inputs_of(trainer: Trainer, run: Run, part: Split) -> dict[str, Tensor]:
    """What the probes read of a part, by layer: features, pixels, or principal components."""
    if METHODS[run.method].encoder:
        return dict(zip(Features._fields, trainer.features(part.images), strict=True))
    flat = trainer.images.normalise(part.images).flatten(1)
    if run.method == "pixels":
        return {"pixels": flat}
    train = trainer.images.normalise(trainer.images.train.images).flatten(1)
    mean = train.mean(0)
    variance, vectors = torch.linalg.eigh(train.mT.cov())
    kept = min(trainer.settings.latent, len(variance))
    scale = variance[-kept:].clamp(min=1e-6).sqrt()
    return {"y": (flat - mean) @ vectors[:, -kept:] / scale}


def train_probe(
    features: Tensor, labels: Tensor, classes: int, settings: Settings, seed: int
) -> nn.Sequential:
    """Train a probe on frozen features: Adam, 1e-3 falling to 0 in a straight line, batch 128.

    Args:
        features: (N, d), half precision or float32.
        labels: (N,).
        classes: their number.
        settings: with the epochs.
        seed: of weights, batches and dropout.

    Returns:
        The probe, for evaluation.
    """
    device, batch = features.device, min(128, len(labels))
    with seeded(seed, device):
        probe = probe_of(features.shape[1], classes).to(device)
        adam = torch.optim.Adam(probe.parameters(), 1e-3, fused=True)
        steps = settings.probe_epochs * (len(labels) // batch)
        falling = torch.optim.lr_scheduler.LinearLR(adam, 1.0, 0.0, steps)
        for _ in range(settings.probe_epochs):
            order = torch.randperm(len(labels))[: len(labels) // batch * batch].to(device)
            for numbers in order.split(batch):
                loss = F.cross_entropy(probe(features[numbers].float()), labels[numbers])
                adam.zero_grad()
                loss.backward()
                adam.step()
                falling.step()
    return probe.eval()


@torch.no_grad()
def accuracy_of(probe: nn.Module, features: Tensor, labels: Tensor) -> float:
    """Share of right labels."""
    right = [
        (probe(some.float()).argmax(1) == of).sum()
        for some, of in zip(features.split(CHUNK), labels.split(CHUNK), strict=True)
    ]
    return int(sum(right)) / len(labels)


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
