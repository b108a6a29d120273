"""Training and measuring one classifier of the Information Bottleneck.

What is the same for all methods, so that they can be compared:

* On digits μ passes a BatchNorm without an affine part. I(z; x) does not change when z is rescaled,
  so the loss leaves the scale free: the errors of an estimated gradient pile up there, and a prior
  gains by fixing the scale alone. ``--no-normalise`` is the network without it, the paper's.
* One seed means the same first weights and the same batches; equal epochs, and the last one counts.
* Predictions are made from z = μ(x).
"""

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

from mige_ext.experiments.bottleneck.methods import (
    METHODS,
    Classifier,
    Output,
    Penalty,
    Settings,
    cross_entropy,
)
from mige_ext.experiments.common.training import (
    Checkpoint,
    RandomState,
    Stateful,
    fit,
    overhead,
    seeded,
    shuffled,
)
from mige_ext.experiments.data.images import ImageData, Split
from mige_ext.scores.base import stein_calibration

CHUNK = 2000  # images measured at once, to bound the memory


class Run(NamedTuple):
    """Which run it is, beside the settings."""

    method: str  # name in METHODS
    beta: float  # β; 0 for a method without one
    seed: int  # of weights, batches and noise
    images: int  # number of training images: without or with the validation part

    @property
    def stem(self) -> str:
        """Of the names of its files."""
        return f"{self.method}-beta{self.beta}-seed{self.seed}-{self.images}"


@dataclass(frozen=True)
class Epoch:
    """A row of metrics.csv; the first four say which `Run` it is.

    Attributes:
        method: name in `METHODS`.
        beta: β; 0 for a method without a penalty.
        seed: of weights, batches and noise.
        images: number of training images.
        epoch: from 1.
        loss: mean of the training loss; of MIGE only its gradient means anything.
        cross_entropy: on the validation part, in nats.
        val_error: share of wrong predictions on the validation part.
        average_error: the same with the averaged weights; NaN without them.
        information: `information_bound` on the validation part, in nats.
        rank: eigenvalues that the score estimator keeps for the codes of the last batch; NaN of an
            estimator that has none.
        calibration: ``−E s·(z − m) / d`` of its scores there, before a correction where the
            estimator tells; 1 is not shrunk.
        seconds: of training, without the measurements.
    """

    method: str
    beta: float
    seed: int
    images: int
    epoch: int
    loss: float
    cross_entropy: float
    val_error: float
    average_error: float
    information: float
    rank: float
    calibration: float
    seconds: float = field(compare=False)


# Measuring


class Measurement(NamedTuple):
    """A classifier on one part of the data."""

    error: float  # share of wrong predictions
    cross_entropy: float  # nats
    information: float  # nats, an upper bound of I(z; x)


def information_bound(mean: Tensor, log_sigma: Tensor) -> float:
    """I(z; x) ≤ ½ log det Cov(z) − E Σ log σ, in nats: a Gaussian has the largest entropy H(z).

    Cov(z) = Cov(μ) + diag E σ² needs no draws. Infinite for a deterministic encoder.

    Args:
        mean: μ, (N, d).
        log_sigma: log σ, (N, d).

    Returns:
        The bound.
    """
    if log_sigma.isneginf().any():
        return math.inf
    mean, log_sigma = mean.double(), log_sigma.double()
    covariance = mean.T.cov(correction=0) + (2 * log_sigma).exp().mean(0).diag()
    return (0.5 * covariance.logdet() - log_sigma.sum(-1).mean()).item()


@torch.no_grad()
def measure(model: Classifier, images: ImageData, part: Split) -> Measurement:
    """Measure a classifier on one part of the data, predicting from z = μ(x)."""
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
        told = estimator.diagnose(codes.detach())
        return float(getattr(told, "rank", math.nan)), float(told.calibration)
    return math.nan, stein_calibration(codes.detach(), estimator.score(codes)).item()


# Training


@dataclass
class Trained:
    """A classifier, and its averaged weights where there are any."""

    model: Classifier
    average: AveragedModel | None

    @property
    def averaged(self) -> Classifier | None:
        """The classifier with the averaged weights."""
        if self.average is None:
            return None
        assert isinstance(self.average.module, Classifier)
        return self.average.module


def build(images: ImageData, run: Run, settings: Settings) -> Trained:
    """The untrained classifier of a run, on the device of the images."""
    method = METHODS[run.method]
    model = Classifier(
        math.prod(images.shape),
        images.classes,
        replace(settings, normalise=settings.normalise and not method.free_scale),
        stochastic=method.stochastic,
        dropout=run.beta if method.dropout else 0.0,
    ).to(images.train.images.device)
    average = None
    if settings.average:
        average = AveragedModel(model, avg_fn=moving_average(settings.average), use_buffers=True)
    return Trained(model, average)


