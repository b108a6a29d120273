"""The gradient sum of the RBF kernel."""

import pytest
import torch

from mige_ext import reference
from tests.ops.sizes import bandwidth, for_each_size
from tests.support.accuracy import assert_accurate
from tests.support.backends import Backend, for_each_backend
from tests.support.inputs import for_each_dtype, normal


@pytest.mark.parametrize("offset", [0.0, 1e4])
@for_each_size
@for_each_dtype
@for_each_backend("rbf_gradient_sum")
def test_gradient_sum_matches_the_reference(
    backend: Backend, dtype: torch.dtype, m: int, n: int, d: int, offset: float
) -> None:
    x = normal(m, d, dtype=dtype) + offset
    sigma = bandwidth(x)
    exact = reference.rbf_gradient_sum(x.double(), bandwidth=sigma.double())
    eager = reference.rbf_gradient_sum(x, bandwidth=sigma)
    # The two products of −(K X − diag(K 1) X) / σ² with centered samples are rounded.
    k = reference.rbf_gram(x.double(), bandwidth=sigma.double())
    centered = (x.double() - x.double().mean(0)).abs()
    magnitude = (k @ centered + k.sum(1, keepdim=True) * centered) / sigma.double() ** 2
    got = backend.rbf_gradient_sum(x, bandwidth=sigma)
    assert_accurate(got, eager, exact, terms=m + d, magnitude=magnitude)
