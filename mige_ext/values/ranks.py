"""Ranks and quantiles of the samples. Ranks keep the information and remove heavy tails."""

import math
from functools import lru_cache

import torch
from torch import Tensor

#: Number of angles in the grid on which :func:`student_quantile` integrates.
_ANGLES = 8193


def ranked(x: Tensor, generator: torch.Generator) -> Tensor:
    """Uniform scores ``(rank − 1/2) / M`` of every column, (M, d) -> (M, d), float64.

    Equal values get their ranks in random order. The random order is independent of every other
    variable, so the mutual information does not change.
    """
    m = x.shape[0]
    noise = torch.rand(x.shape, generator=generator, dtype=torch.float64).to(x.device)
    first = noise.argsort(0)
    order = first.gather(0, x.gather(0, first).argsort(dim=0, stable=True))
    scores = (torch.arange(m, dtype=torch.float64, device=x.device) + 0.5) / m
    return torch.empty_like(noise).scatter_(0, order, scores.unsqueeze(1).expand(x.shape))


def student_quantile(u: Tensor, nu: float) -> Tensor:
    """Quantiles of Student's t distribution, which for an infinite ν is the normal distribution.

    With ``t = √ν tan θ`` the density is proportional to ``cos^{ν−1} θ``, which the trapezoidal rule
    integrates. The grid is denser at the ends, where quantiles change fast.
    """
    if math.isinf(nu):
        return torch.special.ndtri(u)
    angles, distribution = (table.to(u.device) for table in _distribution(nu))
    right = torch.searchsorted(distribution, u.contiguous()).clamp(1, _ANGLES - 1)
    low, high = distribution[right - 1], distribution[right]
    fraction = (u - low) / (high - low)
    return nu**0.5 * torch.tan(torch.lerp(angles[right - 1], angles[right], fraction))


@lru_cache(maxsize=32)
def _distribution(nu: float) -> tuple[Tensor, Tensor]:
    """The grid of angles θ, and the distribution function of θ on the grid."""
    even = torch.linspace(-math.pi / 2, math.pi / 2, _ANGLES, dtype=torch.float64)
    angles = math.pi / 2 * even.sin()
    density = angles.cos().clamp(min=0) ** (nu - 1)
    cumulated = torch.cumulative_trapezoid(density, angles)
    cumulated = torch.cat((cumulated.new_zeros(1), cumulated))
    return angles, cumulated / cumulated[-1].clone()
