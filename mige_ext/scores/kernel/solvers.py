"""Solvers of ``L g = ζ`` with L = K/M: a solve with L + λI, and iterations that start at g = 0.

K is the Gram matrix of the M samples (``gram.py``), and the score is −g (``spectral.py``). No
solver waits for a CUDA device.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from mige_ext import _checks
from mige_ext._precision import per_group
from mige_ext.scores.kernel.gram import DiagonalGram, Gram

LARGEST_DENSE = 4096  # largest number of rows of a curl-free K to factorize: 128 MiB in float64
LARGEST_CALL = 4096  # largest number of rows that one call of LAPACK factorizes, in about a second
_BLOCK = 512  # columns of a block of a larger matrix
_ROWS = 2048  # rows of one product of the factorization by blocks


def solve_shifted(gram: Gram, shift: float, rhs: Tensor) -> Tensor:
    """``(K/M + shift I)^{−1} rhs`` with a positive shift.

    The solver is Cholesky's factorization, with a relative error of about ε / shift. For a
    curl-free K, the solver is :func:`conjugate_gradients` if this takes fewer operations, or if K
    has more than ``LARGEST_DENSE`` rows. If the shift is below the rounding errors of K/M, K/M +
    shift I may be indefinite. Cholesky's factorization then raises ValueError on the CPU, and gives
    NaN for this group on CUDA.
    """
    m, d = rhs.shape[-2:]
    if isinstance(gram, DiagonalGram):
        return _cholesky(gram.dense() / m, shift, rhs)
    dense = (m * d) ** 3 / 3
    iterated = conjugate_gradient_steps(shift, rhs.dtype) * 6 * m**2 * d
    if dense > iterated or m * d > LARGEST_DENSE:
        return conjugate_gradients(gram, shift, rhs)
    return _cholesky(gram.dense() / m, shift, rhs.flatten(-2).unsqueeze(-1)).reshape(rhs.shape)


def _cholesky(matrix: Tensor, shift: float, rhs: Tensor) -> Tensor:
    matrix.diagonal(dim1=-2, dim2=-1).add_(shift)
    if not _checks.can_read(matrix):
        # torch.linalg.cholesky would wait for the device, to check for errors.
        factor, info = torch.linalg.cholesky_ex(matrix)
        return torch.where(per_group(info) == 0, torch.cholesky_solve(rhs, factor), torch.nan)
    # Python looks for Ctrl-C between the calls of torch, so no call may take long.
    m, d = rhs.shape[-2:]
    solve = _solve if m <= LARGEST_CALL or not matrix.numel() else _solve_in_blocks
    groups = max(1, LARGEST_CALL**3 // m**3)
    parts = zip(
        matrix.reshape(-1, m, m).split(groups), rhs.reshape(-1, m, d).split(groups), strict=True
    )
    return torch.cat([solve(a, b, shift) for a, b in parts]).reshape(rhs.shape)


def _solve(a: Tensor, rhs: Tensor, shift: float) -> Tensor:
    factor, info = torch.linalg.cholesky_ex(a)
    if info.any():
        raise _indefinite(a, shift)
    return torch.cholesky_solve(rhs, factor)


def _indefinite(matrix: Tensor, shift: float) -> ValueError:
    return ValueError(
        "lam (for Stein, eta / M) must exceed the rounding errors of the kernel matrix in "
        f"{matrix.dtype}, got {shift:g}"
    )


def _solve_in_blocks(a: Tensor, rhs: Tensor, shift: float) -> Tensor:
    """``a^{−1} rhs`` for one matrix, (1, M, M), whose lower triangle becomes Cholesky's factor."""
    a, m = a[0], a.shape[-1]
    blocks = [slice(k, min(k + _BLOCK, m)) for k in range(0, m, _BLOCK)]
    for block in blocks:
        done, below = a[block, : block.start], slice(block.stop, m)
        for i in range(block.start, m, _ROWS):
            a[i : i + _ROWS, block] -= a[i : i + _ROWS, : block.start] @ done.mT
        factor, info = torch.linalg.cholesky_ex(a[block, block])
        if info:
            raise _indefinite(a, shift)
        a[block, block] = factor
        a[below, block] = torch.linalg.solve_triangular(
            factor.mT, a[below, block], upper=True, left=False
        )
    x = rhs[0].clone()
    for block in blocks:
        rest = x[block] - a[block, : block.start] @ x[: block.start]
        x[block] = torch.linalg.solve_triangular(a[block, block], rest, upper=False)
    for block in reversed(blocks):
        rest = x[block] - a[block.stop :, block].mT @ x[block.stop :]
        x[block] = torch.linalg.solve_triangular(a[block, block].mT, rest, upper=True)
    return x.unsqueeze(0)


