"""Removal: a classifier whose code z reveals little about a nuisance s.

The loss is the cross-entropy of the label plus β times a penalty. The penalty of the recipe
(docs/removing.md) is ``mutual_information(s, z, marginal="own")``. The other methods have other
marginals or estimators, or maximize the negentropy of z, which contracts z without using s. The
leak is a lower bound of I(s; z), by attackers that predict s from finished codes. For long training
at a constant learning rate, the recipe is the mean of the penalties with "own" and "matched".

Two tasks are the experiment ``python -m mige_ext removal`` with fewer steps: the angle of rotated
images of MNIST, and the synthetic table. Each method is trained with two weights β. The weight is
chosen on validation data: the least leak with a loss of at most one point of accuracy.

Two tasks have a table of six columns, whose nuisance is one number or a category, and boosted trees
as the attacker. The task with a number trains for 3,000 steps at a constant learning rate, and
shows whether removed information returns.
"""

import math
from collections.abc import Callable, Mapping
from functools import cache, partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import mige_ext as mige
from benchmarks.tasks.task import CONTROL, DEFAULT, Task
from mige_ext.experiments.common.methods import descend, perceptron
from mige_ext.experiments.common.runs import Run
from mige_ext.experiments.common.training import train
from mige_ext.experiments.data.images import load
from mige_ext.experiments.removal.methods import METHODS as EXPERIMENT
from mige_ext.experiments.removal.nuisances import Images, Problem, Structural
from mige_ext.experiments.removal.training import Settings, Trainer, measure

ACCURACY_LOSS = 0.01  # largest loss of accuracy by the chosen weight β

# --- the experiment with fewer steps --------------------------------------------------------------

#: Name of the method in this benchmark -> name in the experiment.
METHODS = {
    DEFAULT: "mige",
    "paired": "mige-paired",
    "contraction": "contraction",
    "matched": "mige-matched",
    "SSGE": "ssge",
    "Tikhonov": "tikhonov",
    CONTROL: "gaussian",
    "no penalty": "none",
}


@cache
def _problem(name: str) -> Problem:
    return Structural() if name == "structural" else Images(load(name), "rotation")


def _settings(name: str) -> Settings:
    return Settings(data=name, steps=400, codes=4000, test_codes=4000)


def _experiment(name: str, key: str, seed: int) -> Mapping[str, float]:
    problem, settings, method = _problem(name), _settings(name), METHODS[key]
    found = []
    for beta in EXPERIMENT[method].strengths[1:3] or (0.0,):
        trainer, _ = train(Trainer, problem, Run(method, beta, seed), settings)
        model = trainer.model.eval()
        predicted, leak = measure(model, problem, "validation", settings, seed)
        lost = max(0.0, _accuracy_without(name, seed) - ACCURACY_LOSS - predicted.accuracy)
        found.append((lost, leak.nats, measure(model, problem, "test", settings, seed)))
    predicted, leak = min(found, key=lambda run: run[:2])[2]
    return {"leak, nats": leak.nats, "accuracy, %": 100 * predicted.accuracy}


@cache
def _accuracy_without(name: str, seed: int) -> float:
    """Validation accuracy without a penalty."""
    problem, settings = _problem(name), _settings(name)
    trainer, _ = train(Trainer, problem, Run("none", 0.0, seed), settings)
    return measure(trainer.model.eval(), problem, "validation", settings, seed)[0].accuracy


# --- a table whose nuisance is a number or a category ---------------------------------------------

BATCH, CLASSES = 256, 16
#: A function of s (M, 1) and z (M, 3), whose result is minimized.
Penalty = Callable[[Tensor, Tensor], Tensor]


def information(s: Tensor, z: Tensor, **options: object) -> Tensor:
    """.3 I(s; z)."""
    return 0.3 * mige.mutual_information(s, z, **options)  # type: ignore[arg-type]


def contraction(s: Tensor, z: Tensor) -> Tensor:
    """Minus .005 times the negentropy of z."""
    return -0.005 * mige.negentropy(z)


def both(s: Tensor, z: Tensor) -> Tensor:
    """.1 I(s; z) plus the contraction."""
    return 0.1 * mige.mutual_information(s, z) + contraction(s, z)


def own_and_matched(s: Tensor, z: Tensor) -> Tensor:
    """.3 times the mean of I(s; z) with the marginals "own" and "matched"."""
    return (information(s, z, marginal="own") + information(s, z, marginal="matched")) / 2


