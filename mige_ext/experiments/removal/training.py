"""Training an encoder that keeps the label and forgets the nuisance, and measuring both."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mige_ext.audit import Leakage, leakage
from mige_ext.experiments.common.methods import descend
from mige_ext.experiments.common.options import Checked, data_option, fixed, option
from mige_ext.experiments.common.runs import Row, Run
from mige_ext.experiments.common.training import DivergedError, seeded
from mige_ext.experiments.common.training import Trainer as CommonTrainer
from mige_ext.experiments.data import tables
from mige_ext.experiments.data.table_files import TABLES
from mige_ext.experiments.removal.methods import METHODS, MODELS
from mige_ext.experiments.removal.models import Model
from mige_ext.experiments.removal.nuisances import NUISANCES, Problem

EPOCH = 100  # steps between checkpoints and measurements
LEAST_GROUP = 0.02  # smaller groups, as a fraction of all rows, do not count in shifted_accuracy
EPOCH_ROWS = 2000  # rows of the validation part on which the accuracy of an epoch is measured


class Codes(NamedTuple):
    """N frozen representations with the nuisance that they should not reveal."""

    z: Tensor  # (N, d)
    s: Tensor  # (N, k) float32, or (N,) int64 if it is categorical
    label: Tensor  # (N,) int64


class Predictions(NamedTuple):
    """Whether the label of each of N rows was predicted, and the group of each row."""

    right: Tensor  # (N,) bool
    group: Tensor  # (N,) int64, the bin or class of s

    @property
    def accuracy(self) -> float:
        """Fraction of right labels."""
        return self.right.double().mean().item()

    @property
    def shifted_accuracy(self) -> float:
        """Least accuracy within a bin or class of s: the worst case if the distribution shifts.

        Groups with less than ``LEAST_GROUP`` of the rows are left out.
        """
        counts = self.group.bincount()
        rights = self.group.bincount(self.right.double())
        kept = counts >= max(1.0, LEAST_GROUP * len(self.group))
        return (rights[kept] / counts[kept]).min().item()


@dataclass(frozen=True)
class Settings(Checked):
    """Everything on which the numbers of a run depend, besides method, β and seed."""

    data: str = data_option(
        "mnist",
        f"; or a table: structural, {', '.join(tables.names())}",
        "mnist; --quick: structural",
    )
    nuisance: str = option(
        "rotation",
        f"What is removed. Images: {', '.join(NUISANCES)}. "
        + " ".join(f"{name}: {', '.join(of.nuisances)}." for name, of in TABLES.items()),
        shown="images rotation; adult age; compas race; crime racepctblack; health age_group",
    )
    given: str = option(
        "none",
        "What is known beside z. With label, z may reveal what the label reveals about s: MIGE "
        "penalizes I(s; z | label), and the leak is measured within the labels.",
        choices=("none", "label"),
    )
    choice: str = option(
        "leak",
        "Choice of β among the values that are accurate enough: leak takes the value with the "
        "least leak, and blind takes the largest value, which needs no s.",
        choices=("leak", "blind"),
    )
    steps: int = option(800, "Training steps.", least=1, shown="800; --quick: 200")
    batch: int = option(256, "Rows in a step, the samples of a score.", least=8)
    latent: int = option(8, "Dimensions of z.", least=1)
    hidden: int = fixed(512, "Units of the encoder's first layer; the second has half.", least=2)
    #: The learning rate decays linearly to 0.
    learning_rate: float = fixed(2e-3, "First learning rate of Adam.", positive=True)
    ramp: int = fixed(150, "Steps in which β grows to its value.", least=1)
    #: This noise gives s a density, which scores need.
    noise: float = fixed(0.2, "Standard deviation of the noise on s in training.", least=0)
    codes: int = option(
        20_000,
        "Codes to train attackers on, in the search.",
        least=50,
        shown="20000; --quick: 2000",
    )
    test_codes: int = option(
        50_000, "Codes to train attackers on, for the test.", least=50, shown="50000; --quick: 2000"
    )
    attack_epochs: int = fixed(10, "Epochs of the attackers' perceptrons.", least=1)

    @property
    def epochs(self) -> int:
        """Number of epochs of ``EPOCH`` steps; the last may have fewer steps."""
        return math.ceil(self.steps / EPOCH)


@dataclass(frozen=True)
class Epoch(Row):
    """A row of metrics.csv."""

    method: str  # this and the next two columns are the ``Run``
    beta: float
    seed: int
    step: int  # number of steps so far
    cross_entropy: float  # of the label, in nats, mean over the epoch
    accuracy: float  # on part of the validation part
    seconds: float = field(compare=False)  # training time, without the measurement


def model_type(method: str) -> type[Model]:
    """The class of the models of a method."""
    return MODELS.get(method, Model)


def make_model(problem: Problem, settings: Settings, run: Run) -> Model:
    """The model of a run, with initial weights."""
    return model_type(run.method)(problem, settings, run.value).to(problem.device)


class Trainer(CommonTrainer):
    """A model, its penalty, optimizer and schedule. All methods get the same batches."""

    epoch_type = Epoch
    stateful = ("model", "optimizer", "schedule", "penalty")

    def setup(self) -> None:
        """Make the model first, so that all methods have the same initial weights."""
        problem, settings, self.generator = self.problem, self.settings, self.random.order
        self.model = make_model(problem, settings, self.run)
        method = METHODS[self.run.method]
        self.penalty = method.build(problem.device, problem, settings.latent)
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), settings.learning_rate, fused=True
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda done: 1 - (done + 1) / (settings.steps + 1)
        )

    def batches(self) -> Iterable[Tensor]:
        """Random rows for each step of the next epoch, (batch) each."""
        remaining = self.settings.steps - self.schedule.last_epoch
        for _ in range(min(remaining, EPOCH)):
            yield torch.randint(
                self.problem.count("train"), (self.settings.batch,), generator=self.generator
            )

    def step(self, rows: Tensor) -> dict[str, Tensor]:
        """Descend the cross-entropy of the label plus β times the penalty."""
        batch = self.problem.draw("train", rows, self.generator)
        z = self.model.encoder(batch.x)
        cross_entropy = F.cross_entropy(self.model.head(z), batch.label)
        noise = torch.randn(batch.s.shape, generator=self.generator).to(self.problem.device)
        noisy = batch._replace(s=batch.s + self.settings.noise * noise)
        ramp = min((self.schedule.last_epoch + 1) / self.settings.ramp, 1)
        penalty = self.model.penalty if self.penalty is None else self.penalty
        descend(self.optimizer, cross_entropy + self.run.value * ramp * penalty(z, noisy))
        self.schedule.step()
        return {"cross_entropy": cross_entropy.detach()}

    def close(self) -> dict[str, float]:
        """Measure the accuracy on part of the validation part; finish after the last step."""
        if self.schedule.last_epoch == self.settings.steps:
            self.model.finish(self.problem, self.settings, self.run.seed)
        _, predicted = encode(
            self.model.eval(), self.problem, "validation", self.run.seed, EPOCH_ROWS
        )
        self.model.train()
        return {"step": self.schedule.last_epoch, "accuracy": predicted.accuracy}


@torch.no_grad()
def encode(
    model: Model, problem: Problem, part: str, seed: int, limit: int | None = None
) -> tuple[Codes, Predictions]:
    """Encode a part of the data.

    Args:
        model: Trained model, in evaluation mode.
        problem: Data.
        part: Part of the data.
        seed: Seed of the nuisances, of the choice of rows, and of codes that are drawn.
        limit: Largest number of rows; None takes all.

    Returns:
        The codes with their nuisances, and the predictions of the labels.

    Raises:
        DivergedError: the codes are not finite.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(problem.count(part), generator=generator)[:limit]
    codes, predictions = [], []
    with seeded(seed, problem.device):
        for chunk in rows.split(2000):
            batch = problem.draw(part, chunk, generator)
            z = model.encoder(batch.x)
            right = model.head(z).argmax(1) == batch.label
            codes.append(Codes(z, batch.bin if problem.categorical else batch.s, batch.label))
            predictions.append(Predictions(right, batch.bin))
    whole = Codes(*map(torch.cat, zip(*codes, strict=True)))
    if not whole.z.isfinite().all():  # argmax would still give predictions
        raise DivergedError(f"the codes of the {part} part are not finite")
    return whole, Predictions(*map(torch.cat, zip(*predictions, strict=True)))


