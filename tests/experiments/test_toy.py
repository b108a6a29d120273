import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import imread
from torch import Tensor, nn
from torch.func import stack_module_state
from typer.testing import CliRunner

from mige_ext.bounds import JointCritic, SeparableCritic
from mige_ext.experiments.common import plots
from mige_ext.experiments.toy import command as module
from mige_ext.experiments.toy.methods import (
    AUTHORS,
    BOUNDS,
    MARGINALS,
    METHODS,
    GaussianScore,
    Settings,
    correlate,
    draw_samples,
    integrate_from_zero,
    mige_derivative,
    relative_rmse,
    rho_grid,
    run_bound,
    run_mige,
    score_pairs,
    true_derivative,
    true_information,
)
from mige_ext.scores.kernel.ssge import SSGE

GOLDEN = Path(__file__).parents[1] / "golden" / "authors_release_fp64.npz"
SMALL = Settings(seeds=2, points=4, samples=64, steps=2)

app = typer.Typer()
app.command()(module.toy)


# The problem and its measure


def test_true_derivative_is_the_slope_of_the_true_information() -> None:
    rho, step = rho_grid(9), 1e-6
    slope = (true_information(3, rho + step) - true_information(3, rho - step)) / (2 * step)
    np.testing.assert_allclose(true_derivative(3, rho), slope, rtol=1e-7, atol=1e-9)


def test_correlate_gives_unit_variance_and_the_correlation_asked_for() -> None:
    x, noise = torch.randn(2, 2, 100_000, 1, generator=torch.Generator().manual_seed(0))
    y = correlate(torch.tensor([-0.8, 0.3]), x, noise)
    torch.testing.assert_close(y.std(1), torch.ones(2, 1), atol=0.01, rtol=0)
    torch.testing.assert_close((x * y).mean(1)[:, 0], torch.tensor([-0.8, 0.3]), atol=0.02, rtol=0)


def test_samples_of_a_seed_do_not_depend_on_the_other_seeds() -> None:
    rho, x, noise = draw_samples(3, replace(SMALL, seeds=3))
    assert rho.shape == (3, 4)
    assert x.shape == noise.shape == (3, 4, 64, 3)
    _, x_of_two, _ = draw_samples(3, replace(SMALL, seeds=2, seed=1))
    assert torch.equal(x_of_two, x[1:])
    assert not torch.equal(x[0], x[1])
    assert not torch.equal(x, noise)


def test_relative_rmse_is_the_error_of_each_seed_as_a_share_of_the_truth() -> None:
    truth = np.array([3.0, 4.0])
    estimates = np.array([truth, 1.1 * truth, 0 * truth, truth + np.array([5.0, 0.0])])
    np.testing.assert_allclose(relative_rmse(estimates, truth), [0, 0.1, 1, 1], atol=1e-12)


# MIGE


@pytest.mark.parametrize(("case", "rho"), [("toy_d8_rho0.5", 0.5), ("toy_d16_rho-0.7", -0.7)])
def test_mige_derivative_is_that_of_the_authors(case: str, rho: float) -> None:
    with np.load(GOLDEN) as golden:
        x, noise = (torch.tensor(golden[f"{case}/{name}"]) for name in ("x", "noise"))
        theirs = golden[f"{case}/dI_drho"].item()
    # They keep one eigenvalue less than the paper's rule; `compat` is the place for equality.
    assert mige_derivative(rho, x, noise, SSGE(threshold=0.99)).item() == pytest.approx(
        theirs, rel=5e-3
    )


def test_mige_derivative_of_a_batch_is_that_of_each_member() -> None:
    rho, x, noise = draw_samples(3, SMALL)
    batch = mige_derivative(rho, x, noise)
    for s, r in np.ndindex(batch.shape):
        one = mige_derivative(rho[s, r], x[s, r], noise[s, r])
        torch.testing.assert_close(batch[s, r], one, rtol=1e-3, atol=1e-3)


def test_mige_derivative_with_the_gaussian_score_is_the_slope_of_log_determinants() -> None:
    rho, x, noise = (tensor.double() for tensor in draw_samples(3, SMALL))
    rho.requires_grad_()
    y = correlate(rho, x, noise)

    def entropy(z: Tensor) -> Tensor:
        z = z - z.mean(-2, keepdim=True)
        return 0.5 * torch.logdet(z.mT @ z / z.shape[-2])

    information = entropy(y) - entropy(torch.cat([x, y], dim=-1))
    (slope,) = torch.autograd.grad(information.sum(), rho)
    torch.testing.assert_close(mige_derivative(rho, x, noise, GaussianScore()), slope)


def test_mige_is_near_the_truth_without_training() -> None:
    settings = Settings(seeds=2, points=8)
    mi, dmi = run_mige("MIGE", 5, settings)
    rho = rho_grid(8)
    assert relative_rmse(dmi, true_derivative(5, rho)).max() < 0.12
    assert relative_rmse(mi, true_information(5, rho)).max() < 0.25


