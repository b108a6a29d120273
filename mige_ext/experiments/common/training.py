"""Training one run: its trainer, the loop over epochs, and the cost of a step."""

import copy
import math
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from mige_ext._warnings import MigeWarning
from mige_ext.experiments.common.checkpoint import Checkpoint, RandomState
from mige_ext.experiments.common.runs import row_of

OnStep = Callable[[Mapping[str, Tensor]], object]
AnyTrainer = TypeVar("AnyTrainer", bound="Trainer")


class DivergedError(ArithmeticError):
    """A run reached a loss or weights that are not finite. The message names the epoch."""


class Trainer(ABC):
    """Everything that training changes in a run.

    Args:
        problem: Data, on its ``device``.
        run: Method, setting and seed.
        settings: Settings of all runs, with ``epochs`` and ``batch``.
        random: Random generators of the run.
    """

    #: Dataclass of a row of metrics.csv, with the columns ``epoch`` and ``seconds``, the results of
    #: ``step`` averaged over the epoch, and the results of ``close``.
    epoch_type: ClassVar[type[Any]]
    #: Names of the attributes that a checkpoint contains.
    stateful: ClassVar[Sequence[str]]
    #: Name of the attribute with the term that a method adds to the loss, or with None.
    #: ``overhead`` measures the time of this term.
    extra: ClassVar[str] = "penalty"

    def __init__(self, problem: Any, run: Any, settings: Any, random: RandomState) -> None:
        self.problem, self.run, self.settings, self.random = problem, run, settings, random
        self.setup()

    @abstractmethod
    def setup(self) -> None:
        """Make the network, the added term, and the optimizer."""

    def batches(self) -> Iterable[Tensor]:
        """Row numbers of each full batch of the next epoch, (batch) each, in a random order."""
        rows, batch = len(self.problem.train), self.settings.batch
        order = torch.randperm(rows, generator=self.random.order)[: rows // batch * batch]
        return order.to(self.problem.device).split(batch)

    @abstractmethod
    def step(self, rows: Tensor) -> dict[str, Tensor]:
        """Train on a batch, and return scalars such as the loss."""

    @abstractmethod
    def close(self) -> dict[str, float]:
        """End an epoch, measure the network, and return columns of metrics.csv."""

    def parts(self) -> dict[str, Any]:
        """The attributes that have a state, by name."""
        named = {name: getattr(self, name) for name in self.stateful}
        return {name: part for name, part in named.items() if hasattr(part, "state_dict")}


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global random generators, and restore their states after the ``with`` block."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def train(
    trainer_type: type[AnyTrainer],
    problem: Any,
    run: Any,
    settings: Any,
    *,
    checkpoint: Path | None = None,
    on_epoch: Callable[[Any], object] = lambda _: None,
    on_step: OnStep = lambda _: None,
) -> tuple[AnyTrainer, list[Any]]:
    """Train a run epoch by epoch, and continue from its checkpoint if there is one.

    Args:
        trainer_type: Trainer of the experiment.
        problem: Data, on the device of the run.
        run: Method, setting and seed. The global random state does not change.
        settings: Settings of all runs.
        checkpoint: File to which the run is saved after each epoch.
        on_epoch: Called with the metrics of each epoch after the checkpoint is written. If the run
            continues, ``on_epoch`` is first called with the metrics of the earlier epochs.
        on_step: Called with the scalars of each step.

    Returns:
        The trainer after the last epoch, and the metrics of all epochs.

    Raises:
        DivergedError: A scalar or a weight is not finite at the end of an epoch, or a step or a
            measurement fails because of a number that is not finite.
    """
    with seeded(run.seed, problem.device), _allow_small_batches():
        random = RandomState(problem.device, run.seed)
        trainer = trainer_type(problem, run, settings, random)
        identity = {"run": list(run), "settings": asdict(settings), "device": problem.device.type}
        parts = {**trainer.parts(), "random": random}
        kept = Checkpoint(checkpoint, identity, parts)
        rows = kept.restore(trainer.epoch_type)
        for row in rows:
            on_epoch(row)
        if not rows:
            kept.save(rows)
        for epoch in range(len(rows) + 1, settings.epochs + 1):
            with _raised_as_divergence(epoch, parts):
                started = time.perf_counter()
                means = _train_epoch(trainer, on_step)
                for name, mean in means.items():
                    if not math.isfinite(mean):
                        raise DivergedError(f"epoch {epoch}: {name} must be finite, got {mean}")
                if not _all_finite(parts):
                    raise DivergedError(f"epoch {epoch}: weights must be finite at the end")
                seconds = time.perf_counter() - started  # without the measurements
                known = {"epoch": epoch, "seconds": seconds, **means}
                rows.append(row_of(trainer.epoch_type, run, **known, **trainer.close()))
            kept.save(rows)
            on_epoch(rows[-1])
    return trainer, rows


@contextmanager
def _allow_small_batches() -> Iterator[None]:
    """Suppress the warning of few samples, because the paper's experiments have M < d + 2 too."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"M = \d+ samples in d = ", MigeWarning)
        yield


def _train_epoch(trainer: Trainer, on_step: OnStep) -> dict[str, float]:
    """The means of the scalars over the steps of an epoch."""
    totals, steps = dict[str, Tensor](), 0
    for batch in trainer.batches():
        scalars = {name: value.detach() for name, value in trainer.step(batch).items()}
        for name, value in scalars.items():  # summed on the device, so no step waits for it
            totals[name] = totals.get(name, 0) + value.double()
        steps += 1
        on_step(scalars)
    return {name: total.item() / steps for name, total in totals.items()}


@contextmanager
def _raised_as_divergence(epoch: int, parts: Mapping[str, Any]) -> Iterator[None]:
    """Raise DivergedError for an error whose cause is samples or weights that are not finite."""
    try:
        yield
    except (ValueError, RuntimeError) as error:
        if "must be finite" not in str(error) and _all_finite(parts):
            raise
        raise DivergedError(f"epoch {epoch}: {error}") from error


def _all_finite(parts: Mapping[str, Any]) -> bool:
    networks = (part for part in parts.values() if isinstance(part, nn.Module))
    return all(bool(weights.isfinite().all()) for of in networks for weights in of.parameters())


def overhead(
    trainer_type: type[Trainer], problem: Any, run: Any, settings: Any, repeats: int = 5
) -> float:
    """Time that the term ``extra`` adds to a step, as a fraction of the step without the term.

    The fastest of several steps with and without the term counts, because a disturbance only makes
    a step slower.
    """
    device = problem.device
    with seeded(run.seed, device):
        whole = trainer_type(problem, run, settings, RandomState(device, run.seed))
        if getattr(whole, whole.extra) is None:
            return 0.0
        plain = copy.copy(whole)
        setattr(plain, plain.extra, None)
        rows = torch.arange(settings.batch, device=device)
        seconds: list[list[float]] = [[], []]
        for _ in range(repeats):
            for trainer, times in zip((whole, plain), seconds, strict=True):
                started = time.perf_counter()
                trainer.step(rows)
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                times.append(time.perf_counter() - started)
    with_term, without = map(min, seconds)
    return with_term / without - 1
