"""The non-Gaussian part of the information, from the risks of the adaptive score.

Let z be white (with covariance I), and let z_u be z plus Gaussian noise of variance ``e^u − 1``,
divided by ``e^{u/2}``. De Bruijn's identity gives the negentropy of z as an integral over noise
levels u,

    J(z) = ∫₀^∞ ½ (E‖∇ log q(z_u)‖² − d) du.

The risk of :func:`mige_ext.ops.adaptive_score`, times −1, estimates the integrand from below. A
part of z_u is Gaussian noise of variance ``1 − e^{−u}``, so the integrand is at most
``d / (2 (e^u − 1))``. Estimates above this bound are reduced to it. The information is
``I_Gauss + J(x, z) − J(x) − J(z)``.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mige_ext import ops
from mige_ext.values.gaussian import GaussianPart

#: The number of Gauss-Legendre nodes in √u, and the largest u. At u = 2.5 noise is 92 % of the
#: variance.
NODES, LARGEST = 6, 2.5
#: Scores are computed in float64 if the samples have at most this number of dimensions.
MOST_FLOAT64 = 3


@dataclass(frozen=True, eq=False)
class Negentropy:
    """An integral over the noise levels, with its terms at the samples."""

    value: Tensor  #: ()
    terms: Tensor  #: (M,), up to a constant
    departure: Tensor  #: score minus Gaussian score at each noise level, (nodes, M, d)
    divergence: Tensor  #: divergence of the departure, (nodes, M)

    @classmethod
    def zero(cls, noisy: Tensor) -> "Negentropy":
        """The negentropy 0 of a single column, which has been made normal by its ranks."""
        terms = noisy.new_zeros(noisy.shape[1], dtype=torch.float64)
        return cls(terms.sum(), terms, torch.zeros_like(noisy), noisy.new_zeros(noisy.shape[:-1]))


def interaction(
    part: GaussianPart, generator: torch.Generator
) -> tuple[Negentropy, Negentropy, Negentropy]:
    """J(x, z), J(x) and J(z) with the same noise.

    The score of the pair may start from the departures of x and of z.
    """
    noisy, u, weight = _noisy(torch.cat((part.x, part.z), 1), part.root, generator)
    blocks = (b.contiguous() for b in noisy.split([part.x.shape[1], part.z.shape[1]], -1))
    of_x, of_z = (
        _negentropy(block, u, weight) if block.shape[-1] > 1 else Negentropy.zero(block)
        for block in blocks
    )
    start = torch.cat((of_x.departure, of_z.departure), -1)
    return _negentropy(noisy, u, weight, start, of_x.divergence + of_z.divergence), of_x, of_z


def negentropy(z: Tensor, generator: torch.Generator) -> Negentropy:
    """J(z) of white samples, (M, d)."""
    root = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
    return _negentropy(*_noisy(z, root, generator))


def _noisy(z: Tensor, root: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Samples at all noise levels u, (nodes, M, d), u, and the weights of the integral, (nodes,).

    The noise has the covariance of z, whose Cholesky factor is ``root``.
    """
    roots, weights = np.polynomial.legendre.leggauss(NODES)
    v = torch.from_numpy(roots + 1) / 2 * LARGEST**0.5
    weight = torch.from_numpy(weights) * LARGEST**0.5 * v  # du = 2 v dv
    u = (v * v).to(z.device)
    of_level = u.reshape(-1, 1, 1)
    noise = torch.randn((NODES, *z.shape), generator=generator, dtype=torch.float64)
    noise = noise.to(z.device) @ root.mT
    noisy = _in_precision((z + of_level.expm1().sqrt() * noise) * (-of_level / 2).exp())
    return noisy, u, weight.to(z.device)


def _in_precision(noisy: Tensor) -> Tensor:
    """The samples, in float32 if they have more than :data:`MOST_FLOAT64` dimensions.

    In few dimensions the Gram matrix is nearly singular, and float32 is not accurate enough. (At
    M = 1000 and d = 2, the risk of a small λ is −8.8 in float32 and −2.6 in float64.)
    """
    return noisy.float() if noisy.shape[-1] > MOST_FLOAT64 else noisy


def _negentropy(
    noisy: Tensor,
    u: Tensor,
    weight: Tensor,
    start: Tensor | None = None,
    divergence: Tensor | None = None,
) -> Negentropy:
    if start is None:
        _, _, _, risk, _, _, _, departure, divergence, _, _ = ops.adaptive_student_score(noisy)
    else:
        _, _, _, risk, _, _, _, departure, divergence = ops.adaptive_score(noisy, start, divergence)
    # The risk is the mean of r = ½‖R‖² − z·R + div R in white coordinates, with R the departure.
    centered = noisy - noisy.mean(-2, keepdim=True)
    covariance = centered.mT @ centered / noisy.shape[-2]
    squares = ((departure @ covariance) * departure).sum(-1)
    risks = squares / 2 - (centered * departure).sum(-1) + divergence
    gains = -risk.double()
    largest = noisy.shape[-1] / (2 * u.expm1())
    weight = weight * torch.where(gains > largest, largest / gains, 1.0)
    terms = -(weight.unsqueeze(1) * risks.double()).sum(0)
    return Negentropy((weight * gains).sum(), terms, departure, divergence)
