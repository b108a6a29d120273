"""The training loop: what is kept after each epoch, and that it continues exactly."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mige_ext as mige
from mige_ext.experiments.common.checkpoint import Checkpoint, RandomState
from mige_ext.experiments.common.training import (
    DivergedError,
    fit,
    seeded,
    shuffled,
)

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Figures:
    epoch: int
    loss: float


class StoppedError(Exception):
    pass


def run(path: Path | None, epochs: int, stop_at: float = float("inf"), name: str = "a") -> Any:
    """Noisy regression with momentum and a schedule; stops in a step where it is told to."""
    with seeded(3, CPU):
        random = RandomState(CPU, 3)
        model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 1))
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
        x = torch.arange(30.0).view(10, 3) / 30
        steps: list[list[int]] = []

        def step(numbers: Tensor) -> Mapping[str, Tensor]:
            if len(steps) == stop_at:
                raise StoppedError
            steps.append(numbers.tolist())
            loss = (model(x[numbers]) - torch.randn(len(numbers), 1)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return {"loss": loss}

        def close(epoch: int, means: dict[str, float], seconds: float) -> Figures:
            schedule.step()
            assert seconds >= 0
            return Figures(epoch, means["loss"])

        rows: list[Figures] = []
        for row in fit(
            step,
            close,
            batches=lambda: shuffled(10, 3, random),
            epochs=epochs,
            random=random,
            parts={"model": model, "optimizer": optimizer, "schedule": schedule},
            checkpoint=Checkpoint(path, {"name": name}, Figures),
        ):
            rows.append(row)
            if path is not None:
                state = torch.load(path, weights_only=True)
                assert state["rows"][-1]["epoch"] >= row.epoch  # safe before it is yielded
        return rows, steps, model.state_dict()


@pytest.mark.parametrize("stop_at", [0, 1, 3, 7, 11])
def test_stopped_run_continues_to_the_same_bits(stop_at: int, tmp_path: Path) -> None:
    rows, steps, state = run(None, 4)
    assert len(steps) == 12
    with pytest.raises(StoppedError):
        run(tmp_path / "c.pt", 4, stop_at)
    continued, more, end = run(tmp_path / "c.pt", 4)
    assert continued == rows
    assert more == steps[stop_at // 3 * 3 :]
    assert all(torch.equal(end[name], state[name]) for name in state)
    assert [path.name for path in tmp_path.iterdir()] == ["c.pt"]


def test_finished_run_is_not_trained_again_and_a_longer_one_goes_on(tmp_path: Path) -> None:
    rows, _, _ = run(tmp_path / "c.pt", 2)
    again, steps, _ = run(tmp_path / "c.pt", 2)
    assert (again, steps) == (rows, [])
    assert run(tmp_path / "c.pt", 4)[0] == run(None, 4)[0]


def test_checkpoint_of_another_run_is_not_continued(tmp_path: Path) -> None:
    run(tmp_path / "c.pt", 2, name="b")
    assert len(run(tmp_path / "c.pt", 2, name="a")[1]) == 6


def test_loss_is_the_mean_over_the_epoch_of_whole_batches() -> None:
    rows, steps, _ = run(None, 1)
    assert [len(batch) for batch in steps] == [3, 3, 3]
    assert len({number for batch in steps for number in batch}) == 9
    assert rows[0].epoch == 1


@pytest.mark.parametrize("raises", [False, True])
def test_a_run_that_diverges_keeps_its_whole_epochs_and_says_where(raises: bool) -> None:
    losses = iter([1.0, 2.0, math.inf, 3.0])

    def step(numbers: Tensor) -> Mapping[str, Tensor]:
        loss = torch.tensor(next(losses))
        if raises:
            mige.SSGE().score(loss + torch.zeros(4, 2))
        return {"loss": loss}

    random, rows = RandomState(CPU, 0), list[Figures]()
    with pytest.raises(DivergedError, match=r"epoch 2: \w+ must be finite, got"):
        for row in fit(
            step,
            lambda epoch, means, seconds: Figures(epoch, means["loss"]),
            batches=lambda: shuffled(4, 2, random),
            epochs=4,
            random=random,
            parts={},
            checkpoint=Checkpoint(None, {}, Figures),
        ):
            rows.append(row)
    assert rows == [Figures(1, 1.5)]


@pytest.mark.parametrize("last", [False, True], ids=["an error about it", "the last step"])
def test_weights_that_are_not_finite_are_divergence(last: bool) -> None:
    model, random = nn.Linear(2, 1), RandomState(CPU, 0)

    def step(numbers: Tensor) -> Mapping[str, Tensor]:
        if not last and model.weight.isnan().any():
            raise RuntimeError("the algorithm failed to converge")
        nn.init.constant_(model.weight, math.nan)
        return {"loss": torch.tensor(1.0)}

    expected = "epoch 1: weights must be finite" if last else "epoch 1: the algorithm failed"
    with pytest.raises(DivergedError, match=expected):
        for _ in fit(
            step,
            lambda epoch, means, seconds: pytest.fail("measured"),
            batches=lambda: shuffled(2 if last else 4, 2, random),
            epochs=1,
            random=random,
            parts={"model": model},
            checkpoint=Checkpoint(None, {}, Figures),
        ):
            pass


def test_other_errors_of_a_step_are_not_taken_for_divergence() -> None:
    random = RandomState(CPU, 0)
    with pytest.raises(ValueError, match="x must have 3 columns"):
        for _ in fit(
            lambda numbers: (_ for _ in ()).throw(ValueError("x must have 3 columns, got 2")),
            lambda epoch, means, seconds: Figures(epoch, 0.0),
            batches=lambda: shuffled(4, 2, random),
            epochs=1,
            random=random,
            parts={},
            checkpoint=Checkpoint(None, {}, Figures),
        ):
            pass


def test_seeded_leaves_the_global_state_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    with seeded(5, CPU):
        inside = torch.rand(2)
    assert torch.equal(torch.rand(2), expected)
    with seeded(5, CPU):
        assert torch.equal(torch.rand(2), inside)
