"""Training an encoder to tell the label and not the nuisance, and measuring both."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mige_ext.experiments.attacker import Codes, Leak, attack
from mige_ext.experiments.nuisances import Problem
from mige_ext.experiments.removal_methods import METHODS
from mige_ext.experiments.training import seeded


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


class Run(NamedTuple):
    """Which training."""

    method: str
    beta: float
    seed: int


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


OnStep = Callable[[Mapping[str, Tensor]], object]


def train(
    problem: Problem, run: Run, settings: Settings, on_step: OnStep = lambda scalars: None
) -> tuple[Model, float]:
    """Minimise the cross-entropy of the label plus β times the penalty.

    Args:
        problem: what to train on.
        run: which training.
        settings: of all runs.
        on_step: called after each step, with its scalars.

    Returns:
        The model, for evaluation, and the milliseconds of a step.
    """
    method = METHODS[run.method]
    generator = torch.Generator().manual_seed(run.seed)  # all methods see the same batches
    with seeded(run.seed, problem.device):
        model = Model(problem, settings).to(problem.device)  # and start from the same weights
        penalty = method.penalty(problem, settings.latent) if method.penalty else None
        if isinstance(penalty, nn.Module):
            penalty.to(problem.device)
        adam = torch.optim.Adam(model.parameters(), settings.learning_rate, fused=True)
        started = time.perf_counter()
        for step in range(1, settings.steps + 1):
            rows = torch.randint(problem.count("train"), (settings.batch,), generator=generator)
            batch = problem.draw("train", rows, generator)
            z = model.encoder(batch.x)
            loss = F.cross_entropy(model.head(z), batch.label)
            scalars = {"cross_entropy": loss.detach()}
            noise = torch.randn(batch.s.shape, generator=generator).to(problem.device)
            if penalty is not None:
                noisy = batch._replace(s=batch.s + settings.noise * noise)
                loss = loss + run.beta * min(step / settings.ramp, 1) * penalty(z, noisy)
            adam.zero_grad()
            loss.backward()
            adam.param_groups[0]["lr"] = settings.learning_rate * (1 - step / (settings.steps + 1))
            adam.step()
            on_step(scalars)
        if problem.device.type == "cuda":
            torch.cuda.synchronize(problem.device)
        seconds = time.perf_counter() - started
    return model.eval(), 1000 * seconds / settings.steps


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