def conjugate_gradient_steps(shift: float, dtype: torch.dtype) -> int:
    """Number t of steps of :func:`conjugate_gradients`.

    ``‖residual‖ <= 2√κ ((√κ − 1)/(√κ + 1))^t ‖rhs‖`` for the condition number κ of K/M + shift I,
    and κ <= 1 + 1/shift, because ‖K‖ <= M.
    """
    root = math.sqrt(1 + 1 / shift)
    return math.ceil(root / 2 * math.log(2 * root / _residual(shift, dtype)))


def _residual(shift: float, dtype: torch.dtype) -> float:
    """The relative residual for which the solution has the relative error ε^{3/4}."""
    return float(torch.finfo(dtype).eps) ** 0.75 * shift / (1 + shift)


def conjugate_gradients(gram: Gram, shift: float, rhs: Tensor) -> Tensor:
    """``(K/M + shift I)^{−1} rhs`` by products with K alone (Hestenes and Stiefel 1952).

    The relative error of each group is about max(ε^{3/4}, ε / shift), where ε^{3/4} is 2e-12 in
    float64 and 6e-6 in float32. The iteration stops when all groups have reached this accuracy. On
    other devices than the CPU it takes all :func:`conjugate_gradient_steps`, because reading the
    residual would stall the device.
    """
    m = rhs.shape[-2]
    solution, residual, direction = torch.zeros_like(rhs), rhs, rhs
    square = _dot(rhs, rhs)
    enough = square * _residual(shift, rhs.dtype) ** 2
    readable = _checks.can_read(rhs)
    for _ in range(conjugate_gradient_steps(shift, rhs.dtype)):
        done = square <= enough
        if readable and bool(done.all()):
            break
        image = gram.product(direction) / m + shift * direction
        step = torch.where(done, 0.0, square / _dot(direction, image))
        solution = solution + step * direction
        residual = residual - step * image
        last, square = square, torch.where(done, square, _dot(residual, residual))
        direction = residual + torch.where(done, 0.0, square / last) * direction
    return solution


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum((-2, -1), keepdim=True)


def iterate(
    gram: Gram, source: Tensor, steps: Iterable[tuple[float, float]]
) -> tuple[Tensor, Tensor, float]:
    """``g_t = g_{t−1} + u_t (g_{t−1} − g_{t−2}) + ω_t (ζ − L g_{t−1})`` from ``g_0 = g_{−1} = 0``.

    At any point q, ``g_t(q) = a_t ζ(q) + K(q, X) c_t`` with a number a_t and coefficients c_t.
    Since ``(L g)(q) = K(q, X) g(X)/M``, a step adds ω to a, and −ω g(X)/M to c.

    Args:
        gram: K, the Gram matrix of the samples.
        source: ζ at the samples, (..., M, d).
        steps: (u, ω) of each step.

    Returns:
        g at the samples, (..., M, d); c, (..., M, d); a.
    """
    m = source.shape[-2]
    g = c = torch.zeros_like(source)
    dg, dc, a, da = g, c, 0.0, 0.0
    for u, omega in steps:
        dc = u * dc - (omega / m) * g
        dg = u * dg + omega * (source - gram.product(g) / m)
        da = u * da + omega
        g, c, a = g + dg, c + dc, a + da
    return g, c, a
