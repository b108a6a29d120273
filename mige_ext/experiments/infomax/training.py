"""Training the encoder of InfoMax, without labels."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import mige_ext as mige
from mige_ext.experiments.common.estimators import ESTIMATORS, make_estimator
from mige_ext.experiments.common.methods import descend
from mige_ext.experiments.common.options import Checked, data_option, option
from mige_ext.experiments.common.runs import Row
from mige_ext.experiments.common.training import Trainer as CommonTrainer
from mige_ext.experiments.data.images import ImageData
from mige_ext.experiments.infomax.encoders import (
    NORMALIZATIONS,
    Encoder,
    Pixels,
    PrincipalComponents,
    encode,
    frozen,
)
from mige_ext.experiments.infomax.methods import METHODS, Objective, Problem
from mige_ext.experiments.infomax.probes import effective_rank, linear_accuracy
from mige_ext.scores.base import ScoreEstimator

LINEAR_IMAGES = 10_000  # largest number of images to which ``linear_accuracy`` fits its classifier


@dataclass(frozen=True)
class Settings(Checked):
    """Everything on which the numbers of a run depend, except method, learning rate and seed."""

    data: str = data_option("cifar10", shown="cifar10; --quick: digits")
    epochs: int = option(20, "Passes over the images.", least=0, shown="20; --quick: 10")
    batch: int = option(128, "Images in a step, from which scores are estimated.", least=2)
    latent: int = option(64, "Dimensions of z.", least=1, shown="64; --quick: 16")
    #: The second convolution has 2·width channels, and the third 4·width.
    width: int = option(64, "Channels of the first convolution.", least=1, shown="64; --quick: 16")
    hidden: int = option(1024, "Units of the layer fc.", least=1, shown="1024; --quick: 128")
    #: Without normalization, z grows without bound, because the entropy is maximized.
    normalize: str = option("batch", "Normalization of z.", choices=NORMALIZATIONS)
    projection: int = option(64, "Dimensions of the projected images or features.", least=1)
    alpha: float = option(
        1.0,
        "Mean squared distance of the projected samples, divided by that of the codes z.",
        positive=True,
    )
    estimator: str = option("default", "Score estimator.", choices=("default", *ESTIMATORS))
    threshold: float = option(0.99, "Fraction of the spectrum that SSGE keeps.")
    prior: float = option(1.0, "Weight of prior matching.", least=0)
    bf16: bool = option(False, "Compute the encoder in bfloat16 by autocast.", "--bf16")
    probe_epochs: int = option(10, "Passes of the probes over the training images.", least=1)

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        self.make_estimator()  # checks the threshold

    def make_estimator(self) -> ScoreEstimator | None:
        """The score estimator of these settings; None for the default of the library."""
        if self.estimator == "default":
            return None
        return make_estimator(self.estimator, threshold=self.threshold)


@dataclass(frozen=True)
class Epoch(Row):
    """A row of metrics.csv."""

    setting = "learning_rate"

    method: str  # this and the next three columns are the ``Run``
    learning_rate: float
    seed: int
    images: int
    epoch: int  # from 1
    loss: float  # mean over the epoch; the loss of MIGE is a surrogate, whose value means nothing
    rank: float  # effective rank of z on the validation part
    linear_accuracy: float  # result of the function ``linear_accuracy`` on the validation part
    seconds: float = field(compare=False)  # training time, without the measurements


def network(method: str, images: ImageData, settings: Settings) -> Any:
    """The untrained encoder of a method, or the pixels or principal components in its place."""
    if method == "pixels":
        return Pixels()
    if method == "pca":
        return PrincipalComponents(math.prod(images.shape), settings.latent)
    return Encoder(
        images.shape,
        width=settings.width,
        hidden=settings.hidden,
        latent=settings.latent,
        normalize=settings.normalize,
    )


class Trainer(CommonTrainer):
    """An encoder, its objective and its optimizer.

    A random encoder has no objective, and an epoch changes only the averages of BatchNorm. Pixels
    and principal components have no epochs.
    """

    epoch_type = Epoch
    stateful = ("encoder", "optimizer", "objective")
    extra = "objective"
    objective: Objective | None = None
    optimizer: torch.optim.Adam | None = None

    def setup(self) -> None:
        """Make the encoder first, so that all methods have the same initial weights."""
        images, run, settings = self.problem, self.run, self.settings
        self.encoder = network(run.method, images, settings)
        if not METHODS[run.method].encoder:
            self.encoder.to(images.device).fit(images.normalize(images.train.images))
            return
        problem = Problem(
            self.encoder.conv_size,
            settings.latent,
            settings.make_estimator(),
            mige.RandomProjection(settings.projection, seed=run.seed),
            settings.alpha,
            settings.prior,
        )
        self.objective = METHODS[run.method].build(images.device, problem)
        if self.objective is None:
            for layer in self.encoder.modules():
                if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
                    layer.momentum = None  # the mean over all steps instead of a moving average
        parts = (self.encoder, self.objective)
        self.modules = nn.ModuleList(part for part in parts if isinstance(part, nn.Module))
        self.encoder.to(images.device, memory_format=torch.channels_last)
        self.optimizer = torch.optim.Adam(self.modules.parameters(), run.value, fused=True)

    def step(self, rows: Tensor) -> dict[str, Tensor]:
        """Take a step that minimizes the objective on training images."""
        pixels = self.problem.train.images[rows]
        x, features = encode(self.encoder, self.problem, pixels, bf16=self.settings.bf16)
        # Without an objective, a step does not train the encoder.
        loss = 0 * features.z.sum() if self.objective is None else self.objective(x, features)
        assert self.optimizer is not None
        descend(self.optimizer, loss)
        return {"loss": loss}

    def close(self) -> dict[str, float]:
        """Measure the encoder on the validation part."""
        seen, asked = self.problem.train, self.problem.validation
        z_seen, z = (self._codes(pixels) for pixels in (seen.images[:LINEAR_IMAGES], asked.images))
        accuracy = linear_accuracy(z_seen, seen.labels[:LINEAR_IMAGES], z, asked.labels)
        return {"rank": effective_rank(z), "linear_accuracy": accuracy}

    def _codes(self, pixels: Tensor) -> Tensor:
        return frozen(self.encoder, self.problem, pixels, bf16=self.settings.bf16, layers=["z"])[
            "z"
        ]