def test_stein_calibration_brings_mige_nearer_in_many_dimensions() -> None:
    settings, truth = Settings(seeds=1, points=4), true_derivative(16, rho_grid(4))
    error = {
        method: relative_rmse(run_mige(method, 16, settings)[1], truth).item()
        for method in ("MIGE", "MIGE-Stein")
    }
    assert error["MIGE-Stein"] < 0.7 * error["MIGE"]


@pytest.mark.parametrize("points", [8, 9])
def test_integral_starts_at_zero_whether_the_grid_holds_it_or_not(points: int) -> None:
    rho = rho_grid(points)
    derivative = np.stack([2 * rho + 1, -rho])
    integral = integrate_from_zero(rho, derivative)
    middle = np.stack([rho**2 + rho, -(rho**2) / 2])
    # The trapezoidal rule is exact for straight lines.
    np.testing.assert_allclose(integral, middle, atol=1e-12)


# MINE and MINE-f


class Distance(nn.Module):
    """Scores a pair by its distance, so that the score tells which pair it was."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        return self.scale * (x - z).abs().sum(-1)


def test_marginal_pairs_of_a_perceptron_are_of_different_rows_and_none_twice() -> None:
    critics = [Distance(), Distance()]
    parameters, _ = stack_module_state(critics)
    x = (4.0 ** torch.arange(6)).view(1, 6, 1).expand(2, 6, 1)
    joint, marginal = score_pairs(critics[0], parameters, x, x)
    assert torch.equal(joint, torch.zeros(2, 6))
    assert marginal.shape == (2, MARGINALS * 6)
    assert marginal.min() > 0
    differences = marginal[0].tolist()
    assert all(differences.count(difference) <= 2 for difference in differences)  # (i, j), (j, i)


@pytest.mark.parametrize("make", [JointCritic, SeparableCritic])
def test_score_pairs_lets_each_critic_score_its_own_batch(
    make: type[JointCritic] | type[SeparableCritic],
) -> None:
    critics = [make(2, 2, 8) for _ in range(3)]
    parameters, _ = stack_module_state(critics)
    x, y = torch.randn(2, 3, 5, 2)
    joint, marginal = score_pairs(critics[0], parameters, x, y)
    for e, critic in enumerate(critics):
        torch.testing.assert_close(joint[e], critic(x[e], y[e]))
        of_all = critic(x[e, :, None], y[e, None])
        off_diagonal = of_all[~torch.eye(5, dtype=torch.bool)]
        distance = (marginal[e][:, None] - off_diagonal).abs().min(1).values
        assert distance.max() < 1e-5


@pytest.mark.parametrize("method", BOUNDS)
def test_trained_bound_approaches_information_and_derivative(method: str) -> None:
    settings = Settings(seeds=1, points=4, samples=128, steps=250, hidden=32)
    rho, truth = rho_grid(4), true_derivative(2, rho_grid(4))
    mi, dmi = run_bound(method, 2, settings, lambda: None)
    assert relative_rmse(dmi, truth).item() < 0.35
    assert relative_rmse(mi, true_information(2, rho)).item() < 0.3
    _, untrained = run_bound(method, 2, replace(settings, steps=1), lambda: None)
    assert relative_rmse(untrained, truth).item() > 0.8


@pytest.mark.parametrize("settings", [SMALL, replace(AUTHORS, seeds=1, points=2, steps=2)])
def test_bound_is_reproducible_and_leaves_the_global_random_state_alone(
    settings: Settings,
) -> None:
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    steps: list[int] = []
    first = run_bound("MINE", 3, settings, lambda: steps.append(1))
    assert len(steps) == settings.steps * settings.seeds
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(3)
    np.testing.assert_array_equal(first, run_bound("MINE", 3, settings, lambda: None))


# The command


def run(out: Path, *options: str, exit_code: int = 0) -> str:
    tiny = ["--quick", "--steps", "2", "--samples", "16", "--dims", "2", "--out", str(out)]
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, [*tiny, *options])
    assert result.exit_code == exit_code, result.output
    return result.output


def read(out: Path) -> list[dict[str, str]]:
    with (out / "toy.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_command_writes_table_numbers_and_figure(tmp_path: Path) -> None:
    output = run(tmp_path, "--dims", "2,3")
    assert "small version" in output
    table = output[output.index("relative RMSE of dI/dρ") :].splitlines()
    assert table[0].split()[-6:] == ["d", "=", "2", "d", "=", "3"]
    assert [line.split()[0] for line in table[1 : 1 + len(METHODS)]] == list(METHODS)
    assert all(line.count("±") == 2 for line in table[1 : 1 + len(METHODS)])

    rows = read(tmp_path)
    assert list(rows[0]) == ["dim", "rho", "seed", "method", "mi", "mi_true", "dmi", "dmi_true"]
    assert len(rows) == 2 * len(METHODS) * 2 * 16
    for row in rows:
        rho, dim = float(row["rho"]), int(row["dim"])
        assert float(row["dmi_true"]) == pytest.approx(dim * rho / (1 - rho**2))
        assert np.isfinite([float(row["mi"]), float(row["dmi"])]).all()

    assert json.loads((tmp_path / "config.json").read_text())["settings"]["steps"] == 2
    image = imread(tmp_path / "toy.png")
    assert min(image.shape[:2]) > 500
    assert np.ptp(image[..., :3]) > 0.9
    assert (tmp_path / "toy.pdf").read_bytes().startswith(b"%PDF")


def test_printed_error_is_that_of_the_numbers(tmp_path: Path) -> None:
    line = next(line for line in run(tmp_path).splitlines() if line.startswith("MIGE "))
    rows = [row for row in read(tmp_path) if row["method"] == "MIGE"]
    dmi, truth = (
        np.array([float(row[name]) for row in rows]).reshape(2, 16) for name in ("dmi", "dmi_true")
    )
    errors = relative_rmse(dmi, truth)
    assert line.split()[1:] == [f"{errors.mean():.3f}", "±", f"{np.ptp(errors) / 2:.3f}"]


def test_resume_runs_only_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path)
    before = read(tmp_path)
    called: list[tuple[str, int]] = []
    original = run_bound

    def spy(method: str, dim: int, *rest: Any) -> Any:
        called.append((method, dim))
        return original(method, dim, *rest)

    monkeypatch.setattr(module, "run_bound", spy)
    run(tmp_path, "--resume", "--dims", "2,3")
    assert called == [("MINE", 3), ("MINE-f", 3)]
    after = read(tmp_path)
    assert after[: len(before)] == before
    assert len(after) == 2 * len(before)


def test_stopped_run_keeps_what_is_finished_and_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = run_bound

    def stop(method: str, dim: int, *rest: Any) -> Any:
        if method == "MINE-f":
            raise KeyboardInterrupt
        return original(method, dim, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(module, "run_bound", stop)
        assert "--resume" in run(tmp_path, exit_code=130)
    assert {row["method"] for row in read(tmp_path)} == set(METHODS) - {"MINE-f"}
    run(tmp_path, "--resume")
    whole = tmp_path / "at-once"
    run(whole)
    assert read(tmp_path) == read(whole)


def test_folder_with_results_is_neither_overwritten_nor_mixed(tmp_path: Path) -> None:
    run(tmp_path)
    before = (tmp_path / "toy.csv").read_bytes()
    assert "--resume" in run(tmp_path, exit_code=2)
    assert "steps is 3 now and was 2" in run(tmp_path, "--resume", "--steps", "3", exit_code=2)
    assert (tmp_path / "toy.csv").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dims", "5,0"], "--dims must be positive numbers like 5,10,20, got '5,0'"),
        (["--dims", "five"], "got 'five'"),
        (["--threshold", "1.5"], "threshold must lie in (0, 1], got 1.5"),
        (["--authors"], "--authors and --quick exclude each other"),
        (["--samples", "1"], "--samples"),
    ],
)
def test_command_rejects_bad_options_before_it_writes(
    options: list[str], message: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert message in run(out, *options, exit_code=2)
    assert not out.exists()


# The figures


def test_band_shows_mean_and_deviation_in_the_colour_of_the_method() -> None:
    _, panels = plots.figure()
    ax, samples = panels[0, 0], np.array([[1.0, 2.0], [3.0, 6.0]])
    plots.band(ax, [0, 1], samples, label="MIGE")
    (line,), (area,) = ax.lines, ax.collections
    np.testing.assert_array_equal(line.get_ydata(), [2, 4])
    heights = area.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (1, 6)
    assert to_hex(line.get_color()) == plots.PALETTE["MIGE"].lower()
    plots.band(ax, [0, 1], samples[:1], label="one seed")
    assert len(ax.collections) == 1


def test_band_rejects_samples_of_another_length() -> None:
    _, panels = plots.figure()
    with pytest.raises(ValueError, match=r"samples must have shape \(S, 3\) .* got \(2, 2\)"):
        plots.band(panels[0, 0], [0, 1, 2], np.zeros((2, 2)), label="MIGE")


def test_colours_of_methods_are_distinct() -> None:
    assert len(set(plots.PALETTE.values())) == len(plots.PALETTE)


def a_figure() -> Figure:
    figure, panels = plots.figure(1, 1)
    for name in ("a", "b"):
        samples = np.random.default_rng(0).random((3, 3))
        plots.band(panels.flat[0], np.arange(3), samples, label=name)
    plots.legend(figure)
    return figure


def test_a_legend_names_each_method_once_and_the_figure_is_saved(tmp_path: Path) -> None:
    figure = a_figure()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]
    for path in plots.save(figure, tmp_path / "folder" / "curves.v1"):
        assert path.parent == tmp_path / "folder"
        assert path.stem == "curves.v1"
        assert path.stat().st_size > 5_000


def test_saving_a_figure_again_gives_the_same_bytes(tmp_path: Path) -> None:
    first = [path.read_bytes() for path in plots.save(a_figure(), tmp_path / "a")]
    assert first == [path.read_bytes() for path in plots.save(a_figure(), tmp_path / "b")]
    assert b"CreationDate" not in first[1]
