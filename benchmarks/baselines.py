"""What the estimators are measured against: the same SSGE score in plain PyTorch.

``published`` is the algorithm as public implementations have it, with arrays of M×M×d. ``eager``
and ``eager_pdist`` are the best that we could write with torch operations: no M×M×d, one selection
for the median, ``torch.linalg.eigh``. They differ in how the median gets its pairs; which one is
faster depends on the size, and benchmarks take the better.
"""

from functools import lru_cache

import torch
from torch import Tensor


def published(x: Tensor, threshold: float = 0.99) -> Tensor:
    """SSGE at the samples (M, d), step by step as public implementations evaluate it.

    Every step forms the differences x_i − x_j that it needs, an array of M×M×d: the median, the
    Gram matrix, its gradients in both arguments, and once more the Gram matrix for the Nyström
    eigenfunctions at the samples.
    """
    m = x.shape[0]
    row, column = x.unsqueeze(1), x.unsqueeze(0)
    distances = ((row - column) * (row - column)).sum(-1).sqrt()
    sigma = distances.flatten().topk(m * m // 2).values[-1]

    def kernel() -> Tensor:
        return torch.exp(-((row - column) * (row - column)).sum(-1) / (2 * sigma * sigma))

    gram = kernel()
    scaled = (row - column) / sigma**2
    gradient_row, _gradient_column = gram.unsqueeze(-1) * -scaled, gram.unsqueeze(-1) * scaled
    values, vectors = torch.linalg.eigh(gram)
    spectrum = values.flip(-1) / values.sum()
    rank = int((spectrum.cumsum(0) < threshold).sum()) + 1
    values, vectors = values[m - rank :], vectors[:, m - rank :]
    eigenfunctions = m**0.5 * (kernel() @ vectors) / values
    coefficients = -(m**0.5) * (vectors.mT @ gradient_row.mean(0)) / values.unsqueeze(-1)
    return eigenfunctions @ coefficients


@lru_cache(maxsize=8)
def _pairs(m: int) -> Tensor:
    """Where the M(M−1)/2 pairs lie in a flattened M×M array."""
    i, j = torch.triu_indices(m, m, 1)
    return i * m + j


def eager(x: Tensor, threshold: float = 0.99) -> Tensor:
    """SSGE at the samples (..., M, d) without M×M×d."""
    distances = torch.cdist(x, x)
    pairs = distances.flatten(-2)[..., _pairs(x.shape[-2])]
    return _filter(x, distances, _median(pairs), threshold)


def eager_pdist(x: Tensor, threshold: float = 0.99) -> Tensor:
    """The same for one group (M, d), with the pairs from ``pdist``."""
    return _filter(x, torch.cdist(x, x), _median(torch.pdist(x)), threshold)


def _median(pairs: Tensor) -> Tensor:
    return pairs.kthvalue((pairs.shape[-1] + 1) // 2, dim=-1).values


def _filter(x: Tensor, distances: Tensor, sigma: Tensor, threshold: float) -> Tensor:
    m = x.shape[-2]
    variance = sigma[..., None, None].square()
    gram = torch.exp(-distances * distances / (2 * variance))
    h = -(gram @ x - gram.sum(-1, keepdim=True) * x) / variance
    values, vectors = torch.linalg.eigh(gram)
    rank = (values.flip(-1).cumsum(-1) < threshold * m).sum(-1, keepdim=True) + 1
    if x.dim() == 2:  # one group: the small products only
        j = int(rank)
        values, vectors = values[m - j :], vectors[:, m - j :]
        return -vectors @ ((vectors.mT @ h) / values.unsqueeze(-1))
    kept = torch.arange(m) >= m - rank
    inverse = torch.where(kept, 1 / values, 0.0)
    return -vectors @ ((vectors.mT @ h) * inverse.unsqueeze(-1))
