"""Information removal: nuisances, penalties, attackers, and the command that can be stopped."""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from torch import Tensor
from typer.testing import CliRunner

from mige_ext.experiments.common.runs import Table
from mige_ext.experiments.data import images as data
from mige_ext.experiments.removal import command
from mige_ext.experiments.removal import training as removal_training
from mige_ext.experiments.removal.attacker import Codes, attack
from mige_ext.experiments.removal.command import choose_beta, longer, removal
from mige_ext.experiments.removal.methods import METHODS, Club
from mige_ext.experiments.removal.nuisances import (
    BINS,
    NUISANCES,
    Batch,
    Images,
    Structural,
    bins_of,
)
from mige_ext.experiments.removal.report import Result
from mige_ext.experiments.removal.training import Epoch, Run, Settings, encode, train

pytestmark = pytest.mark.usefixtures("one_thread")  # the networks are too small for more
PENALISED = [name for name in METHODS if name != "none"]
SMALL = Settings(data="digits", steps=12, hidden=32, latent=4, ramp=5)


@pytest.fixture(scope="module")
def digits() -> Images:
    return Images(data.load("digits"), "rotation")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def draw(problem: Images | Structural, count: int, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(problem.count("train"), (count,), generator=generator)
    return problem.draw("train", rows, generator)


# --- nuisances ------------------------------------------------------------------------------------


@pytest.mark.parametrize("nuisance", NUISANCES)
def test_nuisances_have_unit_variance_and_bins_of_equal_probability(nuisance: str) -> None:
    count = 20_000
    u = torch.rand(count, NUISANCES[nuisance].uniforms, generator=torch.Generator().manual_seed(0))
    s = NUISANCES[nuisance].scale(u)
    assert s.shape == (count, NUISANCES[nuisance].dim)
    sampling = 5 / math.sqrt(count)
    assert (s.mean(0).abs() < sampling).all() and ((s.var(0) - 1).abs() < sampling).all()
    share = torch.bincount(bins_of(u), minlength=BINS) / count
    assert len(share) == BINS and ((share - 1 / BINS).abs() < sampling / math.sqrt(BINS)).all()


def test_a_quarter_turn_and_a_half_shift_are_exact() -> None:
    image = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    turned = NUISANCES["rotation"].act(image, torch.tensor([[0.25]]))
    error = min((turned - image.rot90(turns, (2, 3))).abs().max().item() for turns in (1, 3))
    assert error < 1e-5
    still = NUISANCES["shift"].act(image, torch.full((1, 2), 0.5))
    torch.testing.assert_close(still, image)
    torch.testing.assert_close(NUISANCES["thickness"].act(image, torch.tensor([[0.5]])), image)


def test_thickness_grows_with_u() -> None:
    image = torch.zeros(1, 1, 9, 9)
    image[..., 3:6, :] = 1
    act = NUISANCES["thickness"].act
    ink = [act(image, torch.tensor([[u]])).sum().item() for u in (0.0, 0.25, 0.5, 0.75, 0.99)]
    assert ink == sorted(ink) and ink[0] < ink[2] < ink[4]


def test_the_attribute_of_the_structural_table_depends_on_the_label() -> None:
    batch = draw(Structural(), 20_000)
    means = [batch.s[batch.label == label].mean().item() for label in (0, 1)]
    assert means[1] - means[0] > 0.3
    assert abs(batch.label.float().mean().item() - 0.5) < 0.05
    correlation = torch.corrcoef(torch.cat([batch.x, batch.s], 1).mT)[-1, :-1]
    assert correlation.abs().max() < 0.9  # no column is the attribute


def test_an_unknown_nuisance_is_refused() -> None:
    with pytest.raises(ValueError, match=r"nuisance must be one of .*'rotation'.* got 'colour'"):
        Images(data.load("digits"), "colour")


# --- penalties ------------------------------------------------------------------------------------


def planted(problem: Structural, count: int = 256, seed: int = 0) -> tuple[Tensor, Batch]:
    """z whose first dimension tells s, linearly and by its square."""
    batch = draw(problem, count, seed)
    z = normal(count, 4, seed=seed)
    z[:, :1] += batch.s
    z[:, 1:2] += batch.s.square()
    return (z - z.mean(0)) / z.std(0), batch


def linear_r2(z: Tensor, s: Tensor) -> float:
    """Share of the variance of s that is linear in z."""
    left = s - z @ torch.linalg.lstsq(z, s).solution
    return 1 - (left.var() / s.var()).item()


@pytest.mark.parametrize("method", PENALISED)
def test_steps_down_the_penalty_reduce_dependence(method: str) -> None:
    problem = Structural()
    make = METHODS[method].penalty
    assert make is not None
    z, batch = planted(problem)
    before = linear_r2(z, batch.s)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        penalty = make(problem, 4)
        for _ in range(30):  # what has a learner learns first
            penalty(z, batch)
        for _ in range(10):
            z.requires_grad_()
            (gradient,) = torch.autograd.grad(penalty(z, batch), z)
            z = z.detach() - 0.1 * gradient / gradient.square().mean().sqrt()
            z = (z - z.mean(0)) / z.std(0)  # as BatchNorm would
    assert linear_r2(z, batch.s) < 0.9 * before


@pytest.mark.parametrize("method", PENALISED)
def test_penalties_are_scalars_with_gradients_in_z_alone(method: str, digits: Images) -> None:
    make = METHODS[method].penalty
    assert make is not None
    with torch.random.fork_rng():
        torch.manual_seed(0)
        batch = draw(digits, 64)
        z = normal(64, 4).requires_grad_()
        value = make(digits, 4)(z, batch)
    assert value.shape == ()
    (gradient,) = torch.autograd.grad(value, z)
    assert gradient.isfinite().all() and gradient.abs().max() > 0


def test_club_is_its_mean_over_all_pairs(digits: Images) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        club = Club(digits, 4)
    z, batch = normal(32, 4), draw(digits, 32)
    mean, log_variance = club.moments(z)
    variance = log_variance.exp()
    log_q = -(batch.s[None] - mean[:, None]).square() / (2 * variance[:, None])  # up to log σ
    pairs = log_q.sum(-1)
    torch.testing.assert_close(club.penalty(z, batch), pairs.diagonal().mean() - pairs.mean())


def test_all_grids_have_the_same_size() -> None:
    assert len({len(METHODS[method].strengths) for method in PENALISED}) == 1


# --- the attackers --------------------------------------------------------------------------------


def codes(leak: float, *, hidden: float = 1.0, count: int = 3000, seed: int = 0) -> Codes:
    """z of 4 dimensions; the last tells √2 cos 2πu by this much, at this scale."""
    u = torch.rand(count, 1, generator=torch.Generator().manual_seed(seed))
    s = NUISANCES["rotation"].scale(u)
    z = normal(count, 4, seed=seed + 1)
    z[:, 3] = hidden * (leak * s[:, 0] + z[:, 3]) + z[:, 0] * (hidden != 1)
    return Codes(z, s, bins_of(u))


def test_attackers_find_nothing_in_noise() -> None:
    (leak,) = attack(codes(0), [codes(0, seed=7)], epochs=3)
    assert leak.nats < 0.01 and leak.r2 < 0.01


@pytest.mark.parametrize("hidden", [1.0, 1e-3])
def test_attackers_find_a_planted_leak_also_in_directions_of_little_variance(
    hidden: float,
) -> None:
    (leak,) = attack(codes(3, hidden=hidden), [codes(3, hidden=hidden, seed=7)], epochs=6)
    # I(z; s) for cosine plus noise at 3 to 1 is above half a nat; R² of the cosine is 0.9.
    assert leak.nats > 0.5
    assert 0.4 < leak.r2 < 0.5
    if hidden < 1:
        assert "standardized" not in leak.attacker


def test_attacks_are_deterministic_and_leave_the_global_seed_alone() -> None:
    state = torch.get_rng_state()
    first, second = (attack(codes(1), [codes(1, seed=7)], epochs=1, seed=5) for _ in range(2))
    assert first == second
    assert torch.equal(torch.get_rng_state(), state)


# --- training -------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_training_is_deterministic_for_a_seed(method: str, digits: Images) -> None:
    run = Run(method, METHODS[method].strengths[0], 3)
    state = torch.get_rng_state()
    first, second = (train(digits, run, SMALL)[0].state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(torch.get_rng_state(), state)


def test_methods_start_alike_and_see_the_same_batches(digits: Images) -> None:
    models = [train(digits, Run(name, 0.0, 0), SMALL)[0].state_dict() for name in METHODS]
    for other in models[1:]:
        for name, value in models[0].items():
            torch.testing.assert_close(other[name], value)


def test_codes_of_a_part_are_the_same_each_time(digits: Images) -> None:
    model = train(digits, Run("none", 0.0, 0), SMALL)[0]
    (first, accuracy), (second, _) = (encode(model, digits, "test", 5) for _ in range(2))
    assert torch.equal(first.z, second.z) and first.z.shape == (797, 4)
    assert 0 <= accuracy <= 1


# --- the choice of β ------------------------------------------------------------------------------


def row(method: str, beta: float, accuracy: float, leak: float) -> Result:
    nan = math.nan
    return Result("d", "n", method, beta, 0, accuracy, leak, 0.0, nan, nan, nan, "a", 1.0)


def test_beta_removes_most_within_half_a_point() -> None:
    rows = [
        row("none", 0.0, 0.9, 1.0),
        row("hsic", 1.0, 0.9, 0.5),
        row("hsic", 2.0, 0.896, 0.2),
        row("hsic", 4.0, 0.89, 0.1),
        row("mine", 1.0, 0.8, 0.1),
        row("mine", 2.0, 0.7, 0.0),
    ]
    assert choose_beta(rows, "hsic") == 2.0
    assert choose_beta(rows, "mine") == 1.0  # none is accurate enough: the most accurate
    assert choose_beta(rows, "none") == 0.0


# --- the command ----------------------------------------------------------------------------------

OPTIONS = ["--data", "digits", "--method", "mige", "--method", "mine", "--beta", "0.05"]
OPTIONS += [
    "--beta",
    "0.1",
    "--steps",
    "10",
    "--batch",
    "64",
    "--codes",
    "200",
    "--test-codes",
    "300",
    "--seeds",
    "2",
]


def invoke(out: Path, *more: str) -> Any:
    app = typer.Typer()
    app.command()(removal)
    return CliRunner().invoke(app, [*OPTIONS, "--out", str(out), *more])


def read(out: Path, timed: bool = True) -> list[dict[str, str]]:
    with (out / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        milliseconds = row.pop("ms_per_step")
        assert not timed or float(milliseconds) > 0
    return rows


def test_the_command_runs_stops_and_resumes_to_the_same_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removal_training, "EPOCH", 3)
    whole = invoke(tmp_path / "whole")
    assert whole.exit_code == 0, whole.output
    rows = read(tmp_path / "whole")
    assert [(r["method"], r["beta"], r["seed"]) for r in rows[:5]] == [
        ("none", "0.0", "0"),
        *((method, beta, "0") for method in ("mige", "mine") for beta in ("0.05", "0.1")),
    ]
    tested = [r for r in rows if r["accuracy"]]
    assert len(rows) == 5 + 3 and len(tested) == 2 * 3  # the chosen β, 2 seeds
    for figure in ("removal.png", "curves.png"):
        assert (tmp_path / "whole" / figure).stat().st_size > 10_000
    assert "MINE" in whole.output and "leak, nats" in whole.output

    calls = 0

    def stop_in_the_third(*arguments: Any, on_step: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        seen: list[Any] = []

        def step(scalars: Any) -> None:
            on_step(scalars)
            seen.append(scalars)
            if calls == 3 and len(seen) == 8:  # in its third epoch
                raise KeyboardInterrupt

        return train(*arguments, on_step=step, **options)

    monkeypatch.setattr(command, "train", stop_in_the_third)
    stopped = invoke(tmp_path / "parts")
    assert stopped.exit_code == 130
    assert len(read(tmp_path / "parts")) == 2
    assert len(Table(tmp_path / "parts" / "metrics.csv", Epoch).rows) == 4 + 4 + 2
    assert len(list((tmp_path / "parts" / "models").iterdir())) == 3  # the stopped one, too
    assert (tmp_path / "parts" / "removal.png").exists()
    assert (tmp_path / "parts" / "curves.png").exists()
    monkeypatch.setattr(command, "train", train)
    resumed = invoke(tmp_path / "parts", "--resume")
    assert resumed.exit_code == 0, resumed.output
    assert read(tmp_path / "parts") == rows
    epochs = [Table(tmp_path / name / "metrics.csv", Epoch).rows for name in ("whole", "parts")]
    assert epochs[0] == epochs[1]
    assert [row.step for row in epochs[0][:4]] == [3, 6, 9, 10]


@pytest.mark.parametrize("method", ["mige", "adversary-classifier", "mine"])
def test_a_stopped_run_continues_to_the_same_bits(
    method: str, digits: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removal_training, "EPOCH", 3)
    run, path = Run(method, METHODS[method].strengths[0], 3), tmp_path / "checkpoint.pt"
    model, epochs = train(digits, run, SMALL)
    seen: list[Any] = []

    def stop(scalars: Any) -> None:
        seen.append(scalars)
        if len(seen) == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(digits, run, SMALL, checkpoint=path, on_step=stop)
    continued, same = train(digits, run, SMALL, checkpoint=path, on_step=seen.append)
    assert same == epochs and len(seen) == 8 + 6
    for name, value in model.state_dict().items():
        assert torch.equal(continued.state_dict()[name], value)


def test_a_grid_grows_beyond_the_end_that_was_chosen() -> None:
    assert longer([0.1, 0.3, 1.0], 1.0) == [0.1, 0.3, 1.0, 3.33]
    assert longer([0.1, 0.2, 0.4], 0.1) == [0.05, 0.1, 0.2, 0.4]
    assert longer([0.1, 0.2, 0.4], 0.2) == [0.1, 0.2, 0.4]
    assert longer([0.0], 0.0) == [0.0] and longer([0.1], 0.1) == [0.1]
    assert longer([0.0, 1.0, 2.0], 2.0) == [0.0, 1.0, 2.0, 4.0]
    assert longer([0.0, 1.0], 0.0) == longer([0.0, 1.0], 1.0) == [0.0, 1.0]


def test_the_command_extends_grids_until_the_choice_is_inside(tmp_path: Path) -> None:
    result = invoke(tmp_path, "--seeds", "1", "--extend", "2")
    assert result.exit_code == 0, result.output
    rows = read(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["extend"] == 2 and config["betas"]["mine"] == [0.05, 0.1]
    for method in ("mige", "mine"):
        of_method = [row for row in rows if row["method"] == method]
        betas = sorted(float(row["beta"]) for row in of_method)
        (chosen,) = (float(row["beta"]) for row in of_method if row["accuracy"])
        assert betas[0] in (0.0125, 0.025, 0.05) and betas[-1] in (0.1, 0.2, 0.4)
        assert len(betas) == 4 or chosen not in (betas[0], betas[-1])


def test_a_run_that_diverges_is_never_chosen(tmp_path: Path) -> None:
    result = invoke(tmp_path, "--seeds", "1", "--beta", "1e42")
    assert result.exit_code == 0, result.output
    assert "MINE β=1e+42 seed 0 diverged, and counts as never right: epoch 1" in result.output
    rows = read(tmp_path, timed=False)
    failed = [row for row in rows if row["beta"] == "1e+42"]
    assert [row["method"] for row in failed] == ["mige", "mine"]
    assert {row[name] for row in failed for name in ("val_accuracy", "accuracy")} == {""}
    chosen = [(row["method"], float(row["accuracy"]) > 0) for row in rows if row["accuracy"]]
    assert chosen == [("none", True), ("mige", True), ("mine", True)]
    assert "1e+42" not in result.output[result.output.index("strongest attacker") :]


def test_divergence_is_no_leak_of_nothing() -> None:
    nan = math.nan
    none, small, large = row("none", 0, 0.9, 1), row("hsic", 1, 0.9, 0.5), row("hsic", 2, 0.9, 0.2)
    failed = replace(row("hsic", 4, nan, nan), ms_per_step=nan)
    assert choose_beta([none, small, large, failed], "hsic") == 2
    assert choose_beta([none, small, large, replace(failed, beta=2.0, seed=1)], "hsic") == 1
    assert choose_beta([none, failed, replace(failed, beta=3.0)], "hsic") == 3
    no_none = replace(none, val_accuracy=nan, ms_per_step=nan)
    assert choose_beta([no_none, small, large, failed], "hsic") == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--nuisance", "colour"], "nuisance must be one of"),
        (["--method", "magic"], "method must be one of"),
        (["--data", "nowhere"], "--data must be one of"),
        (["--device", "abacus"], "--device must be auto, cpu or cuda, got 'abacus'"),
    ],
)
def test_mistakes_are_named(options: list[str], message: str, tmp_path: Path) -> None:
    result = invoke(tmp_path / "out", *options)
    assert result.exit_code == 2
    assert message in " ".join(result.output.replace("│", " ").split())
    assert not (tmp_path / "out").exists()


def test_the_structural_table_is_a_problem_of_its_own(tmp_path: Path) -> None:
    result = invoke(tmp_path, "--data", "structural", "--method", "none", "--seeds", "1")
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "config.json").read_text())["settings"]["nuisance"] == "attribute"
