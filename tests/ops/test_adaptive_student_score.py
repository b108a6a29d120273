"""The adaptive score with the Student score as its start, against the reference and two calls."""

import pytest
import torch
from torch import Tensor

from mige_ext import reference
from tests.support.accuracy import rounding, same_bits
from tests.support.backends import Backend, for_each_backend
from tests.support.inputs import for_each_dtype, normal

# Sizes below, at and above those of tiles and vectors. Some have more dimensions than samples.
SIZES = [(2, 1), (5, 2), (33, 5), (64, 16), (65, 64), (40, 50), (130, 17)]
for_each_size = pytest.mark.parametrize(("m", "d"), SIZES)
NAME = "adaptive_student_score"


def heavy(m: int, d: int) -> Tensor:
    """Correlated samples with heavy tails, as columns of different sizes."""
    x = normal(m, d) / normal(m, 4, seed=1).square().mean(-1, keepdim=True).sqrt()
    x[:, d // 2 :] += x[:, : d - d // 2] / 2
    return x * torch.logspace(-1, 1, d, dtype=x.dtype) + 3


def assert_near(got: tuple[Tensor, ...], exact: tuple[Tensor, ...], rounded: float) -> None:
    """Assert that choices are equal, and all other results up to rounding."""
    choices = (1, 2, 6, 9)  # λ, base, the fraction left out, ν
    lost = rounded * max(1, 1 / float(exact[1]))
    scales = [true.abs().max() for true in exact]
    scales[3] = scales[4] = exact[3].abs() + exact[4]  # the risk and its standard error
    scales[7] = scales[0]
    for number, (value, true) in enumerate(zip(got, exact, strict=True)):
        if number in choices:
            assert value == true
        else:
            assert (value - true).abs().max() <= lost * scales[number]


@for_each_size
@for_each_backend(NAME)
def test_results_match_the_reference(backend: Backend, m: int, d: int) -> None:
    x = heavy(m, d)
    exact = reference.adaptive_student_score(x)
    assert_near(backend.adaptive_student_score(x), exact, 1e2 * rounding(x.dtype, m))


@for_each_size
@for_each_backend(NAME, "student_score", "adaptive_score")
def test_results_are_those_of_the_two_operators(backend: Backend, m: int, d: int) -> None:
    x = heavy(m, d)
    start, divergence, nu, weights = backend.student_score(x)
    both = *backend.adaptive_score(x, start, divergence), nu, weights
    assert_near(backend.adaptive_student_score(x), both, 1e2 * rounding(x.dtype, m))


def test_some_samples_start_from_the_student_score() -> None:
    results = [reference.adaptive_student_score(heavy(m, d)) for m, d in SIZES]
    assert {bool(r[9].isfinite()) for r in results} == {True, False}
    assert 2 in {int(r[2]) for r in results}


@for_each_dtype
@for_each_backend(NAME, "student_score", "adaptive_score")
def test_without_heavy_tails_the_results_are_those_without_a_start(
    backend: Backend, dtype: torch.dtype
) -> None:
    x = (normal(90, 3).sign() + normal(90, 3, seed=3) / 3).to(dtype)
    *results, nu, weights = backend.adaptive_student_score(x)
    assert nu.isinf() and (weights == 1).all()
    zeros = torch.zeros_like(x)
    start = () if backend.name == "cpu" else (zeros, zeros[:, 0])
    assert same_bits(tuple(results), backend.adaptive_score(x, *start))


@for_each_dtype
@for_each_backend(NAME)
def test_equal_samples_have_score_zero(backend: Backend, dtype: torch.dtype) -> None:
    scores, lam, base, risk, *_, nu, weights = backend.adaptive_student_score(
        torch.full((9, 3), 5.0, dtype=dtype)
    )
    assert (scores == 0).all() and lam.isinf() and base == 0 and risk == 0
    assert nu.isinf() and (weights == 1).all()


@pytest.mark.parametrize(("m", "d"), [(20, 21), (60, 61), (60, 90)])
@for_each_backend(NAME)
def test_wide_samples_with_a_strong_factor_are_accurate_in_float32(
    backend: Backend, m: int, d: int
) -> None:
    x = (normal(m, d) + 30 * normal(m, 1, seed=3) * normal(1, d, seed=4)).float()
    exact = reference.adaptive_student_score(x.double())[0]
    scores = backend.adaptive_student_score(x)[0].double()
    assert (scores - exact).norm() < 2e-4 * exact.norm()
