"""The Information Bottleneck: a code z that tells the class and as little else about x as possible.

A stochastic encoder ``q(z|x) = N(μ(x), σ(x)²)`` and a decoder ``p(y|z)`` minimise

    E[−log p(y|z)] + β I(z; x),    I(z; x) = H(z) − H(z|x).

* **deterministic** is the control: the same network, ``z = μ(x)``, no second term.
* **VIB** replaces I by an upper bound, ``E KL(q(z|x) ‖ N(0, I))`` (Alemi et al., ICLR 2017).
* **MIGE** follows the gradient of I itself (Wen et al., ICLR 2020, circumstance III): that of H(z)
  by the score of z, that of ``H(z|x) = E Σ log σ`` + constant in closed form.

What is the same for all of them, so that they can be compared:

* μ passes a BatchNorm without an affine part. I(z; x) does not change when z is rescaled, so the
  loss leaves the scale free: the errors of an estimated gradient pile up there, and a prior gains
  by fixing the scale alone. ``--no-normalise`` is the network without it.
* One seed means the same first weights and the same batches; equal epochs, and the last one counts.
* Predictions are made from z = μ(x).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import mige_ext as mige
from mige_ext.experiments.data import ImageData, Split


@dataclass(frozen=True)
class Settings:
    """What the numbers of a run depend on, beside method, β and seed.

    The defaults were chosen on the validation part of digits.

    Attributes:
        data: data set, a name of `data.names()`.
        epochs: passes over the training images.
        batch: N, inputs in a step; an incomplete last batch is dropped, scores depend on N.
        draws: K, draws of z for each input in a step.
        latent: d, dimension of z.
        hidden: units in each of the encoder's two hidden layers.
        learning_rate: of Adam, × 0.96 every 2 epochs.
        normalise: BatchNorm without affine part on μ.
        threshold: of SSGE.
        calibrate: Stein calibration of SSGE. Without it the score of H(z) is shrunk and that of
            H(z|x) is not: their difference is then no information, and σ is driven up.
        conditional: H(z|x) "analytic", or from the "draws".
    """

    data: str = "digits"
    epochs: int = 100
    batch: int = 100
    draws: int = 4
    latent: int = 16
    hidden: int = 256
    learning_rate: float = 1e-3
    normalise: bool = True
    threshold: float = 0.94
    calibrate: bool = True
    conditional: str = "analytic"

    def __post_init__(self) -> None:
        """Check the values; the data set is checked where it is loaded."""
        for name, least in {"epochs": 1, "batch": 2, "draws": 1, "latent": 1, "hidden": 1}.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")
        if self.conditional not in ("analytic", "draws"):
            raise ValueError(f"conditional must be 'analytic' or 'draws', got {self.conditional!r}")
        if self.conditional == "draws" and self.draws < 2:
            raise ValueError(f"draws must be at least 2 with conditional='draws', got {self.draws}")
        _ = self.estimator  # checks the threshold

    @property
    def estimator(self) -> mige.SSGE:
        """The score estimator of these settings."""
        return mige.SSGE(threshold=self.threshold, calibrate="stein" if self.calibrate else None)


# The network


class Output(NamedTuple):
    """What the network makes of N inputs with K draws each."""

    mean: Tensor  # (N, d), μ
    log_sigma: Tensor  # (N, d), log σ; −inf where the encoder is deterministic
    z: Tensor  # (N, K, d)
    logits: Tensor  # (N, K, classes)


class Classifier(nn.Module):
    """Encoder of two hidden layers, linear decoder.

    Args:
        inputs: pixels of an image.
        classes: number of labels.
        stochastic: whether z is drawn, or μ.
        settings: sizes, and the normalisation.
    """

    def __init__(self, inputs: int, classes: int, stochastic: bool, settings: Settings) -> None:
        super().__init__()
        hidden, latent = settings.hidden, settings.latent
        self.stochastic = stochastic
        self.body = nn.Sequential(
            nn.Flatten(),
            nn.Linear(inputs, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
        )
        self.mean = nn.Linear(hidden, latent)
        self.spread = nn.Linear(hidden, latent)
        self.norm = nn.BatchNorm1d(latent, affine=False) if settings.normalise else nn.Identity()
        self.decoder = nn.Linear(latent, classes)

    def forward(self, x: Tensor, draws: int | None = None) -> Output:
        """Encode and decode x (N, C, H, W); without draws, z = μ(x)."""
        features = self.body(x)
        mean = self.norm(self.mean(features))
        if self.stochastic:
            # Alemi et al.: σ starts near 0.007, as an almost deterministic encoder
            log_sigma = F.softplus(self.spread(features) - 5).log()
        else:
            log_sigma = torch.full_like(mean, -math.inf)
        z = mean.unsqueeze(1)
        if self.stochastic and draws is not None:
            noise = torch.randn(len(x), draws, mean.shape[-1])
            z = z + log_sigma.exp().unsqueeze(1) * noise
        return Output(mean, log_sigma, z, self.decoder(z))


# The methods: what stands for I(z; x) in the loss

Penalty = Callable[[Output], Tensor]


def variational(_: Settings) -> Penalty:
    """KL(q(z|x) ‖ N(0, I)) = ½ Σ (μ² + σ² − 1) − Σ log σ, mean over the inputs."""

    def penalty(out: Output) -> Tensor:
        second_moment = out.mean.square() + (2 * out.log_sigma).exp()
        return (0.5 * (second_moment - 1) - out.log_sigma).sum(-1).mean()

    return penalty


def information_gradient(settings: Settings) -> Penalty:
    """I(z; x) = H(z) − H(z|x), a surrogate with the gradient of both terms."""

    def penalty(out: Output) -> Tensor:
        conditional = out.log_sigma.sum(-1) if settings.conditional == "analytic" else None
        return mige.encoder_information(
            out.z, estimator=settings.estimator, conditional=conditional
        )

    return penalty


@dataclass(frozen=True)
class Method:
    """A row of the comparison.

    Attributes:
        label: in the table and the figure.
        penalty: makes the term that β multiplies; None for none.
        stochastic: whether the encoder draws z.
    """

    label: str
    penalty: Callable[[Settings], Penalty] | None
    stochastic: bool = True


METHODS = {
    "baseline": Method("deterministic", penalty=None, stochastic=False),
    "vib": Method("VIB", penalty=variational),
    "mige": Method("MIGE", penalty=information_gradient),
}


# Measuring and training


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
    out = model(images.normalise(part.images))
    model.train()
    logits = out.logits.squeeze(1)
    return Measurement(
        error=(logits.argmax(-1) != part.labels).float().mean().item(),
        cross_entropy=F.cross_entropy(logits, part.labels).item(),
        information=information_bound(out.mean, out.log_sigma),
    )


@dataclass(frozen=True)
class Epoch:
    """A row of metrics.csv.

    Attributes:
        method: name in `METHODS`.
        beta: β; 0 for a method without a penalty.
        seed: of weights, batches and noise.
        epoch: from 1.
        loss: mean of the training loss; of MIGE only its gradient means anything.
        cross_entropy: on the validation part, in nats.
        val_error: share of wrong predictions on the validation part.
        information: `information_bound` on the validation part, in nats.
        rank: eigenvalues that the score estimator keeps for the codes of the last batch.
        calibration: how much it shrinks their score before correction; 1 is not at all.
    """

    method: str
    beta: float
    seed: int
    epoch: int
    loss: float
    cross_entropy: float
    val_error: float
    information: float
    rank: int
    calibration: float


def build(images: ImageData, method: str, settings: Settings) -> Classifier:
    """The untrained classifier of a method for images of this kind."""
    return Classifier(math.prod(images.shape), images.classes, METHODS[method].stochastic, settings)


def train(
    images: ImageData,
    method: str,
    beta: float,
    seed: int,
    settings: Settings,
    on_epoch: Callable[[Epoch], None],
) -> tuple[Classifier, list[Epoch]]:
    """Train one classifier.

    Args:
        images: the data.
        method: name in `METHODS`.
        beta: β.
        seed: of weights, batches and noise; the global random state stays as it was.
        settings: everything else.
        on_epoch: called with the figures of each epoch.

    Returns:
        The classifier after the last epoch, and the figures of all epochs.
    """
    part, make_penalty = images.train, METHODS[method].penalty
    steps = len(part) // settings.batch
    epochs: list[Epoch] = []
    # A stream of its own: methods draw different amounts of noise, and see the same batches.
    shuffle = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build(images, method, settings)
        penalty = make_penalty(settings) if make_penalty else None
        optimiser = torch.optim.Adam(
            model.parameters(), lr=settings.learning_rate, betas=(0.5, 0.999)
        )
        schedule = torch.optim.lr_scheduler.StepLR(optimiser, step_size=2, gamma=0.96)
        for epoch in range(1, settings.epochs + 1):
            total = 0.0
            order = torch.randperm(len(part), generator=shuffle)[: steps * settings.batch]
            for batch in order.split(settings.batch):
                out = model(images.normalise(part.images[batch]), settings.draws)
                labels = part.labels[batch].unsqueeze(1).expand(out.logits.shape[:2])
                loss = F.cross_entropy(out.logits.flatten(0, 1), labels.flatten())
                if penalty is not None:
                    loss = loss + beta * penalty(out)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                total += loss.item()
            schedule.step()
            measured = measure(model, images, images.validation)
            score = settings.estimator.diagnose(out.z[:, 0])
            epochs.append(
                Epoch(
                    method,
                    beta,
                    seed,
                    epoch,
                    loss=total / steps,
                    cross_entropy=measured.cross_entropy,
                    val_error=measured.error,
                    information=measured.information,
                    rank=int(score.rank),
                    calibration=score.calibration.item(),
                )
            )
            on_epoch(epochs[-1])
    return model, epochs
