"""SSGE: its scores, its settings and its diagnostics."""

import copy
import pickle
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
import torch
from torch import Tensor

import mige_ext as mige
from mige_ext import SSGE, Bandwidth, ops, reference
from mige_ext.scores.base import stein_calibration
from tests.support.accuracy import rounding, same_bits
from tests.support.inputs import for_each_dtype, normal

LOW = [torch.float16, torch.bfloat16]


def relative(error: Tensor, exact: Tensor) -> float:
    return (error.norm() / exact.norm()).item()


# --- scores ---------------------------------------------------------------------------------------


def score_error(m: int, seed: int) -> float:
    """Relative error for a Gaussian with unequal variances, whose score is −z / σ²."""
    sigma = torch.tensor([1.0, 2.0], dtype=torch.float64)
    z = sigma * normal(m, 2, seed=seed)
    exact = -z / sigma**2
    return relative(SSGE().score(z) - exact, exact)


def test_score_converges_to_that_of_the_density() -> None:
    # The error of a consistent estimator falls with M. Medians over seeds are compared at M and 16
    # M.
    few = torch.tensor([score_error(32, s) for s in range(9)]).median()
    many = torch.tensor([score_error(512, s) for s in range(9)]).median()
    assert many < few / 2


def test_score_elsewhere_converges_to_that_of_the_density() -> None:
    query = torch.linspace(-1.5, 1.5, 31, dtype=torch.float64).unsqueeze(1)
    errors = [
        torch.tensor([relative(SSGE().fit(normal(m, 1, seed=s)).score(query) + query, query)
                      for s in range(9)]).median()
        for m in (32, 512)
    ]  # fmt: skip
    assert errors[1] < errors[0] / 2


@for_each_dtype
def test_score_is_that_of_the_operator(dtype: torch.dtype) -> None:
    x = normal(2, 40, 3, dtype=dtype)
    for options in ({"threshold": 0.9}, {"rank": 5}):
        assert torch.equal(SSGE(**options).score(x), ops.ssge(x, **options)[0])


@for_each_dtype
def test_score_elsewhere_is_the_nystrom_extension(dtype: torch.dtype) -> None:
    x, q = normal(2, 40, 16, dtype=dtype), normal(2, 11, 16, dtype=dtype, seed=1)
    fitted = SSGE(threshold=0.9).fit(x)
    w, _, sigma, _ = ops.ssge(x, threshold=0.9, power=2)
    # The fit is in units of a power of two, which changes only the range of the numbers.
    unit = fitted.unit
    assert torch.equal(fitted.samples * unit, x)
    assert torch.equal(fitted.coefficients / unit, w)
    assert torch.equal(fitted.bandwidth * unit[..., 0, 0], sigma)
    assert torch.equal(fitted.score(q), ops.rbf_product(q, x, w, bandwidth=sigma))


def test_nystrom_extension_at_the_samples_is_the_score() -> None:
    # Kernel rows times U Λ^{−2} are U Λ^{−1}, up to rounding times the condition number of the kept
    # spectrum.
    x = normal(3, 64, 16)
    direct, values, _, rank = ops.ssge(x)
    condition = (values[:, -1] / values[torch.arange(3), 64 - rank]).max().item()
    for query in (None, x):
        extended = SSGE().fit(x).score(query)
        assert relative(extended - direct, direct) <= rounding(x.dtype, 64) * condition


def test_score_far_from_the_samples_is_zero() -> None:
    assert not SSGE().fit(normal(20, 3)).score(torch.full((4, 3), 1e6, dtype=torch.float64)).any()


# --- settings -------------------------------------------------------------------------------------


def test_the_default_is_the_median_rule_and_99_percent_of_the_trace() -> None:
    x = normal(40, 3)
    explicit = SSGE(bandwidth=Bandwidth(quantile=0.5, multiplier=1.0), calibrate=None)
    for other in (SSGE(threshold=0.99), SSGE(bandwidth="median"), explicit):
        assert torch.equal(other.score(x), SSGE().score(x))


def test_rank_replaces_threshold() -> None:
    x = normal(40, 3)
    assert torch.equal(SSGE(rank=5, threshold=0.1).score(x), SSGE(rank=5, threshold=1.0).score(x))
    assert SSGE(rank=5).diagnose(x).rank == 5


