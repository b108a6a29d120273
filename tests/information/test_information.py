"""Entropy and mutual information follow their definitions, for every estimator."""

import math
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import mige_ext as mige
from mige_ext import SSGE, encoder_information, entropy, mutual_information
from mige_ext.information import DEFAULT_ESTIMATOR
from mige_ext.scores.base import stein_calibration
from tests.support.accuracy import rounding
from tests.support.gradients import close, gradient, leaf
from tests.support.inputs import for_each_dtype, normal

# These calls are misuse on purpose. test_warnings.py tests the warnings.
pytestmark = pytest.mark.filterwarnings("ignore::mige_ext.MigeWarning")

CALIBRATED = SSGE(calibrate="stein")


class GaussianScore:
    """The score of a standard normal, with only the method that the protocol needs."""

    def score(self, samples: Tensor) -> Tensor:
        return -samples


# --- definitions, signs and means -----------------------------------------------------------------


@for_each_dtype
def test_entropy_gradient_is_minus_the_score_over_the_number_of_samples(
    dtype: torch.dtype,
) -> None:
    z = leaf(3, 20, 4, dtype=dtype)
    entropy(z).backward()
    assert z.grad is not None
    assert close(z.grad, -DEFAULT_ESTIMATOR.score(z) / 60)


@for_each_dtype
def test_mutual_information_is_marginals_minus_joint(dtype: torch.dtype) -> None:
    x, z = leaf(3, 20, 4, dtype=dtype), leaf(3, 20, 2, dtype=dtype, seed=1)
    joint = DEFAULT_ESTIMATOR.score(torch.cat([x, z], -1))
    expected_x, expected_z = joint[..., :4] / 60, joint[..., 4:] / 60
    mutual_information(x, z).backward()
    assert x.grad is not None and z.grad is not None
    assert close(x.grad, expected_x - DEFAULT_ESTIMATOR.score(x) / 60)
    assert close(z.grad, expected_z - DEFAULT_ESTIMATOR.score(z) / 60)


@for_each_dtype
def test_matched_marginals_are_scores_of_permuted_pairs(dtype: torch.dtype) -> None:
    x, z = leaf(3, 20, 4, dtype=dtype), leaf(3, 20, 2, dtype=dtype, seed=1)
    torch.manual_seed(0)
    mutual_information(x, z, marginal="matched").backward()
    torch.manual_seed(0)
    order = torch.randperm(20)
    joint = DEFAULT_ESTIMATOR.score(torch.cat([x, z], -1))
    product = DEFAULT_ESTIMATOR.score(torch.cat([x[:, order], z], -1))
    assert x.grad is not None and z.grad is not None
    assert close(x.grad[:, order], (joint[:, order] - product)[..., :4] / 60)
    assert close(z.grad, (joint - product)[..., 4:] / 60)


def test_matched_marginals_have_no_gradient_on_independent_variables() -> None:
    # The scale of z does not change the information, so the exact gradient is 0.
    x, z = normal(40, 64, 8), normal(40, 64, 8, seed=1)
    scale = torch.ones(40, 1, 1, dtype=torch.float64, requires_grad=True)
    own, matched = (
        40 * gradient(mutual_information(x, scale * z, marginal=marginal), scale)
        for marginal in ("own", "matched")
    )
    assert own.mean() > 10 * own.std() / math.sqrt(40)
    assert abs(matched.mean()) < 4 * matched.std() / math.sqrt(40)


def test_mutual_information_is_symmetric() -> None:
    x, z = leaf(40, 3), leaf(40, 2, seed=1)
    forward = gradient(mutual_information(x, z), x, z)
    backward = gradient(mutual_information(z, x), x, z)
    # The order of the columns changes only the order of the sums.
    assert (forward - backward).norm() <= 1e-9 * forward.norm()


def test_ascending_entropy_spreads_the_samples() -> None:
    z = leaf(40, 3)
    entropy(z).backward()
    assert z.grad is not None
    with torch.no_grad():
        assert ((z - z.mean(0)) * z.grad).sum() > 0


@pytest.mark.parametrize("estimator", [SSGE(), SSGE(rank=5), CALIBRATED], ids=str)
def test_the_value_of_entropy_is_d_times_the_calibration(estimator: SSGE) -> None:
    z = 100 + normal(3, 40, 4)
    calibration = stein_calibration(z, estimator.score(z))
    assert abs(entropy(z, estimator=estimator) - 4 * calibration.mean()) <= rounding(z.dtype, 480)


def test_the_value_of_entropy_is_near_d_for_any_density() -> None:
    for z in (normal(256, 2), 1e3 * normal(256, 2), normal(256, 2).sign() + normal(256, 2, seed=1)):
        assert 0.8 * 2 < entropy(z) < 1.1 * 2


