"""The training loop that experiments share: it can be killed at any time, and continued exactly.

After each epoch everything with a state lies in one file: network, optimiser, schedule, random
numbers, and the figures so far. `fit` continues from there to the same numbers, bit for bit.
"""

import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from mige_ext.experiments.common.runs import atomic

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Row = TypeVar("Row", bound="DataclassInstance")


class DivergedError(ArithmeticError):
    """A run came to numbers that are not finite; says in which epoch, and which."""


class Stateful(Protocol):
    """A network, an optimiser, a schedule, ..."""

    def state_dict(self) -> Any:
        """What it would need to continue."""
        ...

    def load_state_dict(self, state_dict: Any, /) -> Any:
        """Continue from there."""
        ...


class RandomState:
    """The random numbers of a run: of the CPU, of its device, and of the order of the batches.

    Args:
        device: where the run computes.
        seed: of the order.
    """

    def __init__(self, device: torch.device, seed: int) -> None:
        self.device = device
        self.order = torch.Generator().manual_seed(seed)

    def state_dict(self) -> dict[str, Tensor]:
        """The states of all three."""
        state = {"cpu": torch.get_rng_state(), "order": self.order.get_state()}
        if self.device.type == "cuda":
            state["cuda"] = torch.cuda.get_rng_state(self.device)
        return state

    def load_state_dict(self, state_dict: Mapping[str, Tensor], /) -> None:
        """Set them."""
        torch.set_rng_state(state_dict["cpu"].cpu())
        self.order.set_state(state_dict["order"].cpu())
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(state_dict["cuda"].cpu(), self.device)


class Checkpoint(Generic[Row]):
    """A run in a file, as it was after its last whole epoch.

    Args:
        path: the file; None keeps nothing.
        run: which run it is, so that another one does not continue from it; plain values.
        row_type: of the figures of an epoch.
    """

    def __init__(self, path: Path | None, run: Mapping[str, Any], row_type: type[Row]) -> None:
        self.path, self.run, self.row_type = path, dict(run), row_type

    def save(self, parts: Mapping[str, Stateful], rows: list[Row]) -> None:
        """Put the state of the parts in place of what the file held."""
        if self.path is None:
            return
        states = {name: part.state_dict() for name, part in parts.items()}
        with atomic(self.path) as draft:
            torch.save({"run": self.run, "rows": [asdict(row) for row in rows], **states}, draft)

    def restore(self, parts: Mapping[str, Stateful]) -> list[Row]:
        """Set the parts to what the file holds of this run, and give its figures; [] if nothing."""
        if self.path is None or not self.path.exists():
            return []
        state = torch.load(self.path, weights_only=True, map_location="cpu")
        if state["run"] != self.run:
            return []
        for name, part in parts.items():
            part.load_state_dict(state[name])
        return [self.row_type(**row) for row in state["rows"]]


