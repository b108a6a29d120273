"""The tolerances of all tests of accuracy."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mige_ext import reference
from mige_ext.reference import imq
from tests.support.inputs import normal

FLOOR = 4  # rounding errors, in units of the last place, of the operations on one term


def rounding(dtype: torch.dtype, terms: int = 1) -> float:
    """The relative rounding error that is allowed in a sum of this many terms, ``FLOOR`` ε √terms.

    The factor √terms is there because the errors of a sum add like a random walk.
    """
    return FLOOR * torch.finfo(dtype).eps * float(max(terms, 1)) ** 0.5


def assert_accurate(
    got: Tensor,
    eager: Tensor,
    exact: Tensor,
    *,
    terms: int = 1,
    magnitude: Tensor | None = None,
) -> None:
    """Assert that the error of ``got`` is at most twice the error of torch, plus rounding.

    Args:
        got: the result under test.
        eager: the result of plain torch, in the same dtype and on the same input.
        exact: the result in float64 from the same (rounded) input.
        terms: number of terms in the sums that give an element.
        magnitude: the terms of the sums, if they may be larger than ``exact``.
    """
    assert got.dtype == eager.dtype
    assert got.shape == eager.shape == exact.shape
    if got.numel() == 0:
        return
    error = (got.double() - exact).abs().max().item()
    loss = (eager.double() - exact).abs().max().item()
    size = (exact if magnitude is None else magnitude).abs().max().item()
    assert error <= 2 * loss + rounding(got.dtype, terms) * size, (error, loss, size)


def assert_ssge_accurate(got: Tensor, x: Tensor, sigma: Tensor, rank: int, power: int) -> None:
    """Assert that ``−U_J Λ_J^{−p} U_Jᵀ H`` is within the error that rounding errors of K cause.

    A perturbation of size ‖E‖ of K rotates the space of the leading J eigenvectors by
    ‖E‖ / (λ_J − λ_{J+1}) (Davis and Kahan) and changes 1/λ_J by ‖E‖ / λ_J relatively. With ‖E‖ of
    the order of ε √M λ_1, the error is at most the norm of H / λ_J^p times the sum of both terms.

    Args:
        got: (M, d), of x (M, d) and the bandwidth sigma, in any dtype.
        x: samples, in the dtype of the operator.
        sigma: the bandwidth that the operator used.
        rank: J that the operator used.
        power: p.
    """
    m = x.shape[0]
    exact, values, _, j = reference.ssge(x.double(), sigma.double(), rank=rank, power=power)
    assert j == rank, (j, rank)
    smallest = values[m - rank]
    gap = smallest - values[m - rank - 1] if rank < m else smallest
    h = reference.rbf_gradient_sum(x.double(), bandwidth=sigma.double()).norm()
    turned = values[-1] / gap + power * values[-1] / smallest
    bound = rounding(x.dtype, m) * turned * h / smallest**power
    assert (got.double() - exact).norm() <= bound


def assert_eigenpairs_rounded(
    k: Tensor, values: Tensor, vectors: Tensor, *, close: bool = False
) -> None:
    """Assert that the errors of float32 eigenpairs are little larger than the rounding of results.

    The rounding of U to float32 changes an element of UᵀU by at most ε = 1.2e-7, and the rounding
    of an eigenvalue is at most ε/2. Close eigenvalues may also have an error of up to the norm of
    the residual KU − UΛ (Weyl's theorem).

    Args:
        k: symmetric matrix (n, n).
        values: eigenvalues (n), ascending.
        vectors: eigenvectors (n, n), one per column.
        close: whether there are eigenvalues that are closer to each other than the residual.
    """
    assert k.dtype == values.dtype == vectors.dtype == torch.float32
    k, values, u = k.double(), values.double(), vectors.double()
    exact = torch.linalg.eigvalsh(k)
    norm = exact.abs().max()
    residual = torch.linalg.matrix_norm(k @ u - u * values, 2)
    overlap = (u.mT @ u - torch.eye(len(k))).abs().max()
    error = (values - exact).abs().max()
    assert overlap <= 2e-7, overlap
    assert residual <= 2 * rounding(torch.float32, len(k)) * norm, (residual, norm)
    assert error <= 1e-7 * norm + (residual if close else 0), (error, residual, norm)


def same_bits(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> bool:
    """Whether shapes, dtypes and values are equal. -0.0 equals 0.0, and NaN equals nothing."""
    return len(a) == len(b) and all(
        s.dtype == t.dtype and torch.equal(s, t) for s, t in zip(a, b, strict=True)
    )


def assert_accurate_for_its_condition(
    got: tuple[Tensor, ...], f: Callable[[Tensor], tuple[Tensor, ...]], x: Tensor
) -> None:
    """Assert that the error is at most twice the change by another rounding of samples and K."""
    for value, exact, change in zip(got, f(x.double()), _change(f, x), strict=True):
        if exact.isinf().any():
            assert torch.equal(value.double(), exact)
            continue
        floor = rounding(x.dtype, x.numel()) * float(exact.abs().max())
        error = float((value.double() - exact).abs().max())
        assert error <= 2 * change + floor, (error, change, floor)


def _change(f: Callable[[Tensor], tuple[Tensor, ...]], x: Tensor) -> list[float]:
    """The change of the results when the samples and the kernel are rounded differently.

    A sample and its offset from other samples are known to ε in the dtype of x. An entry of a
    kernel matrix is known to a few ε, and a sum over the samples to √M times this error. No
    algorithm can be more accurate.
    """
    exact = f(x.double())
    size = x.double().abs().amax(-2, keepdim=True)
    most = [0.0] * len(exact)

    for seed in range(3):

        def rounded_imq(s: Tensor, sigma: Tensor, seed: int = seed) -> tuple[Tensor, ...]:
            noise = 1 + rounding(x.dtype) * normal(*s.shape, seed=seed + 3)
            return tuple(part * noise for part in imq(s, sigma))

        noise = rounding(x.dtype, x.shape[-2]) * size * normal(*x.shape, seed=seed)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(reference.adaptive, "imq", rounded_imq)
            moved = f(x.double() + noise)
        for i, (there, here) in enumerate(zip(moved, exact, strict=True)):
            if not there.isinf().any():
                most[i] = max(most[i], float((there - here).abs().max()))
    return most
