"""Training one run: its trainer, the loop over epochs, and the cost of a step."""

import copy
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from mige_ext.experiments.common.checkpoint import Checkpoint, RandomState, Row, Stateful

OnStep = Callable[[Mapping[str, Tensor]], object]
AnyTrainer = TypeVar("AnyTrainer", bound="Trainer")


class DivergedError(ArithmeticError):
    """A run reached a loss or weights that are not finite; the message names the epoch."""


class Trainer(ABC):
    """Everything that a run changes while it trains.

    Args:
        problem: Data, on the device on which the run computes.
        run: Method, setting and seed.
        settings: Settings of all runs, with ``epochs`` and ``batch``.
        random: Random numbers of the run.
    """

    #: Dataclass of the metrics of an epoch.
    epoch_type: ClassVar[type[Any]]
    #: Attributes that a checkpoint holds. An attribute without a state is skipped.
    stateful: ClassVar[Sequence[str]]

    @abstractmethod
    def __init__(self, problem: Any, run: Any, settings: Any, random: RandomState) -> None: ...

    @staticmethod
    @abstractmethod
    def device_of(problem: Any) -> torch.device:
        """Device of the data."""

    @abstractmethod
    def batches(self) -> Iterable[Tensor]:
        """Rows of each batch of the next epoch, (batch) each."""

    @abstractmethod
    def step(self, rows: Tensor) -> dict[str, Tensor]:
        """Train on a batch; returns scalars such as the loss."""

    @abstractmethod
    def close(self, epoch: int, means: dict[str, float], seconds: float) -> Any:
        """Measure the network after an epoch.

        Args:
            epoch: Number of the epoch, from 1.
            means: Means of the scalars over the epoch.
            seconds: Training time of the epoch.

        Returns:
            The metrics, an ``epoch_type``.
        """

    def bare(self) -> Any:
        """A copy whose step has no penalty or objective; None if the method has neither."""
        return None

    def parts(self) -> dict[str, Stateful]:
        """Everything that has a state, by name."""
        named = {name: getattr(self, name) for name in self.stateful}
        return {name: part for name, part in named.items() if isinstance(part, Stateful)}


class ImageTrainer(Trainer):
    """A trainer whose batches are images in a new order in every epoch."""

    def __init__(self, problem: Any, run: Any, settings: Any, random: RandomState) -> None:
        self.images, self.settings, self.random = problem, settings, random
        self.device = self.device_of(problem)

    @staticmethod
    def device_of(problem: Any) -> torch.device:
        """Device of the images."""
        return problem.train.images.device

    def batches(self) -> Iterable[Tensor]:
        """Numbers of the images of each batch; an incomplete last batch is dropped."""
        return shuffled(len(self.images.train), self.settings.batch, self.random)