def test_rank_grows_with_the_threshold() -> None:
    x = normal(64, 3)
    ranks = [int(SSGE(threshold=t).diagnose(x).rank) for t in (0.3, 0.7, 0.9, 0.99, 0.999)]
    assert ranks == sorted(set(ranks))


@pytest.mark.parametrize("quantile", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("multiplier", [0.5, 1.0, 3.0])
def test_bandwidth_is_the_multiple_of_the_quantile(quantile: float, multiplier: float) -> None:
    x = normal(3, 40, 3)
    got = SSGE(bandwidth=Bandwidth(quantile, multiplier)).diagnose(x).bandwidth
    exact = multiplier * reference.distance_quantile(x, quantile)
    assert ((got - exact).abs() <= rounding(x.dtype, 3) * exact).all()


@pytest.mark.parametrize("bandwidth", [2, 2.0])
def test_a_number_is_the_bandwidth_of_every_group(bandwidth: float) -> None:
    x = normal(3, 40, 3)
    estimator = SSGE(bandwidth=bandwidth)
    assert (estimator.diagnose(x).bandwidth == 2.0).all()
    assert torch.equal(estimator.score(x), ops.ssge(x, torch.full((3,), 2.0).double())[0])


def test_settings_are_frozen_equal_by_value_and_hashable() -> None:
    a, b = SSGE(rank=3, bandwidth=Bandwidth(0.3)), SSGE(rank=3, bandwidth=Bandwidth(0.3))
    assert a == b and hash(a) == hash(b) and a != SSGE(rank=4)
    with pytest.raises(FrozenInstanceError):
        a.rank = 4  # type: ignore[misc]


def test_settings_are_given_by_name() -> None:
    with pytest.raises(TypeError):
        SSGE(0.9)  # type: ignore[call-arg, arg-type]


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy,
                                       lambda e: pickle.loads(pickle.dumps(e))])  # fmt: skip
def test_estimators_and_fits_can_be_copied_and_pickled(duplicate: Any) -> None:
    x, q = normal(30, 3), normal(5, 3, seed=1)
    estimator = SSGE(rank=4, bandwidth=Bandwidth(0.3), calibrate="stein")
    twin = duplicate(estimator)
    assert twin == estimator
    assert torch.equal(twin.score(x), estimator.score(x))
    fitted = estimator.fit(x)
    assert torch.equal(duplicate(fitted).score(q), fitted.score(q))
    assert torch.equal(duplicate(fitted).diagnostics.rank, fitted.diagnostics.rank)


def test_estimators_follow_the_protocol() -> None:
    assert isinstance(SSGE(), mige.ScoreEstimator)
    assert not isinstance(object(), mige.ScoreEstimator)


# --- inputs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", LOW, ids=str)
def test_low_precision_samples_give_the_float32_score_of_the_same_numbers(
    dtype: torch.dtype,
) -> None:
    x, q = normal(40, 3, dtype=dtype), normal(9, 3, dtype=dtype, seed=1)
    assert torch.equal(SSGE().score(x), SSGE().score(x.float()))
    assert torch.equal(SSGE().fit(x).score(q), SSGE().fit(x.float()).score(q.float()))
    assert SSGE().diagnose(x).energy.dtype == torch.float32


def test_a_query_is_taken_to_the_dtype_of_the_fit() -> None:
    x, q = normal(40, 3), normal(9, 3, seed=1)
    assert SSGE().fit(x).score(q.float()).dtype == torch.float64
    assert torch.equal(SSGE().fit(x).score(q.float()), SSGE().fit(x).score(q.float().double()))
    assert SSGE().fit(x.float()).score(q).dtype == torch.float32


@for_each_dtype
def test_autocast_does_not_lower_the_precision(dtype: torch.dtype) -> None:
    x, q = normal(40, 3, dtype=dtype), normal(9, 3, dtype=dtype, seed=1)
    for estimator in (SSGE(), SSGE(calibrate="stein")):
        expected = estimator.score(x), estimator.fit(x).score(q)
        with torch.autocast("cpu", torch.bfloat16):
            got = estimator.score(x), estimator.fit(x).score(q)
        assert same_bits(got, expected)


