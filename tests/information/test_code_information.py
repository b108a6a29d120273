"""code_information: the gradient of the information that passes a Gaussian channel."""

import math

import pytest
import torch
from torch import Tensor

import mige_ext as mige
from mige_ext.distributed import GlobalBatch
from mige_ext.information import _mutual
from tests.support.inputs import normal


def gradient(x: Tensor, z: Tensor, **how: object) -> Tensor:
    """The gradient in z; the noise has the same seed in each call."""
    z = z.detach().requires_grad_()
    torch.manual_seed(0)
    mige.code_information(x, z, **how).backward()  # type: ignore[arg-type]
    assert z.grad is not None
    return z.grad


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    x = normal(64, 4)
    return x, torch.tanh(x[:, :2] + 0.3 * x[:, 2:])


def test_gradient_is_that_of_a_gaussian_channel() -> None:
    """The gradient is that of ½ log det(E + A Aᵀ / (σ s)²), with the identity matrix E.

    z = A x, x ~ N(0, E), and s² = tr(A Aᵀ) / d.
    """
    matrix = (torch.eye(2, 3, dtype=torch.float64) + 0.2 * normal(2, 3)).requires_grad_()
    noise = 0.7
    scale = matrix.square().sum() / 2
    channel = torch.eye(2, dtype=torch.float64) + matrix @ matrix.mT / (noise**2 * scale)
    (exact,) = torch.autograd.grad(channel.logdet() / 2, matrix)
    total = torch.zeros_like(exact)
    for _ in range(20):
        x = torch.randn(2048, 3, dtype=torch.float64)
        x = (x - x.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(x.mT.cov(correction=0)).mT)
        loss = mige.code_information(
            x, x @ matrix.mT, noise=noise, estimator=mige.GaussianScore(covariance="mle")
        )
        total += torch.autograd.grad(loss, matrix)[0] / 20
    assert (total - exact).norm() < 0.05 * exact.norm()


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_units_of_the_code_do_not_matter(pair: tuple[Tensor, Tensor], factor: float) -> None:
    x, z = pair
    moved = factor * gradient(x, factor * z + 1e4 * factor)
    torch.testing.assert_close(moved, gradient(x, z), rtol=1e-6, atol=1e-10)


def test_scale_of_the_code_gets_no_gradient(pair: tuple[Tensor, Tensor]) -> None:
    x, z = pair
    found = gradient(x, z)
    along = (found * (z - z.mean(0))).sum()
    assert along.abs() < 1e-12 * found.norm() * z.norm()


def test_without_noise_it_is_mutual_information(pair: tuple[Tensor, Tensor]) -> None:
    """The gradients differ only along the scale of z, in which the estimate may change."""
    x, z = pair
    leaf = z.clone().requires_grad_()
    mige.mutual_information(x, leaf).backward()
    assert leaf.grad is not None
    centered = z - z.mean(0)
    plain = leaf.grad - leaf.grad.mean(0)
    plain = plain - (plain * centered).sum() / centered.square().sum() * centered
    torch.testing.assert_close(gradient(x, z, noise=0.0), plain, rtol=1e-6, atol=1e-10)


def test_groups_have_their_own_scale(pair: tuple[Tensor, Tensor]) -> None:
    x, z = pair
    batch = torch.stack([z, 100 * z])
    torch.manual_seed(0)
    noise = torch.randn_like(batch)
    found = gradient(x.expand(2, -1, -1), batch)
    alone = z.clone().requires_grad_()
    standardized = (alone - alone.mean(0)) / (alone - alone.mean(0)).square().mean().sqrt()
    mige.mutual_information(x, standardized + 0.6 * noise[0]).backward()
    assert alone.grad is not None
    torch.testing.assert_close(2 * found[0], alone.grad, rtol=1e-6, atol=1e-10)


@pytest.mark.filterwarnings("ignore:all samples of z are equal:mige_ext.MigeWarning")
def test_a_constant_code_gets_a_finite_gradient() -> None:
    x = normal(32, 3)
    assert gradient(x, torch.ones(32, 2, dtype=torch.float64)).isfinite().all()


def test_half_precision_codes_get_their_own_dtype(pair: tuple[Tensor, Tensor]) -> None:
    x, z = pair
    found = gradient(x.bfloat16(), z.bfloat16())
    assert found.dtype == torch.bfloat16
    assert found.isfinite().all()


def test_an_error_about_images_says_how_to_make_rows() -> None:
    with pytest.raises(
        ValueError, match=r"got \(8, 3, 4, 4\) and \(8, 2\); flatten\(1\) makes rows"
    ):
        mige.code_information(torch.zeros(8, 3, 4, 4), torch.zeros(8, 2))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_error_counts_the_values_of_the_code_without_noise(value: float) -> None:
    x, z = normal(64, 3), normal(64, 2)
    z[5, 1] = value
    with pytest.raises(ValueError, match="z must be finite, got 1 values"):
        mige.code_information(x, z)


def test_ranks_with_equal_generators_get_different_noise() -> None:
    code, group = torch.zeros(8, 2), torch.zeros(())
    noise = []
    for rank in (0, 1):
        torch.manual_seed(5)
        batch = GlobalBatch(group, (8, 8), rank)  # type: ignore[arg-type]
        noise.append(_mutual._noise_like(code, batch))
    assert (noise[0] - noise[1]).abs().min() > 0
    torch.manual_seed(5)
    assert torch.equal(_mutual._noise_like(code, GlobalBatch(group, (8, 8), 1)), noise[1])  # type: ignore[arg-type]
