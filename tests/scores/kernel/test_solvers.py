"""Shifted solves, by Cholesky and by conjugate gradients."""

from typing import Any

import pytest
import torch
from torch import Tensor

from mige_ext import IMQ, RBF, Tikhonov, _checks
from mige_ext.scores.kernel import solvers
from mige_ext.scores.kernel.gram import CurlFreeGram, DiagonalGram
from mige_ext.scores.kernel.solvers import (
    conjugate_gradient_steps,
    conjugate_gradients,
    solve_shifted,
)
from tests.scores.kernel.cases import D, M, for_each_kernel, relative, skewed
from tests.support.accuracy import rounding
from tests.support.inputs import for_each_dtype


@pytest.mark.parametrize("shift", [1e-1, 1e-3, 1e-5])
@for_each_kernel
@for_each_dtype
def test_conjugate_gradients_solve_as_accurately_as_they_say(
    dtype: torch.dtype, kernel: Any, shift: float
) -> None:
    x = torch.stack((skewed(dtype=dtype), 3 * skewed(dtype=dtype, seed=1)))
    gram = CurlFreeGram(kernel, torch.tensor([1.5, 4.0], dtype=dtype), x)
    rhs = gram.source()
    got = conjugate_gradients(gram, shift, rhs)
    eye = torch.eye(M * D, dtype=torch.float64)
    matrix = gram.dense().double() / M + shift * eye
    expected = torch.linalg.solve(matrix, rhs.double().flatten(1).unsqueeze(-1)).reshape(rhs.shape)
    bound = torch.finfo(dtype).eps ** 0.75 + rounding(dtype, M * D) / shift
    assert relative(got.double() - expected, expected) <= bound
    if dtype == torch.float64:
        assert bound < 1e-9


def test_a_group_that_is_solved_stays_while_another_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    easy, hard = torch.zeros(M, D, dtype=torch.float64), skewed()
    sigma = torch.ones(2, dtype=torch.float64)
    gram = CurlFreeGram(RBF(), sigma, torch.stack((easy, hard)))
    early = conjugate_gradients(gram, 1e-2, gram.source())
    # Where looking at values would stall, all steps are taken.
    monkeypatch.setattr(_checks, "can_read", lambda tensor: False)
    assert torch.equal(conjugate_gradients(gram, 1e-2, gram.source()), early)
    assert not early[0].any() and early.isfinite().all()


def test_steps_of_conjugate_gradients_grow_as_the_root_of_the_condition() -> None:
    few, many = (conjugate_gradient_steps(s, torch.float64) for s in (1e-2, 1e-4))
    assert 8 < many / few < 13  # 10, and the logarithm


def test_factorized_and_iterated_solutions_agree() -> None:
    x = skewed(24, 12)  # iterated for λ = 0.1, by a count of operations
    gram = CurlFreeGram(IMQ(), torch.tensor(5.0).double(), x)
    calls: list[int] = []

    class Counted(CurlFreeGram):
        def dense(self) -> Tensor:
            calls.append(1)
            return super().dense()

    counted = Counted(IMQ(), torch.tensor(5.0).double(), x)
    for shift, dense in ((0.5, 0), (1e-4, 1)):
        calls.clear()
        got = solve_shifted(counted, shift, gram.source())
        assert len(calls) == dense
        expected = conjugate_gradients(gram, shift, gram.source())
        assert relative(got - expected, expected) <= 2 * torch.finfo(x.dtype).eps ** 0.75


@pytest.fixture
def _small_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than 16 rows are factorized by blocks, of which the last is smaller."""
    for name, value in (("LARGEST_CALL", 16), ("_BLOCK", 7), ("_ROWS", 10)):
        monkeypatch.setattr(solvers, name, value)


@for_each_kernel
@for_each_dtype
def test_a_factorization_by_blocks_is_as_accurate_as_one_call(
    dtype: torch.dtype, kernel: Any, request: pytest.FixtureRequest
) -> None:
    x = torch.stack((skewed(dtype=dtype), 3 * skewed(dtype=dtype, seed=1)))
    gram = DiagonalGram(kernel, torch.tensor([1.5, 4.0], dtype=dtype), x)
    rhs, shift = gram.source(), 1e-3
    matrix = gram.dense().double() / M + shift * torch.eye(M, dtype=torch.float64)
    expected = torch.linalg.solve(matrix, rhs.double())
    once = solve_shifted(gram, shift, rhs)
    request.getfixturevalue("_small_calls")
    assert solvers.LARGEST_CALL < M
    assert M % solvers._BLOCK and M > solvers._ROWS  # a small last block, several products
    blocks = solve_shifted(gram, shift, rhs)
    assert blocks.shape == rhs.shape
    lost = relative(once.double() - expected, expected)
    bound = 2 * lost + rounding(dtype, M)
    assert relative(blocks.double() - expected, expected) <= bound


def test_groups_are_factorized_in_several_calls_to_the_same_bits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gram = DiagonalGram(RBF(), torch.ones(2, 3).double(), torch.randn(2, 3, M, D).double())
    once = solve_shifted(gram, 1e-3, gram.source())
    monkeypatch.setattr(solvers, "LARGEST_CALL", M)  # one group in a call
    calls = []
    solve = solvers._solve

    def counted(a: Tensor, rhs: Tensor, shift: float) -> Tensor:
        calls.append(len(a))
        return solve(a, rhs, shift)

    monkeypatch.setattr(solvers, "_solve", counted)
    assert torch.equal(solve_shifted(gram, 1e-3, gram.source()), once)
    assert calls == [1] * 6


@pytest.mark.usefixtures("_small_calls")
def test_a_batch_without_groups_is_not_factorized() -> None:
    x = torch.empty(0, M, D)
    assert Tikhonov().score(x).shape == x.shape


@pytest.mark.usefixtures("_small_calls")
def test_blocks_refuse_a_lambda_below_rounding_too() -> None:
    x = torch.cat((skewed(dtype=torch.float32),) * 4)
    with pytest.raises(ValueError, match=r"^lam .* must exceed .*float32, got 1e-12"):
        Tikhonov(lam=1e-12, bandwidth=1e3).score(x)


def test_a_lambda_below_rounding_is_refused_with_its_value() -> None:
    x = torch.cat((skewed(dtype=torch.float32),) * 4)
    with pytest.raises(ValueError, match=r"^lam .* must exceed .*float32, got 1e-12"):
        Tikhonov(lam=1e-12, bandwidth=1e3).score(x)