def moving_average(decay: float) -> Callable[[Tensor, Tensor, Tensor | int], Tensor]:
    """Exponential moving average that forgets its beginning sooner.

    After n values the old average keeps the share ``min(decay, (1 + n) / (10 + n))``.
    """

    def average_of(average: Tensor, value: Tensor, number: Tensor | int) -> Tensor:
        number = torch.as_tensor(number, device=value.device)
        kept = ((1 + number) / (10 + number)).clamp(max=decay)
        # Counts, such as that of the batches in a BatchNorm, are no averages.
        return torch.lerp(value, average, kept) if value.is_floating_point() else value

    return average_of


class Trainer:
    """Everything that a run changes: network, penalty, optimiser, schedule, and the average.

    Args:
        images: the data.
        run: which method, β and seed.
        settings: everything else.
    """

    def __init__(self, images: ImageData, run: Run, settings: Settings) -> None:
        self.images, self.beta, self.draws = images, run.beta, settings.draws
        self.trained = build(images, run, settings)
        make_penalty = METHODS[run.method].penalty
        self.penalty: Penalty | None = None
        if make_penalty is not None:
            self.penalty = make_penalty(settings, math.prod(images.shape))
        if isinstance(self.penalty, nn.Module):
            self.penalty.to(images.train.images.device)
        self.optimiser = torch.optim.Adam(
            self.trained.model.parameters(), settings.learning_rate, betas=(0.5, 0.999), fused=True
        )
        self.schedule = torch.optim.lr_scheduler.StepLR(self.optimiser, step_size=2, gamma=0.96)
        self.out: Output | None = None  # of the last batch

    def step(self, numbers: Tensor) -> dict[str, Tensor]:
        """One step on the training images of these numbers, (batch)."""
        part = self.images.train
        x, labels = self.images.normalize(part.images[numbers]), part.labels[numbers]
        self.out = out = self.trained.model(x, self.draws)
        loss = cross_entropy(out, labels)
        if self.penalty is not None:
            loss = loss + self.beta * self.penalty(out, x, labels)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        if self.trained.average is not None:
            self.trained.average.update_parameters(self.trained.model)
        return {"loss": loss}

    def parts(self) -> dict[str, Stateful]:
        """All that has a state."""
        parts: dict[str, Stateful | None] = {
            "model": self.trained.model,
            "optimiser": self.optimiser,
            "schedule": self.schedule,
            "average": self.trained.average,
            "penalty": self.penalty if isinstance(self.penalty, nn.Module) else None,
        }
        return {name: part for name, part in parts.items() if part is not None}


def train(
    images: ImageData,
    run: Run,
    settings: Settings,
    *,
    checkpoint: Path | None = None,
    on_epoch: Callable[[Epoch], object] = lambda _: None,
    on_step: Callable[[Mapping[str, Tensor]], object] | None = None,
) -> tuple[Trained, list[Epoch]]:
    """Train one classifier, from the checkpoint on where it holds this run.

    Args:
        images: the data; computes on the device where it lies.
        run: which method, β and seed; the global random state stays as it was.
        settings: everything else.
        checkpoint: file that the run is kept in after each epoch.
        on_epoch: called with the figures of each epoch, those of the checkpoint first.
        on_step: called after each step with its loss.

    Returns:
        The classifier after the last epoch, and the figures of all epochs.

    Raises:
        DivergedError: see `fit`.
    """
    device = images.train.images.device
    epochs: list[Epoch] = []
    with seeded(run.seed, device):
        # Batches have a stream of their own: methods draw different amounts of noise.
        random = RandomState(device, run.seed)
        trainer = Trainer(images, run, settings)
        trained = trainer.trained

        def close(epoch: int, means: dict[str, float], seconds: float) -> Epoch:
            assert trainer.out is not None
            trainer.schedule.step()
            measured = measure(trained.model, images, images.validation)
            average_error = math.nan
            if trained.averaged is not None:
                average_error = measure(trained.averaged, images, images.validation).error
            rank, calibration = diagnose(settings, trainer.out.z[:, 0])
            return Epoch(
                *run,
                epoch,
                loss=means["loss"],
                cross_entropy=measured.cross_entropy,
                val_error=measured.error,
                average_error=average_error,
                information=measured.information,
                rank=rank,
                calibration=calibration,
                seconds=seconds,
            )

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
    return trained, epochs


def penalty_overhead(images: ImageData, run: Run, settings: Settings, repeats: int = 10) -> float:
    """What the penalty adds to a step, as a share of the step without it.

    The fastest steps with and without, in turns, on a classifier of its own: what disturbs a
    measurement makes it slower.
    """
    device = images.train.images.device
    if METHODS[run.method].penalty is None:
        return 0.0
    with seeded(run.seed, device):
        full = Trainer(images, run, settings)
        plain = copy.copy(full)
        plain.penalty = None
        numbers = torch.arange(settings.batch, device=device)
        steps = (lambda: full.step(numbers)), (lambda: plain.step(numbers))
        return overhead(*steps, device, repeats)