def test_scores_carry_no_gradient_and_need_no_grad_mode() -> None:
    x = normal(40, 3).requires_grad_()
    expected = SSGE().score(x.detach())
    fitted = SSGE().fit(x)
    for result in (SSGE().score(x), fitted.score(x), fitted.coefficients, fitted.samples,
                   SSGE().diagnose(x).energy):  # fmt: skip
        assert not result.requires_grad
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert torch.equal(SSGE().score(x), expected)
    with torch.inference_mode():
        inference = x.detach() + 0
    assert torch.equal(SSGE().score(inference), expected)


def test_a_fit_is_not_changed_by_later_changes_of_the_samples() -> None:
    # Particle methods move their samples in place: x += step * score(x).
    x, q = normal(40, 3), normal(9, 3, seed=1)
    fitted = SSGE().fit(x)
    before = fitted.score(q)
    x.mul_(2.0)
    assert torch.equal(fitted.score(q), before)


def test_the_default_dtype_does_not_matter() -> None:
    x, q = normal(40, 3, dtype=torch.float32), normal(9, 3, dtype=torch.float32, seed=1)
    estimator = SSGE(bandwidth=1.5, calibrate="stein")
    expected = estimator.score(x), estimator.fit(x).score(q), estimator.diagnose(x).energy
    torch.set_default_dtype(torch.float64)
    try:
        got = estimator.score(x), estimator.fit(x).score(q), estimator.diagnose(x).energy
    finally:
        torch.set_default_dtype(torch.float32)
    assert same_bits(got, expected)


@pytest.mark.parametrize("batch", [(3,), (2, 3), (0,), (2, 0)], ids=str)
def test_leading_dimensions_are_groups(batch: tuple[int, ...]) -> None:
    x, q = normal(*batch, 20, 3), normal(*batch, 7, 3, seed=1)
    estimator = SSGE(calibrate="stein")
    scores, elsewhere = estimator.score(x), estimator.fit(x).score(q)
    diagnostics = estimator.diagnose(x)
    assert scores.shape == x.shape and elsewhere.shape == q.shape
    for value in (diagnostics.rank, diagnostics.bandwidth, diagnostics.energy,
                  diagnostics.calibration):  # fmt: skip
        assert value.shape == batch
    for index in torch.cartesian_prod(*(torch.arange(n) for n in batch)).reshape(-1, len(batch)):
        i = tuple(index.tolist())
        assert torch.equal(scores[i], estimator.score(x[i]))
        assert torch.equal(elsewhere[i], estimator.fit(x[i]).score(q[i]))


# --- degenerate groups ----------------------------------------------------------------------------


@pytest.mark.parametrize("calibrate", [None, "stein"])
@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, 1e30])
@for_each_dtype
def test_equal_samples_have_score_zero_here_and_elsewhere(
    dtype: torch.dtype, value: float, calibrate: Any
) -> None:
    x = torch.full((7, 3), value, dtype=dtype)
    estimator = SSGE(calibrate=calibrate)
    assert not estimator.score(x).any()
    assert not estimator.fit(x).score(normal(5, 3, dtype=dtype)).any()
    diagnostics = estimator.diagnose(x)
    assert diagnostics.rank == 0 and diagnostics.bandwidth == 0
    assert diagnostics.energy == 0 and diagnostics.calibration == 0


@for_each_dtype
def test_two_samples_are_enough(dtype: torch.dtype) -> None:
    x = torch.tensor([[0.0], [1.0]], dtype=dtype)
    scores = SSGE(threshold=1.0).score(x)
    # For σ = 1, k is e^{−1/2}. The antisymmetric eigenvector has λ = 1 − k and H = ±k, so the score
    # is ±k / (1 − k).
    k = torch.tensor(-0.5, dtype=torch.float64).exp()
    exact = torch.stack([k / (1 - k), -k / (1 - k)]).unsqueeze(1)
    assert (scores.double() - exact).abs().max() <= rounding(dtype, 2) * exact.max()


# --- calibration and diagnostics ------------------------------------------------------------------


