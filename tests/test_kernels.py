"""The RBF kernel, its derivatives, and the rules that choose a bandwidth."""

import copy
import pickle
from typing import Any

import pytest
import torch
from conftest import for_each_dtype, normal, rounding

from mige_ext import RBF, SSGE, Bandwidth, ops, reference


@for_each_dtype
def test_the_kernel_of_points_is_their_gram_matrix(dtype: torch.dtype) -> None:
    x, y = normal(2, 9, 3, dtype=dtype), normal(2, 5, 3, dtype=dtype, seed=1)
    sigma = torch.tensor([0.5, 2.0], dtype=dtype)
    assert torch.equal(RBF()(x, y, bandwidth=sigma), ops.rbf_gram(x, y, bandwidth=sigma))
    assert torch.equal(RBF()(x, bandwidth=sigma), ops.rbf_gram(x, bandwidth=sigma))


@pytest.mark.parametrize("bandwidth", [2, 2.0])
def test_a_number_is_the_bandwidth_of_every_group(bandwidth: float) -> None:
    x = normal(2, 3, 9, 3)
    sigma = torch.full((2, 3), 2.0, dtype=torch.float64)
    assert torch.equal(RBF()(x, bandwidth=bandwidth), ops.rbf_gram(x, bandwidth=sigma))


def test_the_kernel_is_differentiable_in_points_and_bandwidth() -> None:
    x, y = normal(4, 3).requires_grad_(), normal(3, 3, seed=1).requires_grad_()
    sigma = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, y, s: RBF()(x, y, bandwidth=s), (x, y, sigma))


@for_each_dtype
def test_phi_of_squared_distances_is_the_gram_matrix(dtype: torch.dtype) -> None:
    x = normal(9, 3, dtype=dtype)
    sigma = torch.tensor(1.3, dtype=dtype)
    got = RBF().phi(ops.squared_distances(x), sigma)
    assert (got - RBF()(x, bandwidth=sigma)).abs().max() <= rounding(dtype, 3)


@pytest.mark.parametrize("as_tensor", [True, False])
@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_dphi_is_the_derivative_of_its_order(order: int, as_tensor: bool) -> None:
    sigma: Any = torch.tensor(0.7, dtype=torch.float64) if as_tensor else 0.7
    s = torch.linspace(0, 9, 20, dtype=torch.float64, requires_grad=True)
    derivative = RBF().phi(s, sigma)
    for _ in range(order):
        (derivative,) = torch.autograd.grad(derivative.sum(), s, create_graph=True)
    got = RBF().dphi(s, sigma, order)
    assert (got - derivative).abs().max() <= rounding(s.dtype, order + 1) * got.abs().max()
    if order == 1:
        assert torch.equal(RBF().dphi(s, sigma), got)


@pytest.mark.parametrize("as_tensor", [True, False])
@pytest.mark.parametrize("scale", [1e-30, 1e30])
@for_each_dtype
def test_phi_knows_no_unit_of_length(dtype: torch.dtype, scale: float, as_tensor: bool) -> None:
    # Coincident and distant points, whatever the bandwidth: 1 and 0, never 0 · ∞.
    sigma: Any = torch.tensor(scale, dtype=dtype) if as_tensor else scale
    s = torch.tensor([0.0, torch.finfo(dtype).max], dtype=dtype)
    phi = RBF().phi(s, sigma)
    assert phi[0] == 1
    assert 0 <= phi[1] <= 1
    for order in range(4):
        assert RBF().dphi(s, sigma, order).isfinite().all()


@pytest.mark.parametrize("quantile", [0.1, 0.5, 1.0])
@for_each_dtype
def test_a_bandwidth_rule_is_a_multiple_of_a_quantile(dtype: torch.dtype, quantile: float) -> None:
    x = normal(2, 30, 3, dtype=dtype)
    got = Bandwidth(quantile, 1.5)(x)
    exact = 1.5 * reference.distance_quantile(x.double(), quantile)
    assert got.shape == (2,) and got.dtype == dtype
    assert ((got.double() - exact).abs() <= rounding(dtype, 3) * exact).all()


@for_each_dtype
def test_a_rule_and_the_estimator_that_uses_it_agree(dtype: torch.dtype) -> None:
    x = normal(2, 30, 3, dtype=dtype)
    rule = Bandwidth(0.3, 1.7)
    sigma = SSGE(bandwidth=rule).diagnose(x).bandwidth
    assert ((rule(x) - sigma).abs() <= rounding(dtype) * sigma).all()


def test_a_rule_beyond_the_range_gives_the_largest_number() -> None:
    x = torch.tensor([[0.0], [3e38]])
    rule = Bandwidth(multiplier=10.0)
    assert rule(x) == SSGE(bandwidth=rule).diagnose(x).bandwidth == torch.finfo(torch.float32).max


def test_kernels_and_rules_are_values() -> None:
    for value in (RBF(), Bandwidth(0.3, 2.0)):
        for twin in (copy.deepcopy(value), pickle.loads(pickle.dumps(value))):
            assert twin == value and hash(twin) == hash(value)
    assert Bandwidth() != Bandwidth(0.3)
    assert Bandwidth() == Bandwidth(quantile=0.5, multiplier=1.0)
