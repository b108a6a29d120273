"""The methods of the toy against closed forms."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import stack_module_state

from mige_ext.bounds import JointCritic, SeparableCritic
from mige_ext.experiments.toy.methods import (
    AUTHORS,
    BOUNDS,
    MARGINALS,
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
from mige_ext.scores.gaussian import GaussianScore
from mige_ext.scores.kernel.ssge import SSGE

GOLDEN = Path(__file__).parents[2] / "golden" / "authors_release_fp64.npz"
SMALL = Settings(seeds=2, points=4, samples=64, steps=2)


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


def test_relative_rmse_is_the_error_of_each_seed_relative_to_the_truth() -> None:
    truth = np.array([3.0, 4.0])
    estimates = np.array([truth, 1.1 * truth, 0 * truth, truth + np.array([5.0, 0.0])])
    np.testing.assert_allclose(relative_rmse(estimates, truth), [0, 0.1, 1, 1], atol=1e-12)


@pytest.mark.parametrize(("case", "rho"), [("toy_d8_rho0.5", 0.5), ("toy_d16_rho-0.7", -0.7)])
def test_mige_derivative_is_that_of_the_authors(case: str, rho: float) -> None:
    with np.load(GOLDEN) as golden:
        x, noise = (torch.tensor(golden[f"{case}/{name}"]) for name in ("x", "noise"))
        theirs = golden[f"{case}/dI_drho"].item()
    # The authors keep one eigenvalue fewer than the paper's rule. test_compat.py tests equality.
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
    torch.testing.assert_close(
        mige_derivative(rho, x, noise, GaussianScore(covariance="mle")), slope
    )


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


class Distance(nn.Module):
    """Scores a pair by its distance, so that the score identifies the pair."""

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