@for_each_dtype
def test_diagnostics_are_what_they_are_defined_to_be(dtype: torch.dtype) -> None:
    x = normal(3, 40, 5, dtype=dtype)
    scores, values, sigma, rank = ops.ssge(x, threshold=0.9)
    got = SSGE(threshold=0.9).diagnose(x)
    assert torch.equal(got.rank, rank) and torch.equal(got.bandwidth, sigma)
    for g in range(3):
        energy = values[g, 40 - int(rank[g]) :].double().sum() / 40
        assert abs(got.energy[g] - energy) <= rounding(dtype, 40)
        centered = x[g].double() - x[g].double().mean(0)
        calibration = -(scores[g] * centered).sum(1).mean() / 5
        assert abs(got.calibration[g] - calibration) <= rounding(dtype, 40)


def test_calibration_is_one_for_the_true_score_and_less_for_an_estimate() -> None:
    z = normal(4096, 8)
    # The tolerance is four standard deviations of the mean of 4096 × 8 terms z² with variance 2.
    assert abs(stein_calibration(z, -z) - 1) < 4 * (2 / z.numel()) ** 0.5
    few, many = (SSGE().diagnose(z[:m]).calibration for m in (32, 512))
    assert few < many < 1


@pytest.mark.parametrize("batch", [(), (3,)], ids=str)
@for_each_dtype
def test_stein_calibration_makes_the_identity_exact(
    dtype: torch.dtype, batch: tuple[int, ...]
) -> None:
    x = 5 + normal(*batch, 40, 6, dtype=dtype)
    calibrated = SSGE(calibrate="stein").score(x)
    assert ((stein_calibration(x, calibrated) - 1).abs() <= rounding(dtype, 240)).all()


def test_stein_calibration_is_one_factor_for_each_group() -> None:
    x, q = normal(3, 40, 6), normal(3, 9, 6, seed=1)
    plain, calibrated = SSGE(), SSGE(calibrate="stein")
    factor = plain.diagnose(x).calibration[:, None, None]
    error = calibrated.score(x) * factor - plain.score(x)
    assert error.abs().max() <= rounding(x.dtype) * plain.score(x).abs().max()
    fitted, corrected = plain.fit(x), calibrated.fit(x)
    elsewhere = fitted.score(q)
    error = corrected.score(q) * fitted.diagnostics.calibration[:, None, None] - elsewhere
    assert error.abs().max() <= rounding(x.dtype, 40) * elsewhere.abs().max()


def test_diagnostics_are_those_of_the_estimate_before_calibration() -> None:
    x = normal(40, 6)
    plain, calibrated = SSGE().diagnose(x), SSGE(calibrate="stein").diagnose(x)
    assert plain.calibration == calibrated.calibration != 1
    fitted = SSGE(calibrate="stein").fit(x).diagnostics
    assert fitted.rank == plain.rank and fitted.bandwidth == plain.bandwidth
    assert fitted.energy == plain.energy
    # Scores at the samples, direct and by Nyström, agree up to the condition number of the kept
    # spectrum.
    _, values, _, rank = ops.ssge(x)
    condition = (values[-1] / values[40 - int(rank)]).item()
    assert abs(fitted.calibration - plain.calibration) <= rounding(x.dtype, 40) * condition


@pytest.mark.parametrize("scale", [2.0**-120, 2.0**-100, 2.0**100])
@pytest.mark.parametrize("calibrate", [None, "stein"])
def test_estimators_are_scale_equivariant_to_the_bit_at_the_ends_of_float32(
    calibrate: Any, scale: float
) -> None:
    x, q = normal(40, 6, dtype=torch.float32), normal(9, 6, dtype=torch.float32, seed=1)
    estimator = SSGE(calibrate=calibrate)
    assert torch.equal(estimator.score(x * scale), estimator.score(x) / scale)
    elsewhere = estimator.fit(x).score(q)
    assert torch.equal(estimator.fit(x * scale).score(q * scale), elsewhere / scale)
    assert estimator.diagnose(x * scale).calibration == estimator.diagnose(x).calibration


@pytest.mark.parametrize(
    "estimator", [SSGE(threshold=0.99), SSGE(threshold=0.99, kernel=mige.IMQ())]
)
def test_float32_reaches_the_threshold_with_many_samples(estimator: SSGE) -> None:
    x = normal(1000, 16)
    got, exact = estimator.diagnose(x.float()), estimator.diagnose(x)
    assert got.energy >= 0.99
    assert abs(int(got.rank) - int(exact.rank)) <= 1
