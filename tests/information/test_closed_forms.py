"""Gradients of entropy and mutual information agree with closed forms."""

import math

import pytest
import torch
from torch import Tensor

from mige_ext import SSGE, encoder_information, entropy, mutual_information
from mige_ext.information import DEFAULT_ESTIMATOR
from tests.support.accuracy import rounding
from tests.support.gradients import gradient
from tests.support.inputs import normal

CALIBRATED = SSGE(calibrate="stein")


def cosine(a: Tensor, b: Tensor) -> float:
    return torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), 0).item()


def test_entropy_gradient_of_a_linear_gaussian_encoder_is_the_inverse_transpose() -> None:
    # z = W x, x ~ N(0, I): H(z) = log |det W| + const, so ∇H = W^{−T}.
    w = torch.tensor([[2.0, 0.5], [-0.3, 0.7]], dtype=torch.float64, requires_grad=True)
    exact = torch.linalg.inv(w.detach()).mT
    errors, sizes = [], []
    for seed in range(5):
        got = gradient(entropy(normal(512, 2, seed=seed) @ w.mT, estimator=CALIBRATED), w)
        errors.append(1 - cosine(got, exact))
        sizes.append((got.norm() / exact.norm()).item())
    # With the true score the sampling error is 1/√M; the estimate may have 3 times as much.
    sampling = 3 / math.sqrt(512)
    assert torch.tensor(errors).median() < sampling**2
    assert abs(torch.tensor(sizes).median() - 1) < sampling


def test_entropy_gradient_with_respect_to_a_scale_is_d_over_the_scale() -> None:
    # H(a x) = d log a + H(x). With Stein calibration the gradient is exact for any samples, up to
    # rounding.
    a = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    x = normal(64, 4)
    (got,) = torch.autograd.grad(entropy(a * (x - x.mean(0)), estimator=CALIBRATED), a)
    assert abs(got - 4 / 3) <= rounding(x.dtype, 256) * 4 / 3


def test_entropy_gradient_with_respect_to_a_shift_is_zero_up_to_sampling() -> None:
    b = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    x = normal(64, 3)
    (got,) = torch.autograd.grad(entropy(x + b), b)
    # The mean of 64 scores is compared with its standard error.
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
    # The tolerance is four standard errors of the mean over the seeds, plus twice the relative
    # shrinkage of a kernel estimate.
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
