"""Matrix-valued kernels on points."""

from typing import Any

import torch

from mige_ext.scores.kernel.gram import gram_of
from tests.scores.kernel.cases import D, M, for_each_kernel, for_each_value, skewed, spectrum
from tests.support.accuracy import rounding
from tests.support.inputs import normal


@for_each_kernel
@for_each_value
def test_products_are_those_of_the_dense_matrix(kernel: Any, curl_free: bool) -> None:
    x, q, w = skewed(), skewed(7, seed=1), normal(2, M, D, seed=2)
    x, q = x.expand(2, M, D), q.expand(2, 7, D)
    gram = gram_of(kernel, curl_free, torch.tensor([1.0, 2.0]).double(), x, q)
    dense = gram.dense()
    expected = (dense @ w.flatten(1).unsqueeze(-1)).reshape(2, 7, D) if curl_free else dense @ w
    magnitude = dense.abs().sum(-1).max() * w.abs().max()
    error = (gram.product(w) - expected).abs().max()
    assert error <= rounding(x.dtype, M * D) * magnitude * (x.abs().max() ** 2)


@for_each_kernel
@for_each_value
def test_the_kernel_on_samples_has_norm_at_most_m(kernel: Any, curl_free: bool) -> None:
    # Because of this bound, λ and step sizes do not depend on units, and a step of 1 is stable.
    mu, _ = spectrum(kernel, curl_free, skewed())
    assert mu[0] >= -rounding(mu.dtype, M * D) and mu[-1] <= 1 + rounding(mu.dtype, M * D)
