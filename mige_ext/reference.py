"""The oracle: the operators of ``ops.py`` in plain torch, formula first, in any dtype.

Tests compare against these in float64. They build K and, where the formula has one, every
intermediate as it is written in the paper; nothing here is fast, and nothing here is used to train.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor


def squared_distances(x: Tensor, y: Tensor | None = None) -> Tensor:
    """``‖x_i − y_j‖²``: (..., M, d), (..., N, d) -> (..., M, N)."""
    y = x if y is None else y
    return (x.unsqueeze(-2) - y.unsqueeze(-3)).square().sum(-1)


def distance_quantile(x: Tensor, quantile: float = 0.5) -> Tensor:
    """The distance of rank ``ceil(quantile · n)`` among the n pairs, positive ones if it is 0."""
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
    """``exp(−‖x_i − y_j‖² / 2σ²)``: (..., M, N)."""
    return torch.exp(-squared_distances(x, y) / (2 * bandwidth[..., None, None] ** 2))


def rbf_gradient_sum(x: Tensor, *, bandwidth: Tensor) -> Tensor:
    """``H_j = Σ_i ∇_{x_i} k(x_i, x_j)``, as it is written: an array of M×M×d, summed over i."""
    gram = rbf_gram(x, bandwidth=bandwidth)
    differences = x.unsqueeze(-2) - x.unsqueeze(-3)  # [..., i, j, :] = x_i − x_j
    gradients = -gram.unsqueeze(-1) * differences / bandwidth[..., None, None, None] ** 2
    return gradients.sum(-3)


def rbf_product(q: Tensor, x: Tensor, w: Tensor, *, bandwidth: Tensor) -> Tensor:
    """``k(q, X) W``: (..., Q, p)."""
    return rbf_gram(q, x, bandwidth=bandwidth) @ w


def eigh(k: Tensor) -> tuple[Tensor, Tensor]:
    """``K = U diag(λ) Uᵀ``, λ ascending."""
    values, vectors = torch.linalg.eigh(k)
    return values, vectors


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
    numerical_rank = (descending > m * torch.finfo(x.dtype).eps * descending[..., :1]).sum(-1)
    j = torch.minimum(j, numerical_rank)

    kept = torch.arange(m) >= m - j.unsqueeze(-1)  # the last J of the ascending eigenvalues
    inverse = torch.where(kept, values, torch.inf) ** -power
    projected = vectors.mT @ rbf_gradient_sum(x, bandwidth=bandwidth)
    return -vectors @ (inverse.unsqueeze(-1) * projected), values, bandwidth, j


# --- spectral filters -----------------------------------------------------------------------------
#
# For one group of samples, with the matrices as the formulas have them: (Md)² for either kernel.


def phi(kernel: str, s: Tensor, bandwidth: Tensor, order: int = 0) -> Tensor:
    """φ or its derivative in s, by autograd: φ = exp(−s/2σ²) for "RBF", (1 + s/σ²)^(−1/2)."""
    s = s.detach().requires_grad_()
    with torch.enable_grad():
        u = s / bandwidth**2
        value = torch.exp(-u / 2) if kernel == "RBF" else (1 + u) ** -0.5
        for _ in range(order):
            (value,) = torch.autograd.grad(value.sum(), s, create_graph=True)
    return value.detach()


def matrix_kernel(
    kernel: str, curl_free: bool, q: Tensor, x: Tensor, bandwidth: Tensor
) -> tuple[Tensor, Tensor]:
    """K(q, x) with values in R^{d×d}, I at r = 0, and its divergence in x.

    ``φ I`` and ``∇_x φ = −2φ'r``; ``c(−2φ'I − 4φ''r rᵀ)`` and ``c(4(d + 2)φ'' + 8sφ''') r``;
    with r = q − x and c = σ².

    Args:
        kernel: "RBF" or "IMQ".
        curl_free: which of the two.
        q: (Q, d).
        x: (M, d).
        bandwidth: σ, a scalar.

    Returns:
        (Q, M, d, d) and (Q, M, d).
    """
    d = x.shape[-1]
    r = q.unsqueeze(1) - x.unsqueeze(0)
    s = r.square().sum(-1)
    f = [phi(kernel, s, bandwidth, order)[..., None] for order in range(4)]
    eye = torch.eye(d, dtype=x.dtype)
    if not curl_free:
        return f[0].unsqueeze(-1) * eye, -2 * f[1] * r
    outer = r.unsqueeze(-1) * r.unsqueeze(-2)
    k = -2 * f[1].unsqueeze(-1) * eye - 4 * f[2].unsqueeze(-1) * outer
    divergence = (4 * (d + 2) * f[2] + 8 * s.unsqueeze(-1) * f[3]) * r
    return bandwidth**2 * k, bandwidth**2 * divergence


def landweber_filter(mu: Tensor, steps: int, step_size: float) -> Tensor:
    """``(1 − (1 − αμ)^t)/μ`` as the sum ``Σ_{k<t} α(1 − αμ)^k``."""
    powers = [step_size * (1 - step_size * mu) ** k for k in range(steps)]
    return torch.stack(powers).sum(0)


def nu_filter(mu: Tensor, steps: int, nu: float) -> Tensor:
    """``(1 − r_t(μ))/μ``, ``r_t(μ) = P_t(1 − 2μ)/P_t(1)``, P_t Jacobi's for 2ν − 1/2 and −1/2.

    ``r_t(μ) = Σ_k (−t)_k (t + 2ν)_k / (2ν + 1/2)_k k! μ^k``, which cancels: for few steps only.
    """
    coefficient, total = 1.0, torch.zeros_like(mu)
    for k in range(steps):
        coefficient *= (k - steps) * (steps + 2 * nu + k) / ((2 * nu + 0.5 + k) * (k + 1))
        total = total - coefficient * mu**k
    return total


def filtered(
    spectral_filter: Callable[[Tensor], Tensor],
    x: Tensor,
    q: Tensor | None = None,
    *,
    kernel: str,
    curl_free: bool,
    bandwidth: Tensor,
    cut_off: bool = False,
) -> Tensor:
    """``g = −g_λ(L) ζ`` at the samples, or, by the eigenfunctions of L, elsewhere.

    A filter acts on ``ζ = Σ_j c_j ψ_j`` plus a part in the null space of L, where it is g_λ(0). At
    a query that part is ``ζ(q) − Σ_j c_j ψ_j(q)``, with ``ψ_j(q) = K(q, X) u_j / Mμ_j``.

    Args:
        spectral_filter: μ -> g_λ(μ), eigenvalues (n,) ascending, at least 0.
        x: samples, (M, d).
        q: query points, (Q, d).
        kernel: "RBF" or "IMQ".
        curl_free: whether K is the curl-free kernel.
        bandwidth: σ, a scalar.
        cut_off: whether g_λ(0) is 0, as for SSGE.

    Returns:
        (M, d) or (Q, d).
    """
    m, d = x.shape

    def matrix_of(points: Tensor) -> tuple[Tensor, Tensor]:
        k, divergence = matrix_kernel(kernel, curl_free, points, x, bandwidth)
        return k.transpose(1, 2).reshape(-1, m * d), divergence.sum(1).flatten() / m

    k, zeta = matrix_of(x)
    mu, u = torch.linalg.eigh(k / m)
    gain = spectral_filter(mu)
    if q is None:
        return (-u @ (gain * (u.mT @ zeta))).reshape(m, d)
    k_query, zeta_query = matrix_of(q)
    at_zero = 0.0 if cut_off else spectral_filter(mu.new_zeros(())).item()
    # (g(μ) − g(0))/μ is smooth; both are known where μ is not rounding error.
    known = mu > mu[-1] * torch.finfo(x.dtype).eps * m
    slope = torch.where(known, (gain - at_zero) / torch.where(known, mu, 1.0), 0.0)
    return -(at_zero * zeta_query + k_query @ (u @ (slope * (u.mT @ zeta))) / m).reshape(-1, d)


# --- Gaussian scores ------------------------------------------------------------------------------


def ridge_precision(x: Tensor, tau: Tensor) -> Tensor:
    """``D^{−1}(R + τI)^{−1}D^{−1}`` of the correlation matrix R: (M, d) -> (d, d)."""
    inverse = torch.diag(1 / x.std(0, correction=0))
    eye = torch.eye(x.shape[1], dtype=x.dtype)
    return inverse @ torch.linalg.inv(x.T.corrcoef().reshape(eye.shape) + tau * eye) @ inverse


def left_out_objective(x: Tensor, tau: Tensor) -> Tensor:
    """``½‖s_i‖² + div s_i`` of the ridge score at each standardised v_i, from the others: (M,)."""
    v = (x - x.mean(0)) / x.std(0, correction=0)
    objectives = []
    for i in range(len(v)):
        others = torch.cat((v[:i], v[i + 1 :]))
        centred = others - others.mean(0)
        r = centred.T @ centred / len(others)
        precision = torch.linalg.inv(r + tau * torch.eye(x.shape[1], dtype=x.dtype))
        score = -precision @ (v[i] - others.mean(0))
        objectives.append(score.square().sum() / 2 - precision.trace())
    return torch.stack(objectives)


def quadratic_inverse_shrinkage(x: Tensor) -> Tensor:
    """The covariance (d, d) of Ledoit and Wolf (2022), sums over eigenvalues as written."""
    n, d = x.shape[0] - 1, x.shape[1]
    c = d / n
    values, vectors = torch.linalg.eigh(x.T.cov().reshape(d, d))
    h = min(c**2, 1 / c**2) ** 0.35 / d**0.35
    inverse = 1 / values[max(d - n, 0) :]
    shrunk = []
    for li in inverse:
        stein = sum(lj * (lj - li) / ((lj - li) ** 2 + h**2 * lj**2) for lj in inverse)
        conjugate = sum(lj * h * lj / ((lj - li) ** 2 + h**2 * lj**2) for lj in inverse)
        theta, square = stein / len(inverse), (stein**2 + conjugate**2) / len(inverse) ** 2
        if d <= n:
            shrunk.append(li * ((1 - c) ** 2 + 2 * c * (1 - c) * theta + c**2 * square))
        else:
            shrunk.append(li * square)
    null = [(c - 1) * inverse.mean()] * max(d - n, 0)
    delta = 1 / torch.stack([*null, *shrunk])
    return vectors @ torch.diag(delta * values.clamp(min=0).sum() / delta.sum()) @ vectors.T
