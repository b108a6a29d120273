"""Whitening with a ridge: the operator against the reference, and the rule for the ridge."""

import pytest
import torch
from torch import Tensor

from mige_ext import reference
from tests.ops.adaptive_samples import for_each_size, samples
from tests.support import oracles
from tests.support.accuracy import assert_accurate_for_its_condition
from tests.support.backends import Backend, for_each_backend
from tests.support.inputs import for_each_dtype, normal


@pytest.mark.parametrize(("m", "d"), [(12, 3), (9, 12)])
def test_the_ridge_minimizes_the_objective_of_scores_that_leave_a_sample_out(
    m: int, d: int
) -> None:
    v = normal(m, d)

    def objective(tau: float) -> Tensor:
        return oracles.left_out_objective(v, torch.tensor(tau, dtype=v.dtype)).mean()

    tau = float(reference.ridge_whitening(v, factor=1.0)[2])
    step = 10**0.2
    assert objective(tau) < objective(tau * step)
    assert objective(tau) < objective(tau / step)


@for_each_size
@for_each_dtype
@for_each_backend("ridge_whitening")
def test_whitening_matches_the_reference(
    backend: Backend, dtype: torch.dtype, m: int, d: int
) -> None:
    x = samples("normal", m, d).to(dtype)
    got = backend.ridge_whitening(x)
    assert_accurate_for_its_condition(got, reference.ridge_whitening, x)


# The fraction is 0.1 + 0.1 min(1, 4d/M)².
@pytest.mark.parametrize(("m", "d", "fraction"), [(160, 4, 0.101), (40, 5, 0.125), (9, 6, 0.2)])
@for_each_backend("ridge_whitening")
def test_the_weak_ridge_grows_with_the_number_of_dimensions_per_sample(
    backend: Backend, m: int, d: int, fraction: float
) -> None:
    x = samples("normal", m, d)
    _, _, weak = backend.ridge_whitening(x)
    _, _, best = backend.ridge_whitening(x, factor=1.0)
    assert weak / best == pytest.approx(fraction, rel=1e-12)


@for_each_backend("ridge_whitening")
def test_the_weak_ridge_does_not_count_constant_columns(backend: Backend) -> None:
    x = samples("normal", 40, 8)
    _, _, expected = backend.ridge_whitening(x)
    _, _, padded = backend.ridge_whitening(torch.cat([x, torch.full((40, 5), 3.0).to(x)], -1))
    torch.testing.assert_close(padded, expected, rtol=1e-6, atol=0)


@for_each_dtype
@for_each_backend("ridge_whitening")
def test_a_constant_column_has_a_row_of_zeros(backend: Backend, dtype: torch.dtype) -> None:
    x = normal(20, 4, dtype=dtype)
    x[:, 2] = 7
    mean, whitening, _ = backend.ridge_whitening(x)
    assert mean[2] == 7
    assert not whitening[2].any()
    assert whitening.isfinite().all()


@for_each_dtype
@for_each_backend("ridge_whitening")
def test_whitened_samples_of_many_are_white(backend: Backend, dtype: torch.dtype) -> None:
    x = samples("normal", 400, 3).to(dtype)
    mean, whitening, ridge = backend.ridge_whitening(x)
    z = (x - mean) @ whitening
    covariance = (z.mT @ z / 400).double()
    assert (covariance - torch.eye(3)).abs().max() < 10 * ridge
