"""Properties of scores that hold for any samples. Hypothesis generates the samples."""

from typing import Any

import numpy as np
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from mige_ext import IMQ, SSGE, GaussianScore, Landweber, NuMethod, Stein, Tikhonov, ops
from mige_ext.scores.base import stein_calibration
from tests.support.accuracy import rounding
from tests.support.inputs import normal

THRESHOLD = 0.9
ESTIMATOR = SSGE(threshold=THRESHOLD)


@st.composite
def samples(draw: st.DrawFn, dtype: torch.dtype = torch.float64) -> Tensor:
    """(M, d), M in 2 … 20, d in 1 … 4, coordinates within ±100, with repeats and lattices."""
    shape = draw(st.tuples(st.integers(2, 20), st.integers(1, 4)))
    numbers = st.one_of(
        st.floats(-100, 100, allow_subnormal=False, width=32),
        st.integers(-3, 3).map(float),
    )
    values = draw(arrays(np.float64, shape, elements=numbers))
    return torch.from_numpy(values).to(dtype)


scales = st.integers(-90, 90).map(lambda e: 2.0**e)


def tolerance(x: Tensor) -> float:
    """The largest change of the score by rounding of the samples, in the Frobenius norm.

    The change is ‖H‖ / λ_J times λ_1 / gap + λ_1 / λ_J (see ``assert_ssge_accurate``). Samples are
    left out if the cut is on the threshold or between equal eigenvalues.
    """
    _, values, sigma, rank = ops.ssge(x, threshold=THRESHOLD)
    m, j = x.shape[0], int(rank)
    assume(j > 0)
    gap = values[m - j] - values[m - j - 1] if j < m else values[m - j]
    share = values.flip(0).cumsum(0) / m
    assume((share - THRESHOLD).abs().min() > 1e-6 and gap > 1e-6)
    h = ops.rbf_gradient_sum(x, bandwidth=sigma).norm()
    turned = values[-1] / gap + values[-1] / values[m - j]
    # Rounding of coordinates of size |x| changes distances by ε |x|, relative to σ.
    size = 1 + (x.abs().max() / sigma) * x.shape[1] ** 0.5
    return float(rounding(x.dtype, m) * size * turned * h / values[m - j])


def assert_same_score(got: Tensor, expected: Tensor, *inputs: Tensor) -> None:
    assert (got - expected).norm() <= 4 * sum(tolerance(x) for x in inputs)


@given(samples(), st.integers(-1000, 1000))
def test_score_is_translation_invariant(x: Tensor, shift: int) -> None:
    assert_same_score(ESTIMATOR.score(x + shift), ESTIMATOR.score(x), x, x + shift)


@given(samples(), st.integers(0, 10**6))
def test_score_rotates_with_the_samples(x: Tensor, seed: int) -> None:
    rotation, _ = torch.linalg.qr(normal(x.shape[1], x.shape[1], seed=seed))
    turned = x @ rotation
    assert_same_score(ESTIMATOR.score(turned), ESTIMATOR.score(x) @ rotation, x, turned)


@given(samples(), st.randoms(use_true_random=False))
def test_score_is_permuted_with_the_samples(x: Tensor, random: Any) -> None:
    order = list(range(x.shape[0]))
    random.shuffle(order)
    assert_same_score(ESTIMATOR.score(x[order]), ESTIMATOR.score(x)[order], x, x[order])


@given(samples(), st.randoms(use_true_random=False))
def test_score_is_permuted_with_the_coordinates(x: Tensor, random: Any) -> None:
    order = list(range(x.shape[1]))
    random.shuffle(order)
    assert_same_score(ESTIMATOR.score(x[:, order]), ESTIMATOR.score(x)[:, order], x, x[:, order])


@given(samples(), st.floats(1e-3, 1e3))
def test_score_of_scaled_samples_is_divided_by_the_scale(x: Tensor, a: float) -> None:
    assert_same_score(a * ESTIMATOR.score(a * x), ESTIMATOR.score(x), x)


@given(st.sampled_from([torch.float32, torch.float64]).flatmap(samples), scales)
def test_score_of_samples_scaled_by_a_power_of_two_is_exact(x: Tensor, a: float) -> None:
    largest = torch.finfo(x.dtype).max
    expected = (SSGE().score(x).double() / a).clamp(-largest, largest).to(x.dtype)
    got = SSGE().score(x * a)
    # Only numbers below the smallest normal one are rounded.
    assert ((got == expected) | (expected.abs() < 2 * torch.finfo(x.dtype).tiny)).all()


@given(samples())
def test_score_of_mirrored_samples_is_mirrored_to_the_bit(x: Tensor) -> None:
    assert torch.equal(SSGE().score(-x), -SSGE().score(x))


