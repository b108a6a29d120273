"""Whitening with a ridge, in plain torch."""

import torch
from torch import Tensor

#: The ridges τ that are tried: log₁₀ of the smallest and of the largest, and their number.
RIDGE_GRID = (-4.0, 1.0, 26)


def weak_ridge(dimensions: Tensor, m: int) -> Tensor:
    """The fraction of τ with which the adaptive score whitens, from .1 to .2 at m = 4 dimensions.

    A smaller fraction shortens gradients of information less, and a larger fraction lowers the
    error of a score from few samples.
    """
    return 0.1 + 0.1 * (4 * dimensions.double() / m).clamp(max=1).square()


def ridge_whitening(x: Tensor, factor: float | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, W and τ of ``z = (x − mean) W``; see :func:`mige_ext.ops.ridge_whitening`."""
    m, d = x.shape[-2:]
    mean, inverse, v, values, vectors = standardized(x)
    dimensions, excluded = counted_dimensions(x, values)
    values = values.clamp(min=0)
    counts = torch.arange(d) >= d - dimensions.unsqueeze(-1)

    c1, c2 = m / (m - 1), m / (m - 1) ** 2
    grid = torch.linspace(*RIDGE_GRID, dtype=torch.float64)
    objective = []
    for tau in (10**grid).tolist():
        shrunk = torch.where(counts, 1 / (c1 * values + tau), 0.0)
        rotated = (v @ vectors).square()
        q = (rotated * shrunk.unsqueeze(-2)).sum(-1)
        q2 = (rotated * shrunk.square().unsqueeze(-2)).sum(-1)
        left = 1 - c2 * q
        each = c1**2 * q2 / left.square() / 2 - c2 * q2 / left
        objective.append((each.mean(-1) - shrunk.sum(-1)).double())
    fraction = weak_ridge(dimensions, m) if factor is None else factor
    tau = (fraction * 10 ** _parabola_minimum(grid, torch.stack(objective, -1))).to(x.dtype)
    scale = (values + tau.unsqueeze(-1)).rsqrt()
    scale = torch.where(torch.arange(d) < excluded.unsqueeze(-1), 0.0, scale)
    scaled = vectors * scale.unsqueeze(-2)
    return mean.squeeze(-2), inverse.mT * (scaled @ vectors.mT), tau


def standardized(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Mean, 1/σ, ``v = (x − mean)/σ``, and the eigenvalues and eigenvectors of vᵀv/M."""
    mean = x.mean(-2, keepdim=True)
    deviation = (x - mean).square().mean(-2, keepdim=True).sqrt()
    inverse = torch.where((x != x[..., :1, :]).any(-2, keepdim=True), 1 / deviation, 0.0)
    v = (x - mean) * inverse
    return mean, inverse, v, *torch.linalg.eigh(v.mT @ v / x.shape[-2])


def counted_dimensions(x: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """The number of dimensions that count, and the number of excluded directions, (...) each.

    ``values`` are the eigenvalues of the correlation matrix. With M − 1 >= 1.25 × (varying columns)
    the numerical rank of the matrix counts, and directions without variance are excluded. With
    fewer samples the rank only reflects M, so every varying column counts.
    """
    rank = (values > 8 * torch.finfo(x.dtype).eps * values[..., -1:]).sum(-1)
    varying = (x != x[..., :1, :]).any(-2).sum(-1)
    few = 4 * (x.shape[-2] - 1) < 5 * varying
    return torch.where(few, varying, rank), torch.where(few, 0, x.shape[-1] - rank)


def _parabola_minimum(grid: Tensor, values: Tensor) -> Tensor:
    """The minimum of the parabola through the smallest of ``values`` and its two neighbors."""
    at = values.argmin(-1)
    inner = at.clamp(1, len(grid) - 2)
    left, here, right = (values.gather(-1, (inner + k).unsqueeze(-1)) for k in (-1, 0, 1))
    curvature = left - 2 * here + right
    shift = torch.where(curvature > 0, (left - right) / (2 * curvature), 0.0).squeeze(-1)
    return torch.where(at == inner, grid[inner] + (grid[1] - grid[0]) * shift, grid[at])
