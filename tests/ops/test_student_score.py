"""The Student score: its rule against the reference, and the limits of its input."""

import math

import pytest
import torch
from torch import Tensor

from mige_ext import reference
from tests.support.accuracy import assert_accurate_for_its_condition, rounding, same_bits
from tests.support.backends import Backend, for_each_backend
from tests.support.inputs import for_each_dtype, normal

# Sizes below, at and above those of tiles, vectors and pivot blocks. Some have more dimensions than
# samples.
SIZES = [(2, 1), (3, 2), (5, 2), (33, 5), (64, 16), (65, 64), (40, 50), (130, 17), (200, 3)]
for_each_size = pytest.mark.parametrize(("m", "d"), SIZES)


def student(m: int, d: int, nu: int = 4, seed: int = 0) -> Tensor:
    """Samples of Student's t distribution with ν degrees of freedom, scatter I and mean 0."""
    return (
        normal(m, d, seed=seed) / (normal(m, nu, seed=seed + 1).square().mean(-1).sqrt())[:, None]
    )


def correlated(x: Tensor) -> Tensor:
    """The samples after a linear map and a shift: correlated, with unequal columns."""
    d = x.shape[-1]
    x = x.clone()
    x[:, d // 2 :] += x[:, : d - d // 2] / 2
    return x * torch.logspace(-1, 1, d, dtype=x.dtype) + 3


# --- the reference --------------------------------------------------------------------------------


def test_the_divergence_is_the_one_that_autograd_finds() -> None:
    z, mean, scale = student(20, 4), normal(4, seed=5) / 4, normal(4, 4, seed=6)
    precision = scale @ scale.mT + torch.eye(4, dtype=z.dtype)
    size = torch.tensor(3.5, dtype=z.dtype)
    departure, divergence, risk = reference.student_departure(z, 4.0, mean, precision, 4, size)

    def of(z: Tensor) -> Tensor:
        return reference.student_departure(z, 4.0, mean, precision, 4, size)[0]

    jacobian = torch.autograd.functional.jacobian(of, z)
    assert isinstance(jacobian, Tensor)
    assert torch.allclose(divergence, torch.einsum("icic->i", jacobian), rtol=1e-10)
    exact = departure.square().sum(-1) / 2 - (z * departure).sum(-1) + divergence
    assert torch.allclose(risk, exact, rtol=1e-10)


def test_the_departure_completes_the_gaussian_score_to_that_of_the_density() -> None:
    x = student(2000, 3, nu=5)
    exact = -(5 + 3) * x / (5 + x.square().sum(-1, keepdim=True))
    departure, _, nu, _ = reference.student_score(x)
    mean, whitening, _ = reference.ridge_whitening(x)
    gaussian = -((x - mean) @ whitening) @ whitening.mT
    assert 4 <= nu <= 10

    def error(scores: Tensor) -> float:
        return float((scores - exact).square().sum() / exact.square().sum())

    assert error(gaussian + departure) < 0.01 < error(gaussian) / 10


# --- the operator ---------------------------------------------------------------------------------


@pytest.mark.parametrize("nu", [3, 10])
@for_each_size
@for_each_backend("student_score")
def test_choices_and_scores_match_the_reference(backend: Backend, m: int, d: int, nu: int) -> None:
    x = correlated(student(m, d, nu))
    got, exact = backend.student_score(x), reference.student_score(x)
    assert got[2] == exact[2]
    for value, true in zip(got, exact, strict=True):
        if true.isfinite().all():
            assert (value - true).abs().max() <= 1e-8 * true.abs().max()


def test_the_sizes_above_contain_both_decisions() -> None:
    found = {
        bool(reference.student_score(correlated(student(m, d, 3)))[2].isinf()) for m, d in SIZES
    }
    assert found == {True, False}


@pytest.mark.parametrize(("m", "d"), [(33, 5), (64, 16), (130, 17), (200, 3)])
@for_each_backend("student_score")
def test_in_float32_the_results_are_accurate(backend: Backend, m: int, d: int) -> None:
    x = correlated(student(m, d, 3)).float()
    assert_accurate_for_its_condition(backend.student_score(x), reference.student_score, x)


@for_each_dtype
@for_each_backend("student_score")
def test_gaussian_samples_have_no_departure(backend: Backend, dtype: torch.dtype) -> None:
    departure, divergence, nu, weights = backend.student_score(normal(200, 5, dtype=dtype))
    assert nu.isinf()
    assert not departure.any() and not divergence.any()
    assert torch.equal(weights, torch.ones_like(weights))


@for_each_dtype
@for_each_backend("student_score")
def test_columns_have_their_own_unit_and_origin(backend: Backend, dtype: torch.dtype) -> None:
    x = student(60, 3, 3).to(dtype)
    unit = torch.tensor([2.0**-40, 1.0, 2.0**40], dtype=dtype)
    plain = backend.student_score(x)
    assert plain[2].isfinite()
    departure, *others = backend.student_score(x * unit)
    assert same_bits((departure * unit, *others), plain)


@for_each_dtype
@for_each_backend("student_score")
def test_a_far_outlier_has_a_small_weight(backend: Backend, dtype: torch.dtype) -> None:
    x = normal(100, 3, dtype=dtype)
    x[7] *= 1e4
    departure, divergence, nu, weights = backend.student_score(x)
    assert nu.isfinite()
    assert departure.isfinite().all() and divergence.isfinite().all()
    assert weights[7] < weights.sum() / 1e4


@for_each_dtype
@for_each_backend("student_score")
@pytest.mark.parametrize(("m", "d"), [(64, 44), (64, 60), (33, 40), (64, 128)], ids=str)
def test_gaussian_samples_have_no_heavy_tails_in_many_dimensions(
    backend: Backend, dtype: torch.dtype, m: int, d: int
) -> None:
    # Without the rule for few samples and with the usual weights, an enlarged score has a risk
    # below 0 for d = 60 and M = 64.
    x = torch.stack([normal(m, d, seed=seed, dtype=dtype) for seed in range(4)])
    assert backend.student_score(x)[2].isinf().all()


@for_each_dtype
@for_each_backend("student_score")
def test_few_samples_have_no_student_start(backend: Backend, dtype: torch.dtype) -> None:
    x = student(51, 40, 3)
    x = (x / (0.1 + x[:, :1].abs())).to(dtype)  # very heavy tails
    assert backend.student_score(x)[2].isfinite()
    assert backend.student_score(x[:50])[2].isinf()  # M − 1 < 1.25 d


@pytest.mark.parametrize(("m", "d"), [(64, 3), (40, 20), (64, 40), (33, 40)], ids=str)
@for_each_dtype
@for_each_backend("student_score")
def test_constant_columns_do_not_count(
    backend: Backend, dtype: torch.dtype, m: int, d: int
) -> None:
    x = student(m, d, 3).to(dtype)
    wide = torch.cat([x, torch.full((m, 3), 2.0, dtype=dtype)], -1)
    plain, more = backend.student_score(x), backend.student_score(wide)
    assert torch.equal(plain[2], more[2]) and bool(plain[2].isfinite()) == (m > d)
    assert not more[0][:, d:].any()
    tolerance = 1e2 * rounding(dtype, m * d)
    for value, true in zip(
        (more[0][:, :d], more[1], more[3]), (plain[0], plain[1], plain[3]), strict=True
    ):
        assert (value - true).abs().max() <= tolerance * true.abs().max()


@for_each_dtype
@for_each_backend("student_score")
def test_a_repeated_column_counts_once(backend: Backend, dtype: torch.dtype) -> None:
    x = student(200, 4, 3).to(dtype)
    x[:, 3] = x[:, 0]
    got, exact = backend.student_score(x), reference.student_score(x.double())
    assert got[2] == exact[2] and got[2].isfinite()
    tolerance = 1e2 * rounding(dtype, x.numel())
    for value, true in zip(got, exact, strict=True):
        assert (value.double() - true).abs().max() <= tolerance * true.abs().max()


@for_each_dtype
@for_each_backend("student_score")
def test_equal_samples_have_no_departure(backend: Backend, dtype: torch.dtype) -> None:
    departure, divergence, nu, _ = backend.student_score(torch.full((9, 3), 5.0, dtype=dtype))
    assert nu == math.inf
    assert not departure.any() and not divergence.any()


@for_each_dtype
@for_each_backend("student_score")
def test_samples_near_the_ends_of_the_range_have_finite_results(
    backend: Backend, dtype: torch.dtype
) -> None:
    x = student(60, 3, 3).to(dtype)
    x = x / x.abs().max()
    largest = torch.finfo(dtype).max / 8
    for scale in (largest, 1 / largest):
        departure, divergence, nu, weights = backend.student_score(x * scale)
        assert departure.isfinite().all()
        assert divergence.isfinite().all() and weights.isfinite().all()
        assert nu.isfinite()


# --- as the start of the adaptive score -----------------------------------------------------------


@for_each_dtype
@for_each_backend("student_score", "adaptive_score")
def test_the_adaptive_score_of_heavy_tails_starts_from_it(
    backend: Backend, dtype: torch.dtype
) -> None:
    x = student(64, 10).to(dtype)
    departure, divergence, *_ = backend.student_score(x)
    _, _, base, risk, error, *_ = backend.adaptive_score(x, departure, divergence)
    _, _, _, plain_risk, plain_error, *_ = backend.adaptive_score(x)
    assert base == 2
    assert risk + error < plain_risk + plain_error


@for_each_dtype
@for_each_backend("student_score", "adaptive_score")
def test_a_start_of_zeros_changes_nothing(backend: Backend, dtype: torch.dtype) -> None:
    for x in (normal(65, 5, dtype=dtype), normal(40, 3, dtype=dtype).sign() + 0.1):
        x = x + normal(*x.shape, seed=3, dtype=dtype) / 3
        zeros = torch.zeros_like(x)
        got = backend.adaptive_score(x, zeros, zeros[:, 0])
        plain = backend.adaptive_score(x)
        assert torch.equal(got[1], plain[1]) and torch.equal(got[2], plain[2])
        if backend.name == "cpu":
            assert same_bits(got, plain)
        for value, true in zip(got, plain, strict=True):
            if true.isfinite().all():
                assert (value - true).abs().max() <= 1e2 * rounding(dtype, 65) * true.abs().max()
