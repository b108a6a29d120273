"""The benchmark of tasks: its measures where the answer is known, its bounds, and its command."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from benchmarks.__main__ import app
from benchmarks.tasks import infomax, removal, sampling
from benchmarks.tasks.command import TASKS
from benchmarks.tasks.report import bounds_of, values
from benchmarks.tasks.task import CONTROL, DEFAULT, Row, Task


def test_at_least_half_of_the_tasks_are_held_out() -> None:
    halves = [task.half for task in TASKS]
    assert set(halves) == {"chosen", "held-out"}
    assert halves.count("held-out") >= len(TASKS) / 2
    for task in TASKS:
        assert {DEFAULT, CONTROL, *task.rivals} <= set(task.methods)


# --- measures -------------------------------------------------------------------------------------


@pytest.mark.parametrize("density", [sampling.Ring, sampling.Modes])
def test_samples_fit_the_log_density(density: type[sampling.Ring | sampling.Modes]) -> None:
    """Stein's identity, E[z·∇log p(z)] = −d, and a score of mean 0."""
    torch.manual_seed(0)
    z = density.sample(100_000).double().requires_grad_()
    (score,) = torch.autograd.grad(density.log_density(z).sum(), z)
    assert (z * score).sum(1).mean().item() == pytest.approx(-density.d, rel=0.03)
    assert score.mean(0).abs().max() < 0.05


def test_energy_distance_of_a_shift() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(2, 2000, 1)
    assert abs(sampling.energy_distance(a, b)) < 0.01
    # For points at a distance that is large against their spread: 2·100 − 2·2/√π.
    expected = 200 - 4 / math.sqrt(math.pi)
    assert sampling.energy_distance(a, b + 100) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(
    "category", [True, pytest.param(False, marks=pytest.mark.thorough)], ids=["category", "number"]
)
def test_the_attacker_finds_what_a_code_reveals(category: bool) -> None:
    class Columns(nn.Module):
        def __init__(self, columns: slice) -> None:
            super().__init__()
            self.columns = columns

        def forward(self, x: Tensor) -> Tensor:
            return x[:, self.columns]

    def leak(columns: slice) -> float:
        generator = torch.Generator().manual_seed(0)
        return removal._leak(Columns(columns), category, generator)

    assert leak(slice(4, 6)) < 0.03  # columns of noise
    assert leak(slice(1, 2)) > 0.55  # s with noise; a category has log 2 = .69 nats


def test_views_move_images_by_at_most_a_pixel() -> None:
    torch.manual_seed(0)
    image = torch.zeros(200, 1, 8, 8)
    image[:, :, 4, 4] = 100
    moved = infomax._view(image).flatten(1).argmax(1)
    assert {divmod(int(place), 8) for place in moved} == {
        (row, column) for row in (3, 4, 5) for column in (3, 4, 5)
    }


# --- bounds ---------------------------------------------------------------------------------------


def never(seed: int) -> Mapping[str, float]:
    raise AssertionError


def rows(task: Task, **means: float) -> list[Row]:
    return [
        Row(task.name, task.half, method, seed, task.measure, mean + shift)
        for method, mean in means.items()
        for seed, shift in ((0, -0.5), (1, 0.5))
    ]


def test_bounds_compare_the_default_with_the_best_other_method_and_the_control() -> None:
    methods = dict.fromkeys((DEFAULT, CONTROL, "SSGE"), never)
    task = Task("probe", "held-out", "linear probe, %", True, methods, ("SSGE", CONTROL))

    def missed(default: float) -> list[str]:
        found = rows(task, default=default, Gaussian=90.0, SSGE=91.0)
        return [row[0] for row in bounds_of(found, [task]).rows if row[3] != "ok"]

    assert missed(91.1) == []
    assert missed(90.2) == ["fraction of tasks in which the default is best"]
    assert "probe, points behind the best rival" in missed(89.9)
    assert "probe, points behind the control" in missed(89.4)


def test_leaks_below_the_noise_are_equal() -> None:
    methods = dict.fromkeys((DEFAULT, CONTROL), never)
    task = Task("leak", "chosen", "leak, nats", False, methods, (CONTROL,))
    found = [
        Row("leak", "chosen", method, 0, task.measure, value)
        for method, value in ((DEFAULT, 0.019), (CONTROL, 0.001))
    ]
    assert [row[3] for row in bounds_of(found, [task]).rows[:2]] == ["ok", "ok"]


# --- the command ----------------------------------------------------------------------------------


def test_command_writes_a_table_and_a_figure_and_continues(tmp_path: Path) -> None:
    arguments = ["tasks", "--task", "sampler-ring", "--method", "exact", "--out", str(tmp_path)]
    runner = CliRunner()
    for seeds in (1, 2, 2):
        result = runner.invoke(app, [*arguments, "--seeds", str(seeds)])
        assert result.exit_code == 0, result.output
    lines = (tmp_path / "tasks.csv").read_text().splitlines()
    assert len(lines) == 1 + 2  # a run that is present is not repeated
    assert (tmp_path / "tasks.png").stat().st_size > 0


def test_command_names_an_unknown_task_or_method(tmp_path: Path) -> None:
    for option in ("--task", "--method"):
        result = CliRunner().invoke(app, ["tasks", option, "nothing", "--out", str(tmp_path)])
        assert result.exit_code == 2
        assert f"{option}: there is no nothing" in result.output.replace("\n", " ")


def test_values_of_a_method_are_those_of_its_seeds() -> None:
    task = next(task for task in TASKS if task.name == "sampler-ring")
    found = values(rows(task, default=1.0), task, DEFAULT)
    np.testing.assert_allclose(found, [0.5, 1.5])