def test_groups_are_averaged() -> None:
    z = leaf(4, 20, 3)
    value = entropy(z)
    each = torch.stack([entropy(group) for group in z.detach()])
    assert close(value, each.mean(), terms=240)
    value.backward()
    assert z.grad is not None
    for i in range(4):
        one = z.detach()[i].clone().requires_grad_()
        entropy(one).backward()
        assert one.grad is not None
        assert close(z.grad[i], one.grad / 4)
    x = normal(4, 20, 2, seed=1)
    each = torch.stack([mutual_information(a, b) for a, b in zip(x, z.detach(), strict=True)])
    assert close(mutual_information(x, z.detach()), each.mean(), terms=240)


def test_more_leading_dimensions_are_more_groups() -> None:
    z = leaf(2, 3, 20, 4)
    flat = gradient(entropy(z.flatten(0, 1)), z)
    assert torch.equal(gradient(entropy(z), z), flat)
    x = normal(2, 3, 20, 2, seed=1)
    flat = gradient(mutual_information(x.flatten(0, 1), z.flatten(0, 1)), z)
    assert torch.equal(gradient(mutual_information(x, z), z), flat)
    deep = leaf(2, 5, 6, 3)
    each = torch.stack([encoder_information(g) for g in deep.detach()])
    assert close(encoder_information(deep), each.mean(), terms=180)


def test_encoder_information_is_marginal_minus_conditional() -> None:
    z = leaf(6, 5, 3)
    marginal, conditional = entropy(z.transpose(0, 1)), entropy(z)
    expected = gradient(marginal - conditional, z)
    assert close(encoder_information(z), marginal - conditional)
    assert torch.equal(gradient(encoder_information(z), z), expected)


@pytest.mark.parametrize("shape", [(), (6,), (6, 5)], ids=str)
def test_encoder_information_takes_the_mean_of_a_given_conditional(shape: tuple[int, ...]) -> None:
    z, conditional = leaf(6, 5, 3), leaf(*shape, seed=1)
    value = encoder_information(z, conditional=conditional)
    assert close(value, entropy(z.transpose(0, 1)) - conditional.mean(), terms=30)
    got_z, got_conditional = torch.autograd.grad(value, (z, conditional))
    assert torch.equal(got_z, torch.autograd.grad(entropy(z.transpose(0, 1)), z)[0])
    assert close(got_conditional, torch.full_like(conditional, -1 / max(conditional.numel(), 1)))


def test_one_draw_is_enough_with_a_given_conditional() -> None:
    z = leaf(12, 1, 3)
    value = encoder_information(z, conditional=torch.zeros((), dtype=torch.float64))
    assert torch.equal(gradient(value, z), gradient(entropy(z[:, 0]), z))


# --- arguments that need a gradient ---------------------------------------------------------------


@pytest.mark.parametrize("needs", ["", "x", "z", "xz"])
def test_gradients_reach_every_argument_that_requires_one(needs: str) -> None:
    x, z = normal(20, 3), normal(20, 2, seed=1)
    both = (x.clone().requires_grad_(), z.clone().requires_grad_())
    expected = torch.autograd.grad(mutual_information(*both), both)
    x.requires_grad_("x" in needs)
    z.requires_grad_("z" in needs)
    value = mutual_information(x, z)
    assert value.isfinite() and value.shape == ()
    assert value.requires_grad == bool(needs)
    if needs:
        value.backward()
    for name, t, g in (("x", x, expected[0]), ("z", z, expected[1])):
        assert (t.grad is not None) == (name in needs)
        assert t.grad is None or torch.equal(t.grad, g)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_values_need_no_gradient_mode(mode: Any) -> None:
    x, z, draws = leaf(20, 3), leaf(20, 2, seed=1), leaf(6, 5, 3)
    expected = [f.detach() for f in (entropy(z), encoder_information(draws))]
    with mode():
        got = [entropy(z), encoder_information(draws)]
        assert mutual_information(x, z).isfinite()
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    assert not any(g.requires_grad for g in got)


def test_the_same_tensor_may_be_both_arguments() -> None:
    z = leaf(20, 2)
    got = gradient(mutual_information(z, z), z)
    one, two = z.detach().clone().requires_grad_(), z.detach().clone().requires_grad_()
    apart = gradient(mutual_information(one, two), one, two).view(2, -1).sum(0)
    assert close(got, apart)


# --- estimators and projection --------------------------------------------------------------------


def test_any_object_with_a_score_is_an_estimator() -> None:
    z, x = leaf(20, 2), leaf(20, 3, seed=1)
    assert torch.equal(gradient(entropy(z, estimator=GaussianScore()), z), z.flatten() / 20)
    # −z for the joint and for the marginals: independent Gaussians have no information.
    assert not gradient(mutual_information(x, z, estimator=GaussianScore()), x, z).any()
    draws = leaf(6, 5, 3)
    assert not gradient(encoder_information(draws, estimator=GaussianScore()), draws).any()


@pytest.mark.parametrize(
    "estimator",
    [object(), "SSGE", 0.99, lambda s: -s, SSGE],
    ids=["object", "name", "number", "function", "class"],
)
def test_an_object_without_a_score_raises(estimator: Any) -> None:
    z = normal(20, 2)
    for f in (lambda: entropy(z, estimator=estimator),
              lambda: mutual_information(z, z, estimator=estimator),
              lambda: encoder_information(z.view(4, 5, 2), estimator=estimator)):  # fmt: skip
        with pytest.raises(TypeError, match=r"estimator must have a method score\(samples\), got"):
            f()


