"""The RBF Gram matrix and its exponential."""

import numpy as np
import pytest
import torch

from mige_ext import reference
from tests.ops.sizes import bandwidth, for_each_size
from tests.support.accuracy import assert_accurate, rounding
from tests.support.backends import Backend, for_each_backend
from tests.support.inputs import for_each_dtype, normal


@for_each_size
@for_each_dtype
@for_each_backend("rbf_gram")
def test_gram_matrix_matches_the_reference(
    backend: Backend, dtype: torch.dtype, m: int, n: int, d: int
) -> None:
    x, y = normal(m, d, dtype=dtype), normal(n, d, dtype=dtype, seed=1)
    sigma = bandwidth(x)
    for pair in ((x, y), (x,)):
        exact = reference.rbf_gram(*(t.double() for t in pair), bandwidth=sigma.double())
        eager = reference.rbf_gram(*pair, bandwidth=sigma)
        got = backend.rbf_gram(*pair, bandwidth=sigma)
        assert_accurate(got, eager, exact, terms=d, magnitude=torch.ones(()))


@for_each_size
@for_each_dtype
@for_each_backend("rbf_gram")
def test_gram_matrix_of_a_set_is_symmetric_to_the_bit_with_unit_diagonal(
    backend: Backend, dtype: torch.dtype, m: int, n: int, d: int
) -> None:
    x = normal(m, d, dtype=dtype)
    k = backend.rbf_gram(x, bandwidth=bandwidth(x))
    assert torch.equal(k, k.mT)
    assert (k.diagonal() == 1).all()
    assert ((k >= 0) & (k <= 1)).all()


@for_each_dtype
@for_each_backend("rbf_gram")
def test_kernel_values_keep_their_relative_accuracy_down_to_underflow(
    backend: Backend, dtype: torch.dtype
) -> None:
    x = torch.linspace(0, 40, 200, dtype=dtype).unsqueeze(1)
    one = torch.ones((), dtype=dtype)
    k = backend.rbf_gram(x[:1], x, bandwidth=one)[0].double()
    exponent = -x[:, 0].double().square() / 2
    normal_range = exponent > np.log(torch.finfo(dtype).tiny)
    # A relative error ε of the exponent is a relative error |exponent| ε of the value.
    tolerance = rounding(dtype) * (1 - exponent)
    assert ((k / exponent.exp() - 1).abs() <= tolerance)[normal_range].all()
    assert (k[~normal_range] <= torch.finfo(dtype).tiny).all()


@for_each_dtype
@for_each_backend("rbf_gram")
def test_the_exponential_is_accurate_to_two_units_in_the_last_place(
    backend: Backend, dtype: torch.dtype
) -> None:
    # Coordinates have 12 bits, so squares and exponents are exact, and only the exponential is
    # rounded.
    x = torch.arange(3000, dtype=dtype).unsqueeze(1) / 256
    k = backend.rbf_gram(x[:1], x, bandwidth=torch.ones((), dtype=dtype))[0]
    exact = np.exp(-(x[:, 0].numpy().astype(np.longdouble) ** 2) / 2)
    error = np.abs(k.numpy().astype(np.longdouble) / exact - 1)
    assert error.max() <= 2 * torch.finfo(dtype).eps


@pytest.mark.parametrize("scale", [2.0**100, 2.0**-100])
@for_each_dtype
@for_each_backend("rbf_gram", "rbf_gradient_sum", "rbf_product")
def test_kernels_do_not_depend_on_the_unit_of_length(
    backend: Backend, dtype: torch.dtype, scale: float
) -> None:
    x, w = normal(33, 5, dtype=dtype), normal(33, 2, dtype=dtype, seed=1)
    sigma = bandwidth(x)
    k = backend.rbf_gram(x, bandwidth=sigma)
    assert torch.equal(backend.rbf_gram(x * scale, bandwidth=sigma * scale), k)
    h = backend.rbf_gradient_sum(x, bandwidth=sigma)
    assert torch.equal(backend.rbf_gradient_sum(x * scale, bandwidth=sigma * scale), h / scale)
    product = backend.rbf_product(x, x, w, bandwidth=sigma)
    scaled = backend.rbf_product(x * scale, x * scale, w, bandwidth=sigma * scale)
    assert torch.equal(scaled, product)