def measure(
    model: Model, problem: Problem, part: str, settings: Settings, seed: int
) -> tuple[Predictions, Leakage]:
    """Predictions and leak on a part that neither the encoder nor the attackers were trained on.

    Raises:
        DivergedError: the codes are not finite.
    """
    limit = settings.test_codes if part == "test" else settings.codes
    codes, predicted = encode(model, problem, part, seed + 1)
    train_codes, _ = encode(model, problem, "train", seed, limit)
    if problem.given_label:
        return predicted, within_labels(train_codes, codes, settings, seed)
    return predicted, attack(train_codes, codes, settings, seed)


def attack(train: Codes, codes: Codes, settings: Settings, seed: int) -> Leakage:
    """The leak of codes, by attackers that are fitted to training codes."""
    return leakage(
        train.z,
        train.s,
        test=(codes.z, codes.s),
        epochs=settings.attack_epochs,
        seed=seed,
        progress=False,
    )


def within_labels(train: Codes, codes: Codes, settings: Settings, seed: int) -> Leakage:
    """The leak of s in codes of the same label: a lower bound of I(z; s | label).

    The numbers are means over the labels, weighted by the frequencies of the labels. ``attacker``
    is the attacker of the most frequent label.
    """

    def of(part: Codes, label: Tensor) -> Codes:
        return Codes(*(column[part.label == label] for column in part))

    labels, counts = codes.label.unique(return_counts=True)
    found = [attack(of(train, y), of(codes, y), settings, seed) for y in labels]
    weights = (counts / counts.sum()).tolist()

    def mean(values: Iterable[float]) -> float:
        return sum(w * value for w, value in zip(weights, values, strict=True))

    score = mean(leak.score for leak in found)
    errors = (w * leak.standard_error for w, leak in zip(weights, found, strict=True))
    return Leakage(
        nats=mean(leak.nats for leak in found),
        standard_error=math.hypot(*errors),
        r2=None if found[0].r2 is None else score,
        accuracy_above_chance=score if found[0].r2 is None else None,
        attacker=found[int(counts.argmax())].attacker,
        entropy=mean(leak.entropy for leak in found),
        test_rows=len(codes.z),
        attacks=(),
    )
