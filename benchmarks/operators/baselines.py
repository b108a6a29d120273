"""The baselines: the SSGE score and its operators in plain PyTorch.

``published`` is the score as public implementations compute it, with M×M×d arrays. ``eager`` and
``eager_pdist`` are the fastest versions in torch operations that we could write. Which of the two
is faster depends on the size, and the benchmarks report the faster time.

The functions in the second half are fast versions of the operators in ``mige_ext.ops``. They
compute distances by ``cdist``, by ``pdist``, or as ``‖x‖² + ‖y‖² − 2x·y``. The last form is fast,
but less accurate than the differences x − y of the operators.
"""

from functools import lru_cache

import torch
from torch import Tensor

from benchmarks.operators import solvers


def published(x: Tensor, threshold: float = 0.99) -> Tensor:
    """SSGE at the samples (M, d), step by step as in public implementations.

    Every step forms its own M×M×d array of differences x_i − x_j: the median, the Gram matrix, its
    gradients with respect to both arguments, and the Nyström eigenfunctions.
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
def _cached_pairs(m: int, device: torch.device) -> Tensor:
    i, j = torch.triu_indices(m, m, 1, device=device)
    return i * m + j


@torch.compiler.assume_constant_result  # because torch.compile ignores the cache
def _pairs(m: int, device: torch.device) -> Tensor:
    """Positions of the M(M−1)/2 pairs in a flattened M×M array."""
    return _cached_pairs(m, device)


def eager(x: Tensor, threshold: float = 0.99) -> Tensor:
    """SSGE at the samples (..., M, d), without an M×M×d array."""
    distances = torch.cdist(x, x)
    pairs = distances.flatten(-2)[..., _pairs(x.shape[-2], x.device)]
    return _filter(x, distances, _median(pairs), threshold)


def eager_pdist(x: Tensor, threshold: float = 0.99) -> Tensor:
    """SSGE at one group (M, d), with the pairs from ``pdist``."""
    return _filter(x, torch.cdist(x, x), _median(torch.pdist(x)), threshold)


# --- the operators --------------------------------------------------------------------------------


def squared_distances(x: Tensor) -> Tensor:
    """``‖x_i − x_j‖²`` from the expanded square, (..., M, d) -> (..., M, M)."""
    return _expanded(x, x)


def squared_distances_cdist(x: Tensor) -> Tensor:
    """Squared distances by ``cdist``, one kernel that also takes a square root."""
    return torch.cdist(x, x).square()


def distance_quantile(x: Tensor) -> Tensor:
    """The median of the pairwise distances: (..., M, d) -> (...)."""
    return _median(torch.cdist(x, x).flatten(-2)[..., _pairs(x.shape[-2], x.device)])


def distance_quantile_pdist(x: Tensor) -> Tensor:
    """The median for one group (M, d), with the pairs from ``pdist``."""
    return _median(torch.pdist(x))


def rbf_gram(x: Tensor, bandwidth: Tensor) -> Tensor:
    """``exp(−‖x_i − x_j‖² / 2σ²)``: (..., M, d), (...) -> (..., M, M)."""
    return _gaussian(_expanded(x, x), bandwidth)


def rbf_gram_cdist(x: Tensor, bandwidth: Tensor) -> Tensor:
    """The Gram matrix by ``cdist``."""
    return _gaussian(squared_distances_cdist(x), bandwidth)


def rbf_gradient_sum(x: Tensor, bandwidth: Tensor) -> Tensor:
    """``−(K X − diag(K1) X) / σ²``: (..., M, d), (...) -> (..., M, d)."""
    gram = rbf_gram(x, bandwidth)
    return (gram.sum(-1, keepdim=True) * x - gram @ x) / bandwidth[..., None, None].square()


def rbf_product(q: Tensor, x: Tensor, w: Tensor, bandwidth: Tensor) -> Tensor:
    """``k(q, X) W``: (..., Q, d), (..., M, d), (..., M, p), (...) -> (..., Q, p)."""
    return _gaussian(_expanded(q, x), bandwidth) @ w


def eigh(k: Tensor) -> tuple[Tensor, Tensor]:
    """``solvers.eigh``, which is ``torch.linalg.eigh`` or a library's routine."""
    return solvers.eigh(k)


def published_each(x: Tensor) -> list[Tensor]:
    """``published`` for one group after another."""
    return [published(group) for group in x.reshape(-1, *x.shape[-2:])]


def _expanded(x: Tensor, y: Tensor) -> Tensor:
    squares = x.square().sum(-1).unsqueeze(-1) + y.square().sum(-1).unsqueeze(-2)
    return (squares - 2 * (x @ y.mT)).clamp_min(0)


def _gaussian(squares: Tensor, bandwidth: Tensor) -> Tensor:
    return torch.exp(squares / (-2 * bandwidth[..., None, None].square()))


def _median(pairs: Tensor) -> Tensor:
    return pairs.kthvalue((pairs.shape[-1] + 1) // 2, dim=-1).values


def _filter(x: Tensor, distances: Tensor, sigma: Tensor, threshold: float) -> Tensor:
    m = x.shape[-2]
    variance = sigma[..., None, None].square()
    gram = torch.exp(-distances * distances / (2 * variance))
    h = -(gram @ x - gram.sum(-1, keepdim=True) * x) / variance
    values, vectors = solvers.eigh(gram)
    rank = (values.flip(-1).cumsum(-1) < threshold * m).sum(-1, keepdim=True) + 1
    # One group needs only the J leading columns. Under torch.compile all columns are used, because
    # a size that depends on values would split the graph.
    if x.dim() == 2 and not torch.compiler.is_compiling():
        j = int(rank)
        values, vectors = values[m - j :], vectors[:, m - j :]
        return -vectors @ ((vectors.mT @ h) / values.unsqueeze(-1))
    kept = torch.arange(m, device=x.device) >= m - rank
    inverse = torch.where(kept, 1 / values, 0.0)
    return -vectors @ ((vectors.mT @ h) * inverse.unsqueeze(-1))