@given(st.sampled_from([torch.float32, torch.float64]).flatmap(samples), scales)
def test_a_group_does_not_depend_on_other_groups(x: Tensor, scale: float) -> None:
    alone, query = SSGE().score(x), x[:3]
    elsewhere = SSGE().fit(x).score(query)
    for neighbor in (torch.zeros_like(x), torch.full_like(x, scale), x.flip(0) * scale):
        for position in (0, 1):
            batch = torch.stack([neighbor, neighbor])
            batch[position] = x
            assert torch.equal(SSGE().score(batch)[position], alone)
            queries = torch.stack([query, query])
            assert torch.equal(SSGE().fit(batch).score(queries)[position], elsewhere)


@given(st.sampled_from([torch.float32, torch.float64]).flatmap(samples), st.integers(2, 5))
def test_repeated_samples_have_finite_scores_and_equal_ones(x: Tensor, copies: int) -> None:
    scores = SSGE().score(x.repeat(copies, 1))
    assert scores.isfinite().all()
    assert SSGE().fit(x.repeat(copies, 1)).score(x).isfinite().all()


@given(samples(), st.integers(2, 4))
def test_repeating_every_sample_leaves_the_score(x: Tensor, copies: int) -> None:
    # The copies multiply every eigenvalue of K by `copies`, and add eigenvalues of 0. The copies
    # change the quantile of the distances, so the bandwidth is given.
    sigma = 1.0 + float(x.std())
    estimator = SSGE(threshold=THRESHOLD, bandwidth=sigma)
    _, values, _, rank = ops.ssge(x, torch.tensor(sigma, dtype=x.dtype), threshold=THRESHOLD)
    m, j = x.shape[0], int(rank)
    gap = values[m - j] - (values[m - j - 1] if j < m else 0)
    share = values.flip(0).cumsum(0) / m
    assume((share - THRESHOLD).abs().min() > 1e-6 and gap > 1e-6)
    h = ops.rbf_gradient_sum(x, bandwidth=torch.tensor(sigma, dtype=x.dtype)).norm()
    turned = values[-1] / gap + values[-1] / values[m - j]
    bound = rounding(x.dtype, copies * m) * (1 + 100 / sigma) * turned * h / values[m - j]
    got = estimator.score(x.repeat(copies, 1)).view(copies, m, -1)
    assert ((got - estimator.score(x)).flatten(1).norm(dim=1) <= 8 * bound).all()


@given(samples())
def test_scores_and_diagnostics_are_finite_and_consistent(x: Tensor) -> None:
    m = x.shape[0]
    scores, d = ESTIMATOR.score(x), ESTIMATOR.diagnose(x)
    assert scores.isfinite().all()
    equal = bool((x == x[0]).all())
    assert (d.rank == 0) == equal
    assert 0 <= d.rank <= m
    assert (d.bandwidth == 0) == equal
    assert d.energy <= 1 + rounding(x.dtype, m)
    assert equal or d.energy >= THRESHOLD - rounding(x.dtype, m)
    assert not equal or not scores.any()


@given(samples())
def test_stein_calibration_makes_the_identity_exact(x: Tensor) -> None:
    plain = stein_calibration(x, ESTIMATOR.score(x))
    assume(plain > 1e-6)
    calibrated = SSGE(threshold=THRESHOLD, calibrate="stein").score(x)
    centered = (x - x.mean(0)).abs() + rounding(x.dtype) * x.abs().max()
    size = (calibrated.abs() * centered).sum(1).mean() / x.shape[1]
    error = (stein_calibration(x, calibrated) - 1).abs()
    assert error <= rounding(x.dtype, x.numel()) * (1 + size)


LAM = 0.01
SMOOTH = [
    make(kernel=IMQ(), curl_free=curl_free)
    for curl_free in (False, True)
    for make in (lambda **k: Tikhonov(lam=LAM, **k), lambda **k: Landweber(steps=50, **k),
                 lambda **k: NuMethod(steps=8, **k))
]  # fmt: skip
smooth = st.sampled_from(SMOOTH)


def smooth_tolerance(x: Tensor, *others: Tensor) -> float:
    """The largest change of the score of a smooth filter by rounding, in the Frobenius norm.

    Rounding changes distances by ε |x|/σ, and with them ζ. The filter multiplies this change by
    ``g_λ(μ) <= 1/λ``, which also bounds the filters with 50 and 8 steps. The unit is 1/σ.
    """
    sigma = ops.distance_quantile(x)
    assume(bool(sigma > 0))
    # If rounding moves the quantile across a gap of the distances, the bandwidth changes.
    for other in others:
        assume(bool((ops.distance_quantile(other) / sigma - 1).abs() < 1e-9))
    # Coordinates beyond 1e9 σ lose all their digits.
    size = max(t.abs().max().item() for t in (x, *others)) / sigma.item()
    assume(size < 1e4)
    steepest = (
        2 * x.shape[1] ** 0.5 * (x.shape[1] + 2) * x.shape[0] ** 0.5
    )  # the largest slope of ‖ζ‖σ
    return rounding(x.dtype, x.numel()) * (1 + size) ** 2 * steepest / LAM**2 / sigma.item()