def shuffled(images: int, batch: int, random: RandomState) -> Iterable[Tensor]:
    """The numbers 0 ... images − 1 in a random order, (batch) each, without an incomplete batch."""
    order = torch.randperm(images, generator=random.order)[: images // batch * batch]
    return order.to(random.device).split(batch)


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the global random numbers inside the ``with`` block, and restore them after it."""
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
    on_step: OnStep | None = None,
) -> tuple[AnyTrainer, list[Any]]:
    """Train a run, and continue from its checkpoint if there is one.

    Args:
        trainer_type: Trainer of the experiment.
        problem: Data, on the device on which the run computes.
        run: Method, setting and seed. The global random state is left as it was.
        settings: Settings of all runs.
        checkpoint: File that holds the run after each epoch.
        on_epoch: Called with the metrics of each epoch, first with the metrics of the checkpoint.
        on_step: Called after each step with its scalars.

    Returns:
        The trainer after the last epoch, and the metrics of all epochs.

    Raises:
        DivergedError: See `fit`.
    """
    device = trainer_type.device_of(problem)
    rows: list[Any] = []
    with seeded(run.seed, device):
        random = RandomState(device, run.seed)
        trainer = trainer_type(problem, run, settings, random)
        identity = {"run": list(run), "settings": asdict(settings), "device": device.type}
        for row in fit(
            trainer.step,
            trainer.close,
            batches=trainer.batches,
            epochs=settings.epochs,
            random=random,
            parts=trainer.parts(),
            checkpoint=Checkpoint(checkpoint, identity, trainer.epoch_type),
            on_step=on_step,
        ):
            rows.append(row)
            on_epoch(row)
    return trainer, rows


def fit(
    step: Callable[[Tensor], Mapping[str, Tensor]],
    close: Callable[[int, dict[str, float], float], Row],
    *,
    batches: Callable[[], Iterable[Tensor]],
    epochs: int,
    random: RandomState,
    parts: Mapping[str, Stateful],
    checkpoint: Checkpoint[Row],
    on_step: OnStep | None = None,
) -> Iterator[Row]:
    """Train epoch by epoch, and continue from the checkpoint if there is one.

    Args:
        step: See `Trainer.step`.
        close: See `Trainer.close`.
        batches: See `Trainer.batches`. A batch is asked for when the step before it is done.
        epochs: Number of epochs.
        random: Random numbers of the run.
        parts: Everything else that has a state.
        checkpoint: Checkpoint of the run.
        on_step: Called after each step with its scalars.

    Yields:
        The metrics of each epoch after its checkpoint is written, first the metrics of the
        checkpoint.

    Raises:
        DivergedError: At the end of an epoch a scalar or a weight is not finite, or a step or a
            measurement fails because of one. The epochs before it have been yielded.
    """
    parts = {**parts, "random": random}
    rows = checkpoint.restore(parts)
    yield from rows
    if not rows:
        checkpoint.save(parts, rows)
    for epoch in range(len(rows) + 1, epochs + 1):
        started, totals, steps = time.perf_counter(), dict[str, Tensor](), 0
        with _raised_as_divergence(epoch, parts):
            for batch in batches():
                scalars = {name: value.detach() for name, value in step(batch).items()}
                for name, value in scalars.items():  # summed on the device: no step waits for it
                    totals[name] = totals.get(name, 0) + value.double()
                steps += 1
                if on_step is not None:
                    on_step(scalars)
            means = {name: total.item() / steps for name, total in totals.items()}
            for name, mean in means.items():
                if not math.isfinite(mean):
                    raise DivergedError(f"epoch {epoch}: {name} must be finite, got {mean}")
            if not _all_finite(parts):
                raise DivergedError(f"epoch {epoch}: weights must be finite after its last step")
            rows.append(close(epoch, means, time.perf_counter() - started))
        checkpoint.save(parts, rows)
        yield rows[-1]


@contextmanager
def _raised_as_divergence(epoch: int, parts: Mapping[str, Stateful]) -> Iterator[None]:
    """Raise errors that numbers which are not finite cause as a `DivergedError`.

    These are errors of mige_ext about its samples, and every error while weights are not finite.
    """
    try:
        yield
    except (ValueError, RuntimeError) as error:
        if "must be finite" not in str(error) and _all_finite(parts):
            raise
        raise DivergedError(f"epoch {epoch}: {error}") from error


def _all_finite(parts: Mapping[str, Stateful]) -> bool:
    networks = (part for part in parts.values() if isinstance(part, nn.Module))
    return all(bool(weights.isfinite().all()) for of in networks for weights in of.parameters())


def overhead(
    trainer_type: type[Trainer], problem: Any, run: Any, settings: Any, repeats: int = 5
) -> float:
    """Time that the penalty or objective adds to a step, as a fraction of the step without it.

    Takes the fastest of alternating steps with and without it, on a trainer of its own: whatever
    disturbs a measurement makes it slower. A method that has neither adds 0.
    """
    device = trainer_type.device_of(problem)
    with seeded(run.seed, device):
        whole = trainer_type(problem, run, settings, RandomState(device, run.seed))
        bare = whole.bare()
        if bare is None:
            return 0.0
        rows = torch.arange(settings.batch, device=device)
        seconds: list[list[float]] = [[], []]
        for _ in range(repeats):
            for trainer, times in zip((whole, bare), seconds, strict=True):
                started = time.perf_counter()
                trainer.step(rows)
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                times.append(time.perf_counter() - started)
    with_it, without = map(min, seconds)
    return with_it / without - 1


def without(trainer: AnyTrainer, attribute: str) -> AnyTrainer | None:
    """A shallow copy of a trainer whose attribute is None; None if the attribute was None."""
    if getattr(trainer, attribute) is None:
        return None
    plain = copy.copy(trainer)
    setattr(plain, attribute, None)
    return plain
