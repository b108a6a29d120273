"""The one definition of "accurate enough"."""

import torch
from torch import Tensor

from mige_ext import reference

FLOOR = 4  # rounding errors of one unit in the last place that any order of operations may make


def rounding(dtype: torch.dtype, terms: int = 1) -> float:
    """The relative error that rounding may leave in a sum of so many terms.

    ``FLOOR`` ε for the operations on a term, times √terms: errors of a sum add like a random walk.
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
    """The error of ``got`` is at most twice that of torch itself, plus rounding.

    Args:
        got: what is tested.
        eager: the same in plain torch, in the same dtype and on the same input.
        exact: the same in float64 from the same (rounded) input.
        terms: length of the sums behind an element.
        magnitude: size of the numbers that are added up; of the result itself if not given.
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
    """``−U_J Λ_J^{−p} U_Jᵀ H`` within what rounding errors of K may do to it.

    A perturbation of size ‖E‖ of K turns the space of the leading J eigenvectors by
    ‖E‖ / (λ_J − λ_{J+1}) (Davis and Kahan) and changes 1/λ_J by ‖E‖ / λ_J relatively. With ‖E‖ of
    the order of ε √M λ_1, that bounds the error by the norm of H / λ_J^p times the sum of the two.

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


def same_bits(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> bool:
    """Equal shapes, dtypes and values; -0.0 equals 0.0, NaN equals nothing."""
    return len(a) == len(b) and all(
        s.dtype == t.dtype and torch.equal(s, t) for s, t in zip(a, b, strict=True)
    )
