"""Squared distances, Gram matrices, and the spectral score in plain torch."""

import math

import torch
from torch import Tensor


def squared_distances(x: Tensor, y: Tensor | None = None) -> Tensor:
    """``‖x_i − y_j‖²``: (..., M, d), (..., N, d) -> (..., M, N)."""
    y = x if y is None else y
    return (x.unsqueeze(-2) - y.unsqueeze(-3)).square().sum(-1)


def distance_quantile(x: Tensor, quantile: float = 0.5) -> Tensor:
    """The distance of rank ``ceil(quantile · n)`` among the n pairs, (..., M, d) -> (...).

    If this distance is 0, the result is the quantile over the pairs at a positive distance.
    """
    m = x.shape[-2]
    i, j = torch.triu_indices(m, m, 1)
    pairs = (x[..., i, :] - x[..., j, :]).square().sum(-1).sqrt().sort(-1).values

    def of_group(sorted_pairs: Tensor) -> Tensor:
        value = sorted_pairs[max(math.ceil(quantile * len(sorted_pairs)) - 1, 0)]
        positive = sorted_pairs[sorted_pairs > 0]
        if value > 0 or len(positive) == 0:
            return value
        return positive[max(math.ceil(quantile * len(positive)) - 1, 0)]

    groups = [of_group(row) for row in pairs.reshape(-1, pairs.shape[-1])]
    return torch.stack(groups).reshape(x.shape[:-2]) if groups else x.new_empty(x.shape[:-2])


def rbf_gram(x: Tensor, y: Tensor | None = None, *, bandwidth: Tensor) -> Tensor:
    """``exp(−‖x_i − y_j‖² / 2σ²)``: (..., M, d), (..., N, d) -> (..., M, N)."""
    return torch.exp(-squared_distances(x, y) / (2 * bandwidth[..., None, None] ** 2))


def rbf_gradient_sum(x: Tensor, *, bandwidth: Tensor) -> Tensor:
    """``H_j = Σ_i ∇_{x_i} k(x_i, x_j)``, summed in an M×M×d array: (..., M, d) -> (..., M, d)."""
    gram = rbf_gram(x, bandwidth=bandwidth)
    differences = x.unsqueeze(-2) - x.unsqueeze(-3)  # [..., i, j, :] = x_i − x_j
    gradients = -gram.unsqueeze(-1) * differences / bandwidth[..., None, None, None] ** 2
    return gradients.sum(-3)


def rbf_product(q: Tensor, x: Tensor, w: Tensor, *, bandwidth: Tensor) -> Tensor:
    """``k(q, X) W``: (..., Q, d), (..., M, d), (..., M, p) -> (..., Q, p)."""
    return rbf_gram(q, x, bandwidth=bandwidth) @ w


def eigh(k: Tensor) -> tuple[Tensor, Tensor]:
    """λ and U of ``K = U diag(λ) Uᵀ``, λ ascending: (..., M, M) -> (..., M), (..., M, M)."""
    return torch.linalg.eigh(k)


def ssge(
    x: Tensor,
    bandwidth: Tensor | None = None,
    *,
    quantile: float = 0.5,
    multiplier: float = 1.0,
    threshold: float = 0.99,
    rank: int | None = None,
    power: int = 1,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``−U_J Λ_J^{−power} U_Jᵀ H``, λ, σ and J; see :func:`mige_ext.ops.ssge`."""
    if bandwidth is None:
        bandwidth = multiplier * distance_quantile(x, quantile)
    m = x.shape[-2]
    values, vectors = eigh(rbf_gram(x, bandwidth=bandwidth))
    descending = values.flip(-1)
    if rank is None:
        j = (descending.cumsum(-1) < threshold * m).sum(-1) + 1
    else:
        j = torch.full(x.shape[:-2], rank)
    noise = min(m, 64) * torch.finfo(x.dtype).eps * descending[..., :1]
    numerical_rank = (descending > noise).sum(-1)
    j = torch.minimum(j, numerical_rank)

    kept = torch.arange(m) >= m - j.unsqueeze(-1)  # the last J of the ascending eigenvalues
    inverse = torch.where(kept, values, torch.inf) ** -power
    projected = vectors.mT @ rbf_gradient_sum(x, bandwidth=bandwidth)
    return -vectors @ (inverse.unsqueeze(-1) * projected), values, bandwidth, j
