"""Training and measuring one classifier of the Information Bottleneck.

For a fair comparison, the following is the same for all methods:

* On digits, μ passes a BatchNorm without affine parameters, which fixes the scale of z. I(z; x)
  does not depend on the scale, so without BatchNorm errors of an estimated gradient would add up
  along the scale. (Only VIB has a prior, which fixes the scale.) ``--no-normalize`` gives the
  paper's network, without BatchNorm.
* A seed fixes the initial weights and the batches. All runs have the same number of epochs, and the
  weights of the last epoch are measured.
* Predictions are made from z = μ(x).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, StepLR
from torch.optim.swa_utils import AveragedModel

from mige_ext.experiments.bottleneck.methods import (
    METHODS,
    Classifier,
    Output,
    Penalty,
    Settings,
    cross_entropy,
)
from mige_ext.experiments.common.methods import descend
from mige_ext.experiments.common.runs import Row, Run
from mige_ext.experiments.common.training import Trainer as CommonTrainer
from mige_ext.experiments.data.images import ImageData, Split
from mige_ext.scores.base import stein_calibration

CHUNK = 2000  # images in one forward pass, to bound the memory


@dataclass(frozen=True)
class Epoch(Row):
    """A row of metrics.csv."""

    method: str  # this and the next three columns are the ``Run``
    beta: float
    seed: int
    images: int
    epoch: int  # from 1
    loss: float  # mean over the epoch; MIGE adds a surrogate, whose value means nothing
    cross_entropy: float  # nats, on the validation part
    val_error: float  # fraction of wrong predictions on the validation part
    average_error: float  # ``val_error`` with averaged weights; NaN without averaged weights
    information: float  # nats, ``information_bound`` on the validation part
    rank: float  # rank J of the score estimator for the last batch; NaN for an estimator without J
    calibration: float  # calibration of the score estimator for the last batch
    peeked_error: float  # fraction of wrong predictions on the test part; NaN without ``--peek``
    peeked_average_error: float  # ``peeked_error`` with averaged weights
    seconds: float = field(compare=False)  # training time, without the measurements


# Measuring


class Measurement(NamedTuple):
    """A classifier on one part of the data."""

    error: float  # fraction of wrong predictions
    cross_entropy: float  # nats
    information: float  # nats, an upper bound of I(z; x)


def information_bound(mean: Tensor, log_sigma: Tensor) -> float:
    """I(z; x) ≤ ½ log det Cov(z) − E Σ log σ, because a Gaussian has the largest entropy H(z).

    Cov(z) = Cov(μ) + diag E σ² needs no draws.

    Args:
        mean: μ, (N, d).
        log_sigma: log σ, (N, d).

    Returns:
        The bound in nats; infinity for a deterministic encoder.
    """
    if log_sigma.isneginf().any():
        return math.inf
    mean, log_sigma = mean.double(), log_sigma.double()
    covariance = mean.T.cov(correction=0) + (2 * log_sigma).exp().mean(0).diag()
    return (0.5 * covariance.logdet() - log_sigma.sum(-1).mean()).item()


@torch.no_grad()
def measure(model: Classifier, images: ImageData, part: Split) -> Measurement:
    """Measure a classifier on one part of the data, with predictions from z = μ(x)."""
    model.eval()
    outputs = [model(images.normalize(chunk)) for chunk in part.images.split(CHUNK)]
    model.train()
    mean, log_sigma, logits = (
        torch.cat([getattr(out, name) for out in outputs])
        for name in ("mean", "log_sigma", "logits")
    )
    logits = logits.squeeze(1)
    return Measurement(
        error=(logits.argmax(-1) != part.labels).float().mean().item(),
        cross_entropy=F.cross_entropy(logits, part.labels).item(),
        information=information_bound(mean, log_sigma),
    )


def diagnose(settings: Settings, codes: Tensor) -> tuple[float, float]:
    """Rank and calibration of the score estimator on codes (N, d)."""
    estimator = settings.make_estimator()
    if hasattr(estimator, "diagnose"):
        diagnostics = estimator.diagnose(codes.detach())
        return float(getattr(diagnostics, "rank", math.nan)), float(diagnostics.calibration)
    return math.nan, stein_calibration(codes.detach(), estimator.score(codes)).item()


# Training


def build(images: ImageData, run: Run, settings: Settings) -> Classifier:
    """The untrained classifier of a run, on the device of the images."""
    method = METHODS[run.method]
    return Classifier(
        math.prod(images.shape),
        images.classes,
        replace(settings, normalize=settings.normalize and not method.free_scale),
        stochastic=method.stochastic,
        dropout=run.value if method.dropout else settings.dropout,
    ).to(images.device)


def moving_average(decay: float) -> Callable[[Tensor, Tensor, Tensor | int], Tensor]:
    """Exponential moving average with a smaller decay at the first values.

    After n values the decay, the weight of the last average, is ``min(decay, (1 + n) / (10 + n))``.
    """

    def average_of(average: Tensor, value: Tensor, number: Tensor | int) -> Tensor:
        number = torch.as_tensor(number, device=value.device)
        kept = ((1 + number) / (10 + number)).clamp(max=decay)
        # Counts, such as the number of batches in a BatchNorm, are not averaged.
        return torch.lerp(value, average, kept) if value.is_floating_point() else value

    return average_of


def schedule_of(optimizer: torch.optim.Optimizer, settings: Settings) -> LRScheduler:
    """The schedule of the learning rate, whose ``step`` is called after each epoch."""
    if settings.schedule == "cosine":
        return CosineAnnealingLR(optimizer, T_max=settings.epochs)
    return StepLR(optimizer, step_size=2, gamma=0.96)


class Trainer(CommonTrainer):
    """A classifier, its averaged weights, its penalty, optimizer and schedule."""

    epoch_type = Epoch
    stateful = ("model", "optimizer", "schedule", "average", "penalty")

    def setup(self) -> None:
        """Make the classifier first, so that all methods have the same initial weights."""
        images, settings = self.problem, self.settings
        self.model = build(images, self.run, settings)
        self.average: AveragedModel | None = None
        if settings.average:
            average_of = moving_average(settings.average)
            self.average = AveragedModel(self.model, avg_fn=average_of, use_buffers=True)
        method, inputs = METHODS[self.run.method], math.prod(images.shape)
        self.penalty: Penalty | None = method.build(images.device, settings, inputs)
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), settings.learning_rate, betas=(0.5, 0.999), fused=True
        )
        self.schedule = schedule_of(self.optimizer, settings)
        self.out: Output | None = None  # the output for the last batch

    @property
    def averaged(self) -> Classifier | None:
        """The classifier with the averaged weights, if there are any."""
        model: Any = self.average and self.average.module
        return model

    def step(self, rows: Tensor) -> dict[str, Tensor]:
        """Take a step that minimizes the cross-entropy plus β times the penalty."""
        part = self.problem.train
        x, labels = self.problem.normalize(part.images[rows]), part.labels[rows]
        self.out = out = self.model(x, self.settings.draws)
        loss = cross_entropy(out, labels, self.settings.smoothing)
        if self.penalty is not None:
            loss = loss + self.run.value * self.penalty(out, x, labels)
        descend(self.optimizer, loss)
        if self.average is not None:
            self.average.update_parameters(self.model)
        return {"loss": loss}

    def close(self) -> dict[str, float]:
        """Measure the classifier on the validation part, and with ``--peek`` on the test part."""
        assert self.out is not None
        self.schedule.step()
        images, columns = self.problem, dict[str, float]()
        if self.averaged is not None:
            columns["average_error"] = measure(self.averaged, images, images.validation).error
        measured = measure(self.model, images, images.validation)
        columns |= {"val_error": measured.error, "cross_entropy": measured.cross_entropy}
        rank, calibration = diagnose(self.settings, self.out.z[:, 0])
        columns |= {"information": measured.information, "rank": rank, "calibration": calibration}
        if self.settings.peek:
            columns["peeked_error"] = measure(self.model, images, images.test).error
            if self.averaged is not None:
                columns["peeked_average_error"] = measure(self.averaged, images, images.test).error
        return columns
