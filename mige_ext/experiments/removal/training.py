"""Training an encoder to tell the label and not the nuisance, and measuring both."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mige_ext.experiments.common.training import Checkpoint, RandomState, Stateful, fit, seeded
from mige_ext.experiments.removal.attacker import Codes, Leak, attack
from mige_ext.experiments.removal.methods import METHODS
from mige_ext.experiments.removal.nuisances import Problem

EPOCH = 100  # steps after which a run is kept and measured
EPOCH_ROWS = 2000  # of the validation part, that it is measured on


@dataclass(frozen=True)
class Settings:
    """What the numbers of a run depend on, beside method, β and seed.

    Attributes:
        data: data set.
        nuisance: what is to be removed.
        steps: of training.
        batch: N, rows in a step; also the samples of a score.
        latent: d, dimension of z.
        hidden: units of the encoder's first layer; the second has half of them.
        learning_rate: of Adam; it falls to 0 in a straight line.
        ramp: steps in which β grows to its value.
        noise: standard deviation of what is added to s in training, so that it has a density.
        codes: frozen training codes that attackers learn from, to choose β.
        test_codes: likewise, to attack the test part: more make a stronger attack.
        attack_epochs: of the attackers' perceptrons.
    """

    data: str = "mnist"
    nuisance: str = "rotation"
    steps: int = 800
    batch: int = 256
    latent: int = 8
    hidden: int = 512
    learning_rate: float = 2e-3
    ramp: int = 150
    noise: float = 0.2
    codes: int = 20_000
    test_codes: int = 50_000
    attack_epochs: int = 10

    def __post_init__(self) -> None:
        """Check the values; data and nuisance are checked where they are loaded."""
        least = {"steps": 1, "batch": 8, "latent": 1, "hidden": 2, "ramp": 1, "codes": 50}
        for name, value in {**least, "test_codes": 50, "attack_epochs": 1}.items():
            if getattr(self, name) < value:
                raise ValueError(f"{name} must be at least {value}, got {getattr(self, name)}")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")
        if not 0 <= self.noise < math.inf:
            raise ValueError(f"noise must be at least 0, got {self.noise}")

    @property
    def epochs(self) -> int:
        """Of `EPOCH` steps; the last may have fewer."""
        return math.ceil(self.steps / EPOCH)


class Run(NamedTuple):
    """Which training."""

    method: str
    beta: float
    seed: int

    @property
    def stem(self) -> str:
        """Of the names of its files."""
        return f"{self.method}-{self.beta:g}-{self.seed}"


@dataclass(frozen=True)
class Epoch:
    """A row of metrics.csv; the first three say which `Run` it is.

    Attributes:
        method: name in `METHODS`.
        beta: β; 0 without a penalty.
        seed: of weights, batches and noise.
        step: the steps so far: `EPOCH` more than before, or what was left.
        cross_entropy: of the label, mean over the epoch.
        accuracy: on some of the validation part.
        seconds: of training, without the measurement.
    """

    method: str
    beta: float
    seed: int
    step: int
    cross_entropy: float
    accuracy: float
    seconds: float = field(compare=False)


class Model(nn.Module):
    """Encoder of two hidden layers, z under BatchNorm without affine part, and a head on z."""

    def __init__(self, problem: Problem, settings: Settings) -> None:
        super().__init__()
        hidden, latent = settings.hidden, settings.latent
        self.encoder = nn.Sequential(
            nn.Linear(problem.inputs, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden // 2),
            nn.ReLU(),
            nn.Linear(hidden // 2, latent),
            nn.BatchNorm1d(latent, affine=False),
        )
        self.head = nn.Sequential(nn.Linear(latent, 64), nn.ReLU(), nn.Linear(64, problem.classes))


class Trainer:
    """Everything that a run changes: model, penalty, optimiser, schedule.

    Args:
        problem: what to train on.
        run: which training.
        settings: of all runs.
        generator: of batches and nuisances, which are then the same for all methods.
    """

    def __init__(
        self, problem: Problem, run: Run, settings: Settings, generator: torch.Generator
    ) -> None:
        self.problem, self.beta, self.settings = problem, run.beta, settings
        self.generator, method = generator, METHODS[run.method]
        self.model = Model(problem, settings).to(problem.device)  # all start from the same weights
        self.penalty = method.penalty(problem, settings.latent) if method.penalty else None
        if isinstance(self.penalty, nn.Module):
            self.penalty.to(problem.device)
        self.adam = torch.optim.Adam(self.model.parameters(), settings.learning_rate, fused=True)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.adam, lambda done: 1 - (done + 1) / (settings.steps + 1)
        )

    def batches(self) -> Iterable[Tensor]:
        """The rows of the steps that are left of an epoch, (batch) each."""
        left = self.settings.steps - self.schedule.last_epoch
        for _ in range(min(left, EPOCH)):
            yield torch.randint(
                self.problem.count("train"), (self.settings.batch,), generator=self.generator
            )

    def step(self, rows: Tensor) -> dict[str, Tensor]:
        """One step: down the cross-entropy of the label plus β times the penalty."""
        batch = self.problem.draw("train", rows, self.generator)
        z = self.model.encoder(batch.x)
        loss = cross_entropy = F.cross_entropy(self.model.head(z), batch.label)
        noise = torch.randn(batch.s.shape, generator=self.generator).to(self.problem.device)
        if self.penalty is not None:
            noisy = batch._replace(s=batch.s + self.settings.noise * noise)
            ramp = min((self.schedule.last_epoch + 1) / self.settings.ramp, 1)
            loss = loss + self.beta * ramp * self.penalty(z, noisy)
        self.adam.zero_grad()
        loss.backward()
        self.adam.step()
        self.schedule.step()
        return {"cross_entropy": cross_entropy.detach()}

    def parts(self) -> dict[str, Stateful]:
        """All that has a state."""
        parts: dict[str, Stateful] = {
            "model": self.model,
            "optimiser": self.adam,
            "schedule": self.schedule,
        }
        if isinstance(self.penalty, nn.Module):
            parts["penalty"] = self.penalty
        return parts


def train(
    problem: Problem,
    run: Run,
    settings: Settings,
    *,
    checkpoint: Path | None = None,
    on_epoch: Callable[[Epoch], object] = lambda _: None,
    on_step: Callable[[Mapping[str, Tensor]], object] | None = None,
) -> tuple[Model, list[Epoch]]:
    """Train an encoder and its head, from the checkpoint on where it holds this run.

    Args:
        problem: what to train on.
        run: which training; the global random state stays as it was.
        settings: of all runs.
        checkpoint: file that the run is kept in after each epoch.
        on_epoch: called with the figures of each epoch, those of the checkpoint first.
        on_step: called after each step with its cross-entropy.

    Returns:
        The model, for evaluation, and the figures of all epochs.

    Raises:
        DivergedError: see `fit`.
    """
    epochs: list[Epoch] = []
    with seeded(run.seed, problem.device):
        random = RandomState(problem.device, run.seed)
        trainer = Trainer(problem, run, settings, random.order)
        model = trainer.model

        def close(epoch: int, means: dict[str, float], seconds: float) -> Epoch:
            _, accuracy = encode(model.eval(), problem, "validation", run.seed, EPOCH_ROWS)
            model.train()
            step = trainer.schedule.last_epoch
            return Epoch(*run, step, means["cross_entropy"], accuracy, seconds)

        for row in fit(
            trainer.step,
            close,
            batches=trainer.batches,
            epochs=settings.epochs,
            random=random,
            parts=trainer.parts(),
            checkpoint=Checkpoint(
                checkpoint,
                {"run": list(run), "settings": asdict(settings), "device": problem.device.type},
                Epoch,
            ),
            on_step=on_step,
        ):
            epochs.append(row)
            on_epoch(row)
    return model.eval(), epochs


@torch.no_grad()
def encode(
    model: Model, problem: Problem, part: str, seed: int, limit: int | None = None
) -> tuple[Codes, float]:
    """Codes of a part, under nuisances of this seed, and the accuracy of their labels.

    Args:
        model: the model.
        problem: what it is for.
        part: of the data.
        seed: of the nuisances, and of the choice of rows.
        limit: the number of rows; all if not given.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(problem.count(part), generator=generator)[:limit]
    codes, right = [], 0
    for some in rows.split(2000):
        batch = problem.draw(part, some, generator)
        z = model.encoder(batch.x)
        right += int((model.head(z).argmax(1) == batch.label).sum())
        codes.append(Codes(z, batch.s, batch.bin))
    return Codes(*map(torch.cat, zip(*codes, strict=True))), right / len(rows)


def measure(
    model: Model, problem: Problem, part: str, settings: Settings, seed: int
) -> tuple[float, Leak]:
    """Accuracy and leak on a part, which neither the encoder nor the attackers have seen."""
    limit = settings.test_codes if part == "test" else settings.codes
    train_codes, _ = encode(model, problem, "train", seed, limit)
    codes, accuracy = encode(model, problem, part, seed + 1)
    (leak,) = attack(train_codes, [codes], epochs=settings.attack_epochs, seed=seed)
    return accuracy, leak
