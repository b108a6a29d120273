"""References of the spectral filters and of the Gaussian scores, in plain torch and float64.

The functions follow the formulas of the papers, with every intermediate result, and use no code of
the library. ``mige_ext.reference`` has the references of the operators.
"""

from collections.abc import Callable

import torch
from torch import Tensor

# --- spectral filters -----------------------------------------------------------------------------
#
# These functions take one group of samples. Both kinds of kernels have (Md)² elements here.


def phi(kernel: str, s: Tensor, bandwidth: Tensor, order: int = 0) -> Tensor:
    """φ(s), or a derivative by autograd: "RBF" ``exp(−s/2σ²)``, "IMQ" ``(1 + s/σ²)^(−1/2)``."""
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
    """K(q, x) and its divergence with respect to x: (Q, d), (M, d) -> (Q, M, d, d), (Q, M, d).

    Let r = q − x and s = ‖r‖². The diagonal kernel ``φ I`` has the divergence ``−2φ'r``, and the
    curl-free kernel ``σ²(−2φ'I − 4φ''r rᵀ)`` the divergence ``σ²(4(d + 2)φ'' + 8sφ''') r``.
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
    """``(1 − r_t(μ))/μ`` with ``r_t(μ) = P_t(1 − 2μ)/P_t(1)``.

    P_t is the Jacobi polynomial with the parameters 2ν − 1/2 and −1/2, so that ``r_t(μ) = Σ_k
    (−t)_k (t + 2ν)_k / ((2ν + 1/2)_k k!) μ^k``. The sum is accurate for few steps only.
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
    """``g = −g_λ(L) ζ`` at samples (M, d), or by the eigenfunctions of L at query points (Q, d).

    ζ is ``Σ_j c_j ψ_j`` with ``ψ_j(q) = K(q, X) u_j / Mμ_j``, plus a remainder in the null space of
    L. The filter multiplies ψ_j by g_λ(μ_j), and the remainder by g_λ(0).

    ``spectral_filter`` maps ascending eigenvalues μ >= 0, (n,), to g_λ(μ). With ``cut_off`` g_λ(0)
    is 0, as for SSGE. For the kernel see :func:`matrix_kernel`.
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
    accurate = mu > mu[-1] * torch.finfo(x.dtype).eps * m
    slope = torch.where(accurate, (gain - at_zero) / torch.where(accurate, mu, 1.0), 0.0)
    return -(at_zero * zeta_query + k_query @ (u @ (slope * (u.mT @ zeta))) / m).reshape(-1, d)


# --- Gaussian scores ------------------------------------------------------------------------------


def left_out_objective(x: Tensor, tau: Tensor) -> Tensor:
    """``½‖s_i‖² + div s_i`` at each sample, with the ridge score s_i of the other samples, (M,)."""
    v = (x - x.mean(0)) / x.std(0, correction=0)
    ridge = tau * torch.eye(x.shape[1], dtype=x.dtype)
    objectives = []
    for i in range(len(v)):
        others = torch.cat((v[:i], v[i + 1 :]))
        precision = torch.linalg.inv(others.T.cov(correction=0).reshape(ridge.shape) + ridge)
        score = -precision @ (v[i] - others.mean(0))
        objectives.append(score.square().sum() / 2 - precision.trace())
    return torch.stack(objectives)


def quadratic_inverse_shrinkage(x: Tensor) -> Tensor:
    """The covariance (d, d) of Ledoit and Wolf (2022), with sums as in the paper."""
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
