"""The negentropy is the entropy of a Gaussian minus the entropy, and its ascent contracts."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import mige_ext as mige
from mige_ext import AdaptiveScore, entropy, negentropy
from mige_ext.information import DEFAULT_ESTIMATOR
from tests.support.accuracy import rounding
from tests.support.gradients import close, gradient, leaf
from tests.support.inputs import for_each_dtype, normal

# These calls are misuse on purpose. test_warnings.py tests the warnings.
pytestmark = pytest.mark.filterwarnings("ignore::mige_ext.MigeWarning")

ESTIMATORS = [
    AdaptiveScore(gaussian=gaussian, calibrate=calibrate)
    for gaussian in ("ridge", "qis", "mle")
    for calibrate in (None, "stein")
]
for_each_estimator = pytest.mark.parametrize("estimator", ESTIMATORS, ids=str)


def two_modes(*shape: int, width: float = 0.4, seed: int = 0) -> Tensor:
    """Samples with two modes in every coordinate, at −1 and 1."""
    return normal(*shape, seed=seed).sign() + width * normal(*shape, seed=seed + 100)


class GaussianPart:
    """An estimator that gives the Gaussian part of another estimator."""

    def __init__(self, estimator: AdaptiveScore) -> None:
        self.score = estimator.gaussian_score


@for_each_estimator
@for_each_dtype
def test_the_gradient_is_that_of_the_gaussian_entropy_minus_the_entropy(
    estimator: AdaptiveScore, dtype: torch.dtype
) -> None:
    z = two_modes(3, 60, 2).to(dtype).requires_grad_()
    both = [entropy(z, estimator=e) for e in (GaussianPart(estimator), estimator)]
    gaussian, whole = (gradient(value, z) for value in both)
    assert (gaussian - whole).norm() > 0.1 * whole.norm()
    got = gradient(negentropy(z, estimator=estimator), z)
    # The difference of the scores is rounded relative to the scores.
    assert (got - (gaussian - whole)).abs().max() <= rounding(dtype) * whole.abs().max()


@for_each_estimator
@pytest.mark.parametrize("d", [1, 4, 20])
def test_the_gradient_is_zero_where_the_gaussian_score_is_used_unchanged(
    estimator: AdaptiveScore, d: int
) -> None:
    z = normal(20, 128, d)
    unchanged = estimator.diagnose(z).lam.isinf()
    assert unchanged.sum() >= 15
    z = z[unchanged].requires_grad_()
    got = gradient(negentropy(z, estimator=estimator), z)
    whole = gradient(entropy(z, estimator=estimator), z)
    assert got.norm() <= rounding(z.dtype, 128 * d) * whole.norm()


def test_the_gradient_of_normal_samples_is_small_beside_that_of_the_entropy() -> None:
    z = leaf(50, 256, 4)
    got, whole = gradient(negentropy(z), z), gradient(entropy(z), z)
    assert got.norm() < 0.1 * whole.norm()
    modes = two_modes(50, 256, 4).requires_grad_()
    assert gradient(negentropy(modes), modes).norm() > 10 * got.norm()


@pytest.mark.parametrize("d", [1, 2])
def test_the_gradient_agrees_with_the_exact_score_of_two_modes(d: int) -> None:
    # q is a mixture in every coordinate: log q(z) = −(z² + 1)/2w² + log cosh(z/w²), w = .5.
    w = 0.5
    z = two_modes(512, d, width=w).requires_grad_()
    x = z.detach()
    exact = ((x / w**2).tanh() - x) / w**2 + x / (1 + w**2)
    got = gradient(negentropy(z), z).view_as(x) * 512
    assert (got - exact).square().mean() < 0.25 * exact.square().mean()


def test_scales_and_shifts_of_columns_change_the_gradient_inversely() -> None:
    z = two_modes(200, 3)
    scale, shift = torch.tensor([1e-3, 1.0, 40.0]).double(), torch.tensor([5.0, 0.0, -3.0]).double()
    moved = (scale * z + shift).requires_grad_()
    z.requires_grad_()
    got, expected = gradient(negentropy(moved), moved), gradient(negentropy(z), z)
    got = (got.view_as(z) * scale).flatten()
    assert (got - expected).norm() <= 1e-6 * expected.norm()


def test_linear_maps_have_little_gradient_beside_that_of_the_entropy() -> None:
    # J(z A) does not depend on A, and H(z A) = H(z) + log |det A|.
    ratios = []
    for seed in range(5):
        a = torch.eye(2, dtype=torch.float64, requires_grad=True)
        z = two_modes(512, 2, seed=seed)
        ratios.append(gradient(negentropy(z @ a), a).norm() / gradient(entropy(z @ a), a).norm())
    assert torch.stack(ratios).median() < 0.1


def test_ascent_moves_the_samples_into_clusters_at_a_fixed_covariance() -> None:
    z = two_modes(256, 2)
    side = z.sign()

    def spread(z: Tensor) -> Tensor:
        return (z.abs() - z.abs().mean(0)).square().mean(0) / z.square().mean(0)

    before = spread(z)
    for _ in range(5):
        z.requires_grad_()
        z = z.detach() + 0.03 * len(z) * gradient(negentropy(z), z).view_as(z)
        z = (z - z.mean(0)) / z.std(0)
    assert (spread(z) < 0.5 * before).all()
    assert (z.sign() == side).double().mean() > 0.95


def test_groups_are_averaged() -> None:
    z = two_modes(4, 60, 2).requires_grad_()
    got = gradient(negentropy(z), z).view_as(z)
    for group, of_group in zip(z.detach(), got, strict=True):
        one = group.clone().requires_grad_()
        assert close(of_group.flatten(), gradient(negentropy(one), one) / 4)


def test_the_value_is_near_zero_for_any_density() -> None:
    for z in (normal(256, 2), 1e3 * normal(256, 2), two_modes(256, 2), normal(256, 2) ** 3):
        assert abs(negentropy(z)) < 0.1 * 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_low_precision_gradients_come_in_their_own_dtype(dtype: torch.dtype) -> None:
    z = two_modes(60, 2).to(dtype).requires_grad_()
    wide = z.detach().float().requires_grad_()
    value, exact = negentropy(z), negentropy(wide)
    assert value.dtype == torch.float32 and torch.equal(value, exact)
    value.backward()
    exact.backward()
    assert z.grad is not None and wide.grad is not None
    assert z.grad.dtype == dtype and torch.equal(z.grad, wide.grad.to(dtype))


def test_equal_samples_and_constant_columns_have_no_gradient() -> None:
    equal = torch.full((20, 3), 7.0, requires_grad=True)
    assert not gradient(negentropy(equal), equal).any()
    z = torch.cat([two_modes(100, 2), torch.full((100, 1), 3.0).double()], -1).requires_grad_()
    got = gradient(negentropy(z), z).view_as(z)
    assert got[:, :2].any() and not got[:, 2].any()


@pytest.mark.parametrize(("m", "d"), [(2, 1), (5, 20), (64, 100)])
def test_few_samples_have_a_finite_gradient(m: int, d: int) -> None:
    z = leaf(m, d)
    assert gradient(negentropy(z), z).isfinite().all()


@pytest.mark.parametrize(
    "estimator",
    ["qis", object(), AdaptiveScore, mige.SSGE(), mige.GaussianScore()],
    ids=["name", "object", "class", "SSGE", "Gaussian"],
)
def test_an_estimator_without_a_gaussian_part_raises(estimator: Any) -> None:
    with pytest.raises(TypeError, match=r"^estimator must be an AdaptiveScore or None, got "):
        negentropy(normal(20, 2), estimator=estimator)


def test_the_default_estimator_is_that_of_the_other_functions() -> None:
    z = two_modes(60, 2).requires_grad_()
    expected = gradient(negentropy(z, estimator=DEFAULT_ESTIMATOR), z)
    assert torch.equal(gradient(negentropy(z), z), expected)
    assert math.isfinite(expected.norm())