def shuffled(images: int, batch: int, random: RandomState) -> Callable[[], Iterable[Tensor]]:
    """The batches of an epoch: the numbers of all images in a new order, (batch) each.

    An incomplete last batch is dropped.
    """

    def batches() -> Iterable[Tensor]:
        order = torch.randperm(images, generator=random.order)[: images // batch * batch]
        return order.to(random.device).split(batch)

    return batches


def fit(
    step: Callable[[Tensor], Mapping[str, Tensor]],
    close: Callable[[int, dict[str, float], float], Row],
    *,
    batches: Callable[[], Iterable[Tensor]],
    epochs: int,
    random: RandomState,
    parts: Mapping[str, Stateful],
    checkpoint: Checkpoint[Row],
    on_step: Callable[[Mapping[str, Tensor]], object] | None = None,
) -> Iterator[Row]:
    """Train epoch by epoch, from the checkpoint on where there is one.

    Args:
        step: one step on a batch; gives scalars such as the loss.
        close: closes an epoch: its number from 1, the means of the scalars over it, its seconds;
            gives its figures.
        batches: those of the next epoch, such as `shuffled`; asked for one after another, while
            steps are made.
        epochs: their number.
        random: the random numbers.
        parts: everything else that has a state.
        checkpoint: where the run is kept.
        on_step: called after each step with its scalars.

    Yields:
        The figures of each epoch, once they are safe; those of the checkpoint first.

    Raises:
        DivergedError: at the end of an epoch a scalar or a weight is not finite, or a step or a
            measurement fails because of it. Epochs before it have been yielded.
    """
    parts = {**parts, "random": random}
    rows = checkpoint.restore(parts)
    yield from rows
    if not rows:
        checkpoint.save(parts, rows)
    for epoch in range(len(rows) + 1, epochs + 1):
        started, totals, steps = time.perf_counter(), dict[str, Tensor](), 0
        with _told_as_divergence(epoch, parts):
            for batch in batches():
                scalars = {name: value.detach() for name, value in step(batch).items()}
                for name, value in scalars.items():  # kept on the device: nothing waits for it
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
def _told_as_divergence(epoch: int, parts: Mapping[str, Stateful]) -> Iterator[None]:
    """Errors that come of numbers that are not finite, as a `DivergedError`.

    They are those of mige_ext about its samples, and any other where weights are not finite.
    """
    try:
        yield
    except (ValueError, RuntimeError) as error:
        if "must be finite" not in str(error) and _all_finite(parts):
            raise
        raise DivergedError(f"epoch {epoch}: {error}") from error


def _all_finite(parts: Mapping[str, Stateful]) -> bool:
    """Whether all weights of the networks are finite."""
    networks = (part for part in parts.values() if isinstance(part, nn.Module))
    return all(bool(weights.isfinite().all()) for of in networks for weights in of.parameters())


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Random numbers from this seed; afterwards the global state is as it was."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


class Progress:
    """A bar over all steps of all runs, with the run's name and its current figures.

    Args:
        steps: their number.
    """

    def __init__(self, steps: int) -> None:
        self.bar = tqdm(total=steps, unit="step", smoothing=0.05)
        self.shown = 0.0
        self.figures: dict[str, float] = {}

    def step(self, scalars: Mapping[str, Tensor]) -> None:
        """Count a step; show its scalars twice a second, because reading them waits for a GPU."""
        self.bar.update()
        if time.monotonic() - self.shown > 0.5:
            self.shown = time.monotonic()
            self.show(**{name: value.item() for name, value in scalars.items()})

    def show(self, **figures: float) -> None:
        """Put figures beside the bar; those that are not given stay."""
        self.figures |= figures
        self.bar.set_postfix({k: f"{v:.4g}" for k, v in self.figures.items()}, refresh=False)

    def begin(self, name: str, at: int = 0) -> None:
        """A run begins, after so many steps: runs before it may have skipped some."""
        self.figures, self.bar.n = {}, at
        self.bar.set_description(name)

    def end(self) -> None:
        """All runs have ended."""
        self.bar.n = self.bar.total
        self.bar.refresh()

    def tell(self, message: str) -> None:
        """Print a line above the bar."""
        self.bar.write(message, file=sys.stderr)

    def __enter__(self) -> "Progress":
        """The bar itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the last line on the screen."""
        self.bar.close()


def overhead(
    whole: Callable[[], Any], plain: Callable[[], Any], device: torch.device, repeats: int
) -> float:
    """What the whole step takes beyond the plain one, as a share of that.

    The fastest of each, in turns: what disturbs a measurement makes it slower.
    """
    seconds: dict[Callable[[], Any], list[float]] = {whole: [], plain: []}
    for _ in range(repeats):
        for step, times in seconds.items():
            started = time.perf_counter()
            step()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times.append(time.perf_counter() - started)
    with_it, without = map(min, seconds.values())
    return with_it / without - 1