@given(samples(), smooth, st.integers(-50, 50), st.integers(0, 10**6))
def test_scores_of_smooth_filters_move_and_turn_with_the_samples(
    x: Tensor, estimator: Any, shift: int, seed: int
) -> None:
    rotation, _ = torch.linalg.qr(normal(x.shape[1], x.shape[1], seed=seed))
    expected = estimator.score(x)
    bound = smooth_tolerance(x, x + shift, x @ rotation)
    assert (estimator.score(x + shift) - expected).norm() <= bound
    assert (estimator.score(x @ rotation) - expected @ rotation).norm() <= bound


@given(st.sampled_from([torch.float32, torch.float64]).flatmap(samples), smooth, scales)
def test_score_of_smooth_filters_of_scaled_samples_is_exact(
    x: Tensor, estimator: Any, a: float
) -> None:
    largest = torch.finfo(x.dtype).max
    expected = (estimator.score(x).double() / a).clamp(-largest, largest).to(x.dtype)
    got = estimator.score(x * a)
    assert got.isfinite().all()
    assert ((got == expected) | (expected.abs() < 2 * torch.finfo(x.dtype).tiny)).all()


@given(samples(), st.integers(2, 4), st.booleans())
def test_repeating_every_sample_leaves_the_score_of_tikhonov_but_not_of_stein(
    x: Tensor, copies: int, curl_free: bool
) -> None:
    sigma = 1.0 + float(x.std())
    options: Any = {"bandwidth": sigma, "curl_free": curl_free}
    size = 1 + x.abs().max().item() / sigma
    repeated, m = x.repeat(copies, 1), x.shape[0]
    bound = rounding(x.dtype, copies * x.numel()) * size**2 * 20 * m**0.5 / LAM**2 / sigma
    got = Tikhonov(lam=LAM, **options).score(repeated).view(copies, m, -1)
    assert (got - Tikhonov(lam=LAM, **options).score(x)).norm() <= bound * copies
    # η does not grow with M, so the same η for c copies is λ/c.
    got = Stein(eta=LAM * m, **options).score(repeated).view(copies, m, -1)
    assert (got - Tikhonov(lam=LAM / copies, **options).score(x)).norm() <= bound * copies**3


@given(
    st.sampled_from([torch.float32, torch.float64]).flatmap(samples),
    st.sampled_from(["ridge", "qis", "mle"]),
    scales,
)
def test_gaussian_scores_are_finite_scale_exactly_and_have_independent_groups(
    x: Tensor, covariance: Any, a: float
) -> None:
    estimator = GaussianScore(covariance=covariance)
    score = estimator.score(x)
    assert score.isfinite().all() and estimator.fit(x).energy().isfinite().all()
    largest = torch.finfo(x.dtype).max
    expected = (score.double() / a).clamp(-largest, largest).to(x.dtype)
    got = estimator.score(x * a)
    assert ((got == expected) | (expected.abs() < 2 * torch.finfo(x.dtype).tiny)).all()
    assert not score[:, (x == x[0]).all(0)].any()


@given(samples(), st.floats(0.01, 1.0))
def test_distance_quantile_is_a_distance_and_grows_with_the_quantile(x: Tensor, q: float) -> None:
    i, j = torch.triu_indices(x.shape[0], x.shape[0], 1)
    squares = ops.squared_distances(x)[i, j].numpy()
    value = ops.distance_quantile(x, q)
    assert value.item() in np.sqrt(squares)
    assert value <= ops.distance_quantile(x, 1.0) == np.sqrt(squares.max())
    assert (value == 0) == (not squares.any())


@given(samples(), st.floats(0.1, 10))
def test_gram_matrices_are_positive_semidefinite(x: Tensor, sigma: float) -> None:
    k = ops.rbf_gram(x, bandwidth=torch.tensor(sigma, dtype=x.dtype))
    values, _ = ops.eigh(k)
    # Rounding of exponents up to 700 and of the eigensolver.
    assert values[0] >= -rounding(x.dtype, x.shape[0]) * x.shape[0]
    assert abs(values.sum() - x.shape[0]) <= rounding(x.dtype, x.shape[0]) * x.shape[0]