def test_an_estimator_that_gives_no_tensor_raises() -> None:
    class Arrays:
        def score(self, samples: Tensor) -> Any:
            return samples.numpy()

    with pytest.raises(
        TypeError, match=r"^estimator must give scores as a torch.Tensor, got ndarr"
    ):
        mige.entropy(torch.randn(8, 2, requires_grad=True), estimator=Arrays())


def test_an_estimator_that_gives_nan_raises() -> None:
    class Broken:
        def score(self, samples: Tensor) -> Tensor:
            return samples * torch.nan

    z = leaf(20, 2)
    for f in (lambda: entropy(z, estimator=Broken()),
              lambda: mutual_information(z, z, estimator=Broken()),
              lambda: encoder_information(z.view(4, 5, 2), estimator=Broken())):  # fmt: skip
        with pytest.raises(ValueError, match=r"^estimator must give finite scores, got "):
            f()


def test_an_estimator_gets_detached_samples_in_float32() -> None:
    seen: list[Tensor] = []

    class Recording:
        def score(self, samples: Tensor) -> Tensor:
            seen.append(samples)
            return -samples

    z = leaf(20, 2, dtype=torch.float16)
    entropy(z, estimator=Recording())
    mutual_information(z, z, estimator=Recording())
    assert len(seen) == 4
    assert all(s.dtype == torch.float32 and not s.requires_grad for s in seen)


def test_the_given_estimator_is_used() -> None:
    z = leaf(40, 3)
    gradients = [
        gradient(entropy(z, estimator=e), z) for e in (None, DEFAULT_ESTIMATOR, SSGE(rank=2))
    ]
    assert torch.equal(gradients[0], gradients[1])
    assert not torch.equal(gradients[0], gradients[2])


@pytest.mark.parametrize("normalize", ["columns", "rows"])
def test_gradients_reach_x_through_the_projection(normalize: Any) -> None:
    x, z = leaf(40, 30), leaf(40, 2, seed=1)
    projection = mige.RandomProjection(k=5, normalize=normalize)
    got_x, got_z = torch.autograd.grad(mutual_information(x, z, projection=projection), (x, z))
    small = projection(x).detach().requires_grad_()
    expected, expected_z = torch.autograd.grad(mutual_information(small, z), (small, z))
    assert torch.equal(got_z, expected_z)
    assert close(got_x, expected @ projection.matrix(30, torch.float64), terms=5)


class _Pairs(mige.AdaptiveScore):
    """The default estimator, which records its scores of pairs."""

    given: ClassVar[list[tuple[Tensor, Tensor, Tensor]]] = []

    def score_pair(self, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        self.given.append(super().score_pair(x, z))
        return self.given[-1]


def test_an_estimator_that_offers_scores_of_pairs_is_asked_for_them() -> None:
    x, z = normal(3, 40, 2), normal(3, 40, 4).requires_grad_()
    _Pairs.given.clear()
    mige.mutual_information(x, z, estimator=_Pairs()).backward()
    ((joint, of_x, of_z),) = _Pairs.given
    assert (joint.shape, of_x.shape, of_z.shape) == ((3, 40, 6), (3, 40, 2), (3, 40, 4))
    assert z.grad is not None
    assert torch.allclose(z.grad, (joint[..., 2:] - of_z) / 120)
    estimator = mige.AdaptiveScore()
    assert torch.equal(of_x, estimator.score(x)) and torch.equal(of_z, estimator.score(z))


def test_the_joint_starts_from_departures_that_only_the_marginals_show() -> None:
    v = normal(256, 10)
    v = torch.cat((v[:, :5], 0.7 * v[:, :5] + 0.51**0.5 * v[:, 5:]), -1)
    x, z = torch.asinh(2 * v).chunk(2, -1)
    exact = 0.7 * (v[:, :5] - 0.7 * v[:, 5:]) / 0.51 * (1 + 4 * v[:, 5:].square()).sqrt() / 2

    def error(estimator: Any) -> float:
        field = z.clone().requires_grad_()
        mige.mutual_information(x, field, estimator=estimator).backward()
        assert field.grad is not None
        return float((256 * field.grad - exact).square().sum() / exact.square().sum())

    class Apart:
        def score(self, samples: Tensor) -> Tensor:
            return mige.AdaptiveScore().score(samples)

    assert error(None) < 0.6 * error(Apart())
    assert error(None) < 1.1 * error(mige.GaussianScore())


def test_wide_pairs_start_from_their_marginals_too() -> None:
    v = normal(64, 50)
    x, z = (v**3).float(), (v[:, :30] + normal(64, 30, seed=1)).double().requires_grad_()
    joint, of_x, of_z = mige.AdaptiveScore(calibrate="stein").score_pair(x, z)
    assert joint.dtype == torch.float64 and of_x.dtype == torch.float32
    assert joint.isfinite().all() and of_z.isfinite().all()