PENALTIES: dict[str, Penalty | None] = {
    "own": partial(information, marginal="own"),
    "paired": information,
    "contraction": contraction,
    "paired + contraction": both,
    "matched": partial(information, marginal="matched"),
    "own + matched": own_and_matched,
    "SSGE": partial(information, estimator=mige.SSGE(threshold=0.99)),
    "Tikhonov": partial(information, estimator=mige.Tikhonov()),
    CONTROL: partial(information, estimator=mige.GaussianScore()),
    "no penalty": None,
}


def _table(n: int, category: bool, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs (n, 6), labels (n,) and s (n, 1) in {-1, 1} or from N(0, 1)."""
    s = torch.randn(n, 1, generator=generator)
    if category:
        s = s.sign()
    label = (torch.rand(n, generator=generator) < 0.5).long()
    u, c = torch.randn(n, 6, generator=generator), 2 * label[:, None] - 1.0
    second = c * s if category else c * s.abs()
    columns = (
        c + 0.7 * u[:, :1] + 0.8 * s,
        s + 0.3 * u[:, 1:2],
        second + 0.3 * u[:, 2:3],
        torch.sin(2 * s) + 0.3 * u[:, 3:4],
        u[:, 4:],
    )
    return torch.cat(columns, 1), label, s


def _leak(encoder: nn.Module, category: bool, generator: torch.Generator) -> float:
    """The leak in nats: H(class of s) − cross-entropy of boosted trees on codes."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    parts = []
    for _ in range(2):
        x, _, s = _table(4000, category, generator)
        quantile = torch.special.ndtr(s[:, 0])
        classes = (s[:, 0] > 0).long() if category else (CLASSES * quantile).long()
        with torch.no_grad():
            parts.append((encoder(x).numpy(), classes.numpy()))
    (z, classes), (test, truth) = parts
    trees = HistGradientBoostingClassifier(max_iter=40, learning_rate=0.05).fit(z, classes)
    chosen = trees.predict_proba(test)[np.arange(len(truth)), truth]
    return max(0.0, math.log(2 if category else CLASSES) + float(np.log(chosen).mean()))


def _run(category: bool, milestones: tuple[int, ...], key: str, seed: int) -> Mapping[str, float]:
    """Train until the last of ``milestones``, and measure the leak after each of these steps."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    encoder = perceptron(6, 32, 3).append(nn.BatchNorm1d(3, affine=False))
    head = nn.Linear(3, 2)
    adam = torch.optim.Adam([*encoder.parameters(), *head.parameters()], 2e-3)
    penalty, leaks = PENALTIES[key], list[float]()
    for step in range(1, milestones[-1] + 1):
        x, label, s = _table(BATCH, category, generator)
        if category:
            s = s + 0.2 * torch.randn(s.shape, generator=generator)  # gives s a density
        z = encoder(x)
        loss = F.cross_entropy(head(z), label)
        if penalty is not None:
            loss = loss + penalty(s, z)
        descend(adam, loss)
        if step in milestones:
            encoder.eval()
            leaks.append(_leak(encoder, category, torch.Generator().manual_seed(1000)))
            encoder.train()
    x, label, _ = _table(4000, category, torch.Generator().manual_seed(2000))
    encoder.eval()
    with torch.no_grad():
        right = (head(encoder(x)).argmax(1) == label).double().mean()
    result = {"leak, nats": leaks[-1], "accuracy, %": 100 * float(right)}
    if len(leaks) > 1:
        result[f"leak after {milestones[0]} steps, nats"] = leaks[0]
    return result


def _methods(
    default: str, category: bool, *milestones: int
) -> dict[str, Callable[[int], Mapping[str, float]]]:
    """The penalties as methods, of which one is the default."""
    names = {DEFAULT: default} | {key: key for key in PENALTIES if key != default}
    return {name: partial(_run, category, milestones, key) for name, key in names.items()}


#: Methods with which the default is compared.
RIVALS = ("SSGE", "Tikhonov", CONTROL)


def _task(
    name: str, half: str, methods: Mapping[str, Callable[[int], Mapping[str, float]]]
) -> Task:
    return Task(name, half, "leak, nats", False, methods, RIVALS)


TASKS = (
    _task("removal-mnist", "held-out", {k: partial(_experiment, "mnist", k) for k in METHODS}),
    _task(
        "removal-structural", "chosen", {k: partial(_experiment, "structural", k) for k in METHODS}
    ),
    _task("removal-long", "chosen", _methods("own + matched", False, 500, 3000)),
    _task("removal-category", "held-out", _methods("own", True, 800)),
)
