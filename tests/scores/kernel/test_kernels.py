"""The kernels, their derivatives, and the rules that choose a bandwidth."""

import copy
import pickle
from typing import Any

import pytest
import torch

from mige_ext import IMQ, RBF, SSGE, Bandwidth, Kernel, ops, reference
from tests.support import oracles
from tests.support.accuracy import rounding
from tests.support.inputs import for_each_dtype, normal

for_each_kernel = pytest.mark.parametrize("kernel", [RBF(), IMQ()], ids=["RBF", "IMQ"])


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


@for_each_kernel
@for_each_dtype
def test_the_gram_matrix_is_phi_of_the_squared_distances(dtype: torch.dtype, kernel: Any) -> None:
    x, y = normal(2, 9, 3, dtype=dtype), normal(2, 5, 3, dtype=dtype, seed=1)
    sigma = torch.tensor([0.5, 2.0], dtype=dtype)
    for points in (None, y):
        got = kernel(x, points, bandwidth=sigma)
        s = reference.squared_distances(x.double(), None if points is None else points.double())
        exact = oracles.phi(type(kernel).__name__, s, sigma.double()[:, None, None])
        phi = kernel.phi(ops.squared_distances(x, points), sigma[:, None, None])
        for value in (got, phi):
            assert value.dtype == dtype
            # exponents up to s / 2σ² are rounded
            assert (value.double() - exact).abs().max() <= rounding(dtype, 3) * (1 + s.max())


@for_each_kernel
def test_the_kernel_is_differentiable_in_points_and_bandwidth(kernel: Any) -> None:
    x, y = normal(4, 3).requires_grad_(), normal(3, 3, seed=1).requires_grad_()
    sigma = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, y, s: kernel(x, y, bandwidth=s), (x, y, sigma))
    assert torch.autograd.gradcheck(lambda x, s: kernel(x, bandwidth=s), (x, sigma))


@pytest.mark.parametrize("scale", [1e-30, 1e30])
@for_each_kernel
@for_each_dtype
def test_the_kernel_does_not_depend_on_the_unit_of_length(
    dtype: torch.dtype, kernel: Any, scale: float
) -> None:
    x = normal(9, 3, dtype=dtype)
    expected = kernel(x, bandwidth=1.3)
    scaled = kernel(x * scale, bandwidth=1.3 * scale)
    assert (scaled - expected).abs().max() <= rounding(dtype, 9)
    assert torch.equal(scaled.diagonal(), torch.ones(9, dtype=dtype))


@pytest.mark.parametrize("as_tensor", [True, False])
@pytest.mark.parametrize("order", [0, 1, 2, 3])
@for_each_kernel
def test_dphi_is_the_derivative_of_its_order(kernel: Any, order: int, as_tensor: bool) -> None:
    sigma: Any = torch.tensor(0.7, dtype=torch.float64) if as_tensor else 0.7
    s = torch.linspace(0, 9, 20, dtype=torch.float64)
    derivative = oracles.phi(
        type(kernel).__name__, s, torch.tensor(0.7, dtype=torch.float64), order
    )
    got = kernel.dphi(s, sigma, order)
    assert (got - derivative).abs().max() <= rounding(s.dtype, order + 1) * got.abs().max()
    if order == 1:
        assert torch.equal(kernel.dphi(s, sigma), got)


@for_each_kernel
def test_a_bandwidth_means_the_same_for_every_kernel(kernel: Any) -> None:
    zero = torch.zeros((), dtype=torch.float64)
    assert kernel.phi(zero, 0.7) == 1
    slope = kernel.dphi(zero, 0.7).item()
    assert slope == pytest.approx(-1 / (2 * 0.7**2), rel=rounding(zero.dtype))


@pytest.mark.parametrize("as_tensor", [True, False])
@pytest.mark.parametrize("scale", [1e-30, 1e30])
@for_each_kernel
@for_each_dtype
def test_phi_does_not_depend_on_the_unit_of_length(
    dtype: torch.dtype, kernel: Any, scale: float, as_tensor: bool
) -> None:
    # For any bandwidth, coincident points give 1 and distant points give 0, without a product 0 ·
    # ∞.
    sigma: Any = torch.tensor(scale, dtype=dtype) if as_tensor else scale
    s = torch.tensor([0.0, torch.finfo(dtype).max], dtype=dtype)
    phi = kernel.phi(s, sigma)
    assert phi[0] == 1
    assert 0 <= phi[1] <= 1
    for order in range(4):
        assert kernel.dphi(s, sigma, order).isfinite().all()


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_a_bandwidth_of_a_group_that_is_not_positive_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=f"^bandwidth must be positive, got {value:g}"):
        IMQ()(normal(2, 4, 3), bandwidth=torch.tensor([1.0, value], dtype=torch.float64))


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
    for value in (RBF(), IMQ(), Bandwidth(0.3, 2.0)):
        for twin in (copy.deepcopy(value), pickle.loads(pickle.dumps(value))):
            assert twin == value and hash(twin) == hash(value)
    assert isinstance(RBF(), Kernel) and isinstance(IMQ(), Kernel)
    assert len({RBF(), IMQ(), RBF()}) == 2
    assert Bandwidth() != Bandwidth(0.3)
    assert Bandwidth() == Bandwidth(quantile=0.5, multiplier=1.0)
