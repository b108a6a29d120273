"""The gradient of information does not depend on the units of x and z."""

from typing import Any

import pytest
import torch
from torch import Tensor

import mige_ext as mige
from mige_ext import mutual_information
from tests.support.accuracy import rounding
from tests.support.inputs import normal

# These calls are misuse on purpose. test_warnings.py tests the warnings.
pytestmark = pytest.mark.filterwarnings("ignore::mige_ext.MigeWarning")

RULE = mige.Bandwidth(quantile=0.3, multiplier=1.5)
COMMON: dict[str, mige.ScoreEstimator] = {
    "ssge": mige.SSGE(rank=8),
    "ssge-calibrated": mige.SSGE(rank=8, calibrate="stein"),
    "tikhonov": mige.Tikhonov(lam=0.01, bandwidth=RULE),
    "tikhonov-curl-free": mige.Tikhonov(lam=0.01, curl_free=True, kernel=mige.IMQ()),
    "stein": mige.Stein(),
    "landweber": mige.Landweber(steps=50),
    "nu-method": mige.NuMethod(steps=8),
    "landmarks": mige.Landmarks(m=16, rank=8),
    "landmarks-tikhonov": mige.Landmarks(m=16, lam=0.01),
    "qis": mige.GaussianScore(covariance="qis"),
    "adaptive-qis": mige.AdaptiveScore(gaussian="qis"),
}
COLUMNWISE: dict[str, mige.ScoreEstimator] = {
    "default": mige.DEFAULT_ESTIMATOR,
    "ridge": mige.GaussianScore(),
    "mle": mige.GaussianScore(covariance="mle"),
    "network": mige.SlicedScoreMatching(steps=3),
    "bandwidth": mige.SSGE(bandwidth=2.0),
    "landmarks-bandwidth": mige.Landmarks(m=16, bandwidth=2.0),
    "release": mige.compat.SpectralScoreEstimator(n_eigen_threshold=0.99),
}
# A division by eigenvalues of about 1e-3, or by their squares with landmarks, magnifies the
# rounding errors of a unit.
MAGNIFIED = 1e6 * rounding(torch.float64)
for_each_common = pytest.mark.parametrize("name", COMMON)


def pair(*batch: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Dependent x (..., 40, 3) and z (..., 40, 2)."""
    x = normal(*batch, 40, 3)
    z = x[..., :2] + 0.7 * normal(*batch, 40, 2, seed=1)
    return x.to(dtype), z.to(dtype)


def gradients(x: Tensor, z: Tensor, estimator: mige.ScoreEstimator, **how: Any) -> list[Tensor]:
    x, z = x.clone().requires_grad_(), z.clone().requires_grad_()
    mutual_information(x, z, estimator=estimator, **how).backward()
    assert x.grad is not None and z.grad is not None
    return [x.grad, z.grad]


def assert_close(got: Tensor, expected: Tensor, tolerance: float) -> None:
    assert got.isfinite().all()
    assert (got.double() - expected.double()).norm() <= tolerance * expected.double().norm()


@for_each_common
@pytest.mark.parametrize("marginal", ["paired", "own", "matched"])
@pytest.mark.parametrize("factor", [1e-3, 30.0, 1e3])
def test_the_gradient_is_divided_by_the_unit(name: str, marginal: str, factor: float) -> None:
    x, z = pair()
    torch.manual_seed(0)
    by_x, by_z = gradients(x, z, COMMON[name], marginal=marginal)
    torch.manual_seed(0)
    got_x, got_z = gradients(x, factor * z, COMMON[name], marginal=marginal)
    assert_close(got_x, by_x, MAGNIFIED)
    assert_close(factor * got_z, by_z, MAGNIFIED)


@for_each_common
@pytest.mark.parametrize("exponent", [-120, 100])
def test_units_out_of_the_range_of_squares_change_nothing(name: str, exponent: int) -> None:
    x, z = pair(dtype=torch.float32)
    by_x, by_z = gradients(x, z, COMMON[name])
    got_x, got_z = gradients(x, z * 2.0**exponent, COMMON[name])
    assert torch.equal(got_x, by_x)
    # Only numbers near the ends of the range of float32 are rounded or saturate.
    assert_close(got_z.double() * 2.0**exponent, by_z, rounding(torch.float32))


@for_each_common
def test_an_offset_changes_nothing(name: str) -> None:
    x, z = pair()
    expected = gradients(x, z, COMMON[name])
    for got, wanted in zip(gradients(x, z + 1e6, COMMON[name]), expected, strict=True):
        assert_close(got, wanted, 1e6 * MAGNIFIED)


@for_each_common
def test_a_constant_column_changes_nothing(name: str) -> None:
    x, z = pair()
    by_x, by_z = gradients(x, z, COMMON[name])
    padded = torch.cat((z, torch.full((40, 1), 1e3, dtype=z.dtype)), -1)
    got_x, got_z = gradients(x, padded, COMMON[name])
    assert_close(got_x, by_x, MAGNIFIED)
    assert_close(got_z[:, :2], by_z, MAGNIFIED)
    assert not got_z[:, 2].any()


@for_each_common
def test_a_constant_argument_has_no_gradient_and_gives_none(name: str) -> None:
    x, _ = pair()
    got_x, got_z = gradients(x, torch.full((40, 2), 7.0, dtype=x.dtype), COMMON[name])
    assert not got_z.any()
    # H(x, z) of a constant z has the gradient of H(x).
    size = mige.SSGE(rank=8).score(x).norm() / 40
    assert got_x.norm() <= MAGNIFIED * size


@for_each_common
def test_each_group_has_its_own_units(name: str) -> None:
    x, z = pair(3)
    units = torch.tensor([1e-2, 1.0, 50.0], dtype=z.dtype).view(3, 1, 1)
    got_x, got_z = gradients(x, units * z, COMMON[name])
    for i in range(3):
        by_x, by_z = gradients(x[i], z[i], COMMON[name])
        assert_close(3 * got_x[i], by_x, MAGNIFIED)
        assert_close(3 * units[i] * got_z[i], by_z, MAGNIFIED)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@for_each_common
def test_half_precision_is_standardized_in_float32(name: str, dtype: torch.dtype) -> None:
    x, z = pair(dtype=dtype)
    z = z * 256  # their squares are out of the range of float16
    expected = gradients(x.float(), z.float(), COMMON[name])
    for got, wanted in zip(gradients(x, z, COMMON[name]), expected, strict=True):
        assert got.dtype == dtype
        assert torch.equal(got, wanted.to(dtype))


@pytest.mark.parametrize("name", COLUMNWISE)
@pytest.mark.parametrize("marginal", ["paired", "own", "matched"])
def test_other_estimators_get_the_pair_as_it_is(name: str, marginal: str) -> None:
    class Plain:
        def score(self, samples: Tensor) -> Tensor:
            return COLUMNWISE[name].score(samples)

    x, z = pair()
    torch.manual_seed(0)
    expected = gradients(x, 3 * z, Plain(), marginal=marginal)
    torch.manual_seed(0)
    got = gradients(x, 3 * z, COLUMNWISE[name], marginal=marginal)
    assert all(map(torch.equal, got, expected))


def test_values_that_are_not_finite_are_named() -> None:
    x, z = pair()
    z[3, 1] = torch.inf
    with pytest.raises(ValueError, match="z must be finite, got 1 value"):
        mutual_information(x, z, estimator=mige.SSGE())
