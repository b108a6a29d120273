"""Entropy and mutual information: their gradients, and how they behave as autograd functions."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import mige_ext as mige
from mige_ext import SSGE, encoder_information, entropy, mutual_information
from mige_ext.information import DEFAULT_ESTIMATOR
from mige_ext.scores.base import stein_calibration
from tests.support.accuracy import rounding
from tests.support.inputs import for_each_dtype, normal

CALIBRATED = SSGE(calibrate="stein")


def leaf(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return normal(*shape, dtype=dtype, seed=seed).requires_grad_()


def gradient(value: Tensor, *inputs: Tensor) -> Tensor:
    """The gradients, flat and one after the other."""
    return torch.cat([g.flatten() for g in torch.autograd.grad(value, inputs)])


def cosine(a: Tensor, b: Tensor) -> float:
    return torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), 0).item()


def close(a: Tensor, b: Tensor, terms: int = 1) -> bool:
    """Equal up to rounding in the coarser of the two dtypes."""
    coarse = max(a.dtype, b.dtype, key=lambda dtype: torch.finfo(dtype).eps)
    error = (a.double() - b.double()).abs().max().item()
    return error <= rounding(coarse, terms) * b.double().abs().max().item()


class GaussianScore:
    """The true score of a standard normal; nothing more than the protocol asks for."""

    def score(self, samples: Tensor) -> Tensor:
        return -samples


# --- against closed forms -------------------------------------------------------------------------


def test_entropy_gradient_of_a_linear_gaussian_encoder_is_the_inverse_transpose() -> None:
    # z = W x, x ~ N(0, I): H(z) = log |det W| + const, so ∇H = W^{−T}.
    w = torch.tensor([[2.0, 0.5], [-0.3, 0.7]], dtype=torch.float64, requires_grad=True)
    exact = torch.linalg.inv(w.detach()).mT
    errors, sizes = [], []
    for seed in range(5):
        got = gradient(entropy(normal(512, 2, seed=seed) @ w.mT, estimator=CALIBRATED), w)
        errors.append(1 - cosine(got, exact))
        sizes.append((got.norm() / exact.norm()).item())
    # Sampling alone, with the true score, leaves 1/√M: the estimate is given 3 times that.
    sampling = 3 / math.sqrt(512)
    assert torch.tensor(errors).median() < sampling**2
    assert abs(torch.tensor(sizes).median() - 1) < sampling


def test_entropy_gradient_with_respect_to_a_scale_is_d_over_the_scale() -> None:
    # H(a x) = d log a + H(x). With Stein calibration exact for any sample, to rounding.
    a = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    x = normal(64, 4)
    (got,) = torch.autograd.grad(entropy(a * (x - x.mean(0)), estimator=CALIBRATED), a)
    assert abs(got - 4 / 3) <= rounding(x.dtype, 256) * 4 / 3


def test_entropy_gradient_with_respect_to_a_shift_is_zero_up_to_sampling() -> None:
    b = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    x = normal(64, 3)
    (got,) = torch.autograd.grad(entropy(x + b), b)
    # The mean of 64 scores, against its standard error.
    assert (got.abs() <= 4 * DEFAULT_ESTIMATOR.score(x).std(0) / math.sqrt(64)).all()


@pytest.mark.parametrize("rho", [-0.6, 0.3, 0.8])
def test_mutual_information_gradient_of_correlated_gaussians(rho: float) -> None:
    # y = ρ x + √(1 − ρ²) ε in d dimensions: I = −d/2 log(1 − ρ²), dI/dρ = d ρ / (1 − ρ²).
    exact, estimates = 2 * rho / (1 - rho**2), []
    for seed in range(5):
        x, noise = normal(256, 2, seed=seed), normal(256, 2, seed=100 + seed)
        r = torch.tensor(rho, dtype=torch.float64, requires_grad=True)
        value = mutual_information(x, r * x + (1 - r**2).sqrt() * noise)
        estimates.append(gradient(value, r).item())
    got = torch.tensor(estimates)
    # A standard error of the mean of −s·∂y/∂ρ over 256 samples, and the shrinkage of the kernel.
    standard_error = got.std() / math.sqrt(5)
    shrinkage = 1 - SSGE().diagnose(normal(256, 4)).calibration
    assert abs(got.mean() - exact) <= 4 * standard_error + 2 * shrinkage * abs(exact)
    assert got.sign().eq(math.copysign(1, rho)).all()


def test_a_code_that_ascends_information_learns_to_depend_on_its_input() -> None:
    # z = w·x + noise: the information grows with |w|, so its gradient points along w.
    x, noise = normal(256, 2), normal(256, 1, seed=1)
    w = torch.tensor([[0.8], [-0.4]], dtype=torch.float64, requires_grad=True)
    got = gradient(mutual_information(x, x @ w + noise), w)
    # I = ½ log(1 + |w|²), ∇I = w / (1 + |w|²)
    assert cosine(got, w.detach()) > 0.95
    assert 0.5 < got.norm() / (w.norm() / (1 + w.norm() ** 2)) < 1.5


def test_encoder_information_gradients_from_draws_and_from_the_closed_form_agree() -> None:
    # z = m x + σ ε: I(x; z) = ½ log(1 + m²/σ²) for each dimension.
    x, noise = normal(96, 1, 1), normal(96, 96, 1, seed=1)

    def gradients(analytic: bool) -> Tensor:
        m = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
        log_sigma = torch.tensor(-0.3, dtype=torch.float64, requires_grad=True)
        z = m * x + log_sigma.exp() * noise
        conditional = log_sigma if analytic else None
        value = encoder_information(z, conditional=conditional, estimator=CALIBRATED)
        return gradient(value, m, log_sigma)

    ratio = torch.tensor(2 * 0.3).exp()  # m²/σ²
    exact = torch.stack([ratio, -ratio]) / (1 + ratio)
    for analytic in (True, False):
        got = gradients(analytic)
        assert cosine(got, exact) > 0.98, analytic
        assert 0.8 < got.norm() / exact.norm() < 1.2, analytic


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


def test_matched_marginals_leave_no_force_on_independent_variables() -> None:
    # The size of z moves no information: what is left of its gradient is another entropy.
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
    # The order of the columns changes the order of the sums alone; see the properties of the score.
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


# --- who needs a gradient -------------------------------------------------------------------------


@pytest.mark.parametrize("needs", ["", "x", "z", "xz"])
def test_gradients_reach_whichever_argument_requires_one(needs: str) -> None:
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


def test_the_same_tensor_may_stand_on_both_sides() -> None:
    z = leaf(20, 2)
    got = gradient(mutual_information(z, z), z)
    one, two = z.detach().clone().requires_grad_(), z.detach().clone().requires_grad_()
    apart = gradient(mutual_information(one, two), one, two).view(2, -1).sum(0)
    assert close(got, apart)


# --- autograd -------------------------------------------------------------------------------------


def functions(dtype: torch.dtype = torch.float64) -> list[tuple[Tensor, tuple[Tensor, ...]]]:
    """Every information function with its leaves."""
    x, z = leaf(20, 3, dtype=dtype), leaf(20, 2, dtype=dtype, seed=1)
    draws = leaf(6, 5, 3, dtype=dtype)
    return [
        (entropy(z), (z,)),
        (mutual_information(x, z), (x, z)),
        (encoder_information(draws), (draws,)),
    ]


@pytest.mark.parametrize("index", [0, 1, 2])
def test_gradients_scale_with_what_comes_from_above(index: int) -> None:
    value, leaves = functions()[index]
    one = torch.autograd.grad(value, leaves, retain_graph=True)
    scaled = torch.autograd.grad(-0.25 * value, leaves)
    assert all(torch.equal(s, -0.25 * g) for s, g in zip(scaled, one, strict=True))


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_second_derivative_raises(index: int) -> None:
    value, leaves = functions()[index]
    grads = torch.autograd.grad(value.square(), leaves, create_graph=True)
    with pytest.raises(RuntimeError, match="differentia"):
        sum(g.square().sum() for g in grads).backward()  # type: ignore[union-attr]


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_second_derivative_is_not_silently_zero_beside_another_term(index: int) -> None:
    # A gradient penalty: if the penalty's own derivative went missing, nothing else would tell.
    value, leaves = functions()[index]
    grads = torch.autograd.grad(value, leaves, create_graph=True)
    penalty = sum(g.square().sum() for g in grads)
    with pytest.raises(RuntimeError, match="differentia"):
        (penalty + leaves[0].square().sum()).backward()


def test_gradients_accumulate_over_calls() -> None:
    z = leaf(20, 2)
    entropy(z).backward()
    assert z.grad is not None
    one = z.grad.clone()
    entropy(z).backward()
    assert torch.equal(z.grad, 2 * one)


def test_anomaly_detection_finds_nothing() -> None:
    with pytest.warns(UserWarning, match="Anomaly Detection"), torch.autograd.detect_anomaly():
        for value, _ in functions():
            value.backward()


def test_a_training_step_through_a_module_moves_its_parameters() -> None:
    encoder = torch.nn.Sequential(torch.nn.Linear(10, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    x = torch.randn(64, 10)
    before = [p.detach().clone() for p in encoder.parameters()]
    optimiser = torch.optim.SGD(encoder.parameters(), lr=0.1)
    (-mutual_information(x, encoder(x))).backward()
    optimiser.step()
    assert all((a != b).any() for a, b in zip(encoder.parameters(), before, strict=True))


# --- precision ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_low_precision_gradients_come_in_their_own_dtype(dtype: torch.dtype) -> None:
    z, x = leaf(20, 2, dtype=dtype), leaf(20, 3, dtype=dtype, seed=1)
    wide_z, wide_x = (t.detach().float().requires_grad_() for t in (z, x))
    value, wide = mutual_information(x, z), mutual_information(wide_x, wide_z)
    assert value.dtype == torch.float32 and torch.equal(value, wide)
    value.backward()
    wide.backward()
    for low, high in ((z, wide_z), (x, wide_x)):
        assert low.grad is not None and high.grad is not None
        assert low.grad.dtype == dtype
        assert torch.equal(low.grad, high.grad.to(dtype))
    h = entropy(z)
    assert h.dtype == torch.float32


def test_a_scaled_loss_keeps_half_precision_gradients_from_underflowing() -> None:
    # What a GradScaler relies on: the scale reaches the gradient before it is rounded to float16.
    scale, half = 2.0**10, torch.finfo(torch.float16)
    leaves = leaf(64, 64, 2, dtype=torch.float16, seed=1), leaf(64, 64, 4, dtype=torch.float16)
    wide = [t.detach().float().requires_grad_() for t in leaves]
    for f in (lambda x, z: entropy(z) + 0 * x.sum(), mutual_information):
        low = torch.autograd.grad(scale * f(*leaves), leaves)
        high = torch.autograd.grad(scale * f(*wide), wide)
        for got, exact in zip(low, high, strict=True):
            # One rounding to float16, also of the smallest components.
            assert ((got.float() - exact).abs() <= half.eps * (exact.abs() + half.tiny)).all()


@pytest.mark.parametrize("x_dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("z_dtype", [torch.float32, torch.float16], ids=str)
def test_dtypes_mix_and_the_wider_one_is_computed_in(
    x_dtype: torch.dtype, z_dtype: torch.dtype
) -> None:
    x, z = leaf(20, 3, dtype=x_dtype), leaf(20, 2, dtype=z_dtype, seed=1)
    value = mutual_information(x, z)
    computed = torch.float64 if x_dtype == torch.float64 else torch.float32
    assert value.dtype == computed
    value.backward()
    assert x.grad is not None and z.grad is not None
    assert x.grad.dtype == x_dtype and z.grad.dtype == z_dtype
    joint = DEFAULT_ESTIMATOR.score(torch.cat([x.to(computed), z.to(computed)], -1)) / 20
    assert close(x.grad, joint[:, :3] - DEFAULT_ESTIMATOR.score(x) / 20)
    assert close(z.grad, joint[:, 3:] - DEFAULT_ESTIMATOR.score(z) / 20)


def test_autocast_changes_nothing_but_the_dtype_of_the_encoder() -> None:
    encoder = torch.nn.Linear(10, 3)
    x = torch.randn(40, 10)
    with torch.autocast("cpu", torch.bfloat16):
        z = encoder(x)
        assert z.dtype == torch.bfloat16
        values = [entropy(z), mutual_information(x, z), encoder_information(z.view(8, 5, 3))]
    wide = z.detach().float()
    expected = [entropy(wide), mutual_information(x, wide.requires_grad_()),
                encoder_information(wide.view(8, 5, 3))]  # fmt: skip
    for value, exact in zip(values, expected, strict=True):
        assert value.dtype == torch.float32
        assert torch.equal(value, exact)
    sum(values).backward()  # type: ignore[union-attr]
    assert encoder.weight.grad is not None and encoder.weight.grad.isfinite().all()


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
def test_an_object_without_a_score_is_refused_by_name(estimator: Any) -> None:
    z = normal(20, 2)
    for f in (lambda: entropy(z, estimator=estimator),
              lambda: mutual_information(z, z, estimator=estimator),
              lambda: encoder_information(z.view(4, 5, 2), estimator=estimator)):  # fmt: skip
        with pytest.raises(TypeError, match=r"estimator must have a method score\(samples\), got"):
            f()


def test_an_estimator_that_gives_nan_is_refused_by_name() -> None:
    class Broken:
        def score(self, samples: Tensor) -> Tensor:
            return samples * torch.nan

    z = leaf(20, 2)
    for f in (lambda: entropy(z, estimator=Broken()),
              lambda: mutual_information(z, z, estimator=Broken()),
              lambda: encoder_information(z.view(4, 5, 2), estimator=Broken())):  # fmt: skip
        with pytest.raises(ValueError, match=r"^estimator must give finite scores, got "):
            f()


def test_an_estimator_is_given_detached_float32_at_least() -> None:
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


def test_the_estimator_is_used() -> None:
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
