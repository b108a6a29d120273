"""The training loop: the state after each epoch, and exact continuation."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mige_ext as mige
from mige_ext.experiments.common.runs import Row, Run
from mige_ext.experiments.common.training import (
    DivergedError,
    Trainer,
    _allow_small_batches,
    seeded,
    train,
)

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Metrics(Row):
    epoch: int
    loss: float
    seconds: float = field(default=0.0, compare=False)


@dataclass(frozen=True)
class Settings:
    epochs: int
    batch: int = 3


class StoppedError(Exception):
    pass


class Regression(Trainer):
    """Noisy regression with momentum and a schedule."""

    epoch_type = Metrics
    stateful = ("model", "optimizer", "schedule", "not_stateful")
    not_stateful = 1.0

    def setup(self) -> None:
        self.model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 1))
        self.optimizer = torch.optim.SGD(self.model.parameters(), 0.1, momentum=0.9)
        self.schedule = torch.optim.lr_scheduler.StepLR(self.optimizer, 1, 0.5)

    def step(self, rows: Tensor) -> dict[str, Tensor]:
        self.problem.on_rows(rows)
        output = self.model(self.problem.train[rows])
        loss = (output - torch.randn(len(rows), 1)).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"loss": loss}

    def close(self) -> dict[str, float]:
        self.schedule.step()
        return {}


def run(path: Path | None, epochs: int, stop_at: float = float("inf"), name: str = "a") -> Any:
    """Train on ten rows, and stop in the step with this number."""
    steps: list[list[int]] = []

    def on_rows(rows: Tensor) -> None:
        if len(steps) == stop_at:
            raise StoppedError
        steps.append(rows.tolist())

    def on_epoch(row: Metrics) -> None:
        if path is not None:
            state = torch.load(path, weights_only=True)
            assert state["rows"][-1]["epoch"] >= row.epoch  # the epoch is on disk before the report

    problem = SimpleNamespace(device=CPU, train=torch.arange(30.0).view(10, 3) / 30)
    problem.on_rows = on_rows
    identity, settings = Run(name, 0.0, 3), Settings(epochs)
    trainer, rows = train(
        Regression, problem, identity, settings, checkpoint=path, on_epoch=on_epoch
    )
    return rows, steps, trainer.model.state_dict()


@pytest.mark.parametrize("stop_at", [0, 1, 3, 7, 11])
def test_stopped_run_continues_to_the_same_bits(stop_at: int, tmp_path: Path) -> None:
    rows, steps, state = run(None, 4)
    assert len(steps) == 12
    with pytest.raises(StoppedError):
        run(tmp_path / "c.pt", 4, stop_at)
    continued, more, end = run(tmp_path / "c.pt", 4)
    assert continued == rows and all(row.seconds > 0 for row in rows)
    assert more == steps[stop_at // 3 * 3 :]
    assert all(torch.equal(end[name], state[name]) for name in state)
    assert [path.name for path in tmp_path.iterdir()] == ["c.pt"]


def test_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    rows, _, _ = run(tmp_path / "c.pt", 2)
    again, steps, _ = run(tmp_path / "c.pt", 2)
    assert (again, steps) == (rows, [])


@pytest.mark.parametrize(("name", "epochs"), [("b", 2), ("a", 4)])
def test_checkpoint_of_another_run_or_other_settings_is_not_continued(
    name: str, epochs: int, tmp_path: Path
) -> None:
    run(tmp_path / "c.pt", 2, name="a")
    rows, steps, _ = run(tmp_path / "c.pt", epochs, name=name)
    assert len(steps) == 3 * epochs
    assert rows == run(None, epochs)[0]


def test_loss_is_the_mean_over_the_epoch_of_whole_batches() -> None:
    rows, steps, _ = run(None, 1)
    assert [len(batch) for batch in steps] == [3, 3, 3]
    assert len({number for batch in steps for number in batch}) == 9
    assert rows[0].epoch == 1


class Scripted(Trainer):
    """A trainer whose steps a test defines."""

    epoch_type = Metrics
    stateful = ("model",)

    def setup(self) -> None:
        self.model = self.problem.model

    def step(self, rows: Tensor) -> dict[str, Tensor]:
        return dict(self.problem.step(rows))

    def close(self) -> dict[str, float]:
        return {}


def script(
    step: Callable[[Tensor], Mapping[str, Tensor]], epochs: int, *, rows: int = 4, model: Any = None
) -> list[Metrics]:
    """Train in batches of two; returns the epochs that were reported, also before an error."""
    problem = SimpleNamespace(device=CPU, train=range(rows), step=step, model=model)
    reported: list[Metrics] = []
    try:
        train(Scripted, problem, Run("a", 0.0, 0), Settings(epochs, 2), on_epoch=reported.append)
    except DivergedError as error:
        error.args = (*error.args, reported)
        raise
    return reported


@pytest.mark.parametrize("raises", [False, True])
def test_a_run_that_diverges_keeps_its_whole_epochs_and_says_where(raises: bool) -> None:
    losses = iter([1.0, 2.0, math.inf, 3.0])

    def step(numbers: Tensor) -> Mapping[str, Tensor]:
        loss = torch.tensor(next(losses))
        if raises:
            mige.SSGE().score(loss + torch.zeros(4, 2))
        return {"loss": loss}

    with pytest.raises(DivergedError, match=r"epoch 2: \w+ must be finite, got") as caught:
        script(step, 4)
    assert caught.value.args[-1] == [Metrics(1, 1.5)]


@pytest.mark.parametrize("last", [False, True], ids=["a later error", "the last step"])
def test_weights_that_are_not_finite_are_divergence(last: bool) -> None:
    model = nn.Linear(2, 1)

    def step(numbers: Tensor) -> Mapping[str, Tensor]:
        if not last and model.weight.isnan().any():
            raise RuntimeError("the algorithm failed to converge")
        nn.init.constant_(model.weight, math.nan)
        return {"loss": torch.tensor(1.0)}

    expected = "epoch 1: weights must be finite" if last else "epoch 1: the algorithm failed"
    with pytest.raises(DivergedError, match=expected) as caught:
        script(step, 1, rows=2 if last else 4, model=model)
    assert caught.value.args[-1] == []  # the epoch is not measured


def test_other_errors_of_a_step_are_not_taken_for_divergence() -> None:
    def step(numbers: Tensor) -> Mapping[str, Tensor]:
        raise ValueError("x must have 3 columns, got 2")

    with pytest.raises(ValueError, match="x must have 3 columns"):
        script(step, 1)


def test_seeded_leaves_the_global_state_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    with seeded(5, CPU):
        inside = torch.rand(2)
    assert torch.equal(torch.rand(2), expected)
    with seeded(5, CPU):
        assert torch.equal(torch.rand(2), inside)


@pytest.mark.filterwarnings("error")
def test_training_gives_no_warning_of_small_batches() -> None:
    z = torch.randn(4, 20, requires_grad=True)
    with _allow_small_batches():
        mige.entropy(z)
