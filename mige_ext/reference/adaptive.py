"""The adaptive score in plain torch. :func:`mige_ext.ops.adaptive_score` has the formulas."""

import math
from functools import cache

import torch
from torch import Tensor

from mige_ext.reference.kernel import distance_quantile, squared_distances
from mige_ext.reference.risk import bound_of, mean_and_error
from mige_ext.reference.whitening import counted_dimensions, ridge_whitening, standardized

#: The λ that are tried.
LAMBDA_GRID = (0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5)


def adaptive_score(
    x: Tensor, start: Tensor | None = None, start_divergence: Tensor | None = None
) -> tuple[Tensor, ...]:
    """The nine results of :func:`mige_ext.ops.adaptive_score`."""
    columns = [x.reshape(-1, *x.shape[-2:])]
    if start is not None and start_divergence is not None:
        columns += [start.reshape(columns[0].shape), start_divergence.reshape(-1, x.shape[-2])]
    groups = zip(*map(_adaptive_score, *columns), strict=True)
    return tuple(
        stack.reshape(x.shape[:-2] + stack.shape[1:]) for stack in map(torch.stack, groups)
    )


def _adaptive_score(
    x: Tensor, start: Tensor | None = None, start_divergence: Tensor | None = None
) -> tuple[Tensor, ...]:
    m = x.shape[0]
    mean, whitening, tau = ridge_whitening(x)
    z = (x - mean) @ whitening
    none = x.new_zeros(())
    if not distance_quantile(z) > 0:
        zero = torch.zeros_like(x)
        return zero, none + torch.inf, none.long(), none, none, none, none, zero, zero[:, 0]

    _, inverse, _, values, vectors = standardized(x)
    dimensions, excluded = (int(count) for count in counted_dimensions(x, values))
    of_start: tuple[Tensor, ...] = ()
    if start is not None and start_divergence is not None:
        # W⁻ᵀ maps scores of x to scores of z. With d > M only the span of the samples is kept.
        root = (values.clamp(min=0) + tau).sqrt()
        counts = torch.arange(len(values)) >= excluded
        if len(values) > m:
            counts &= values > 8 * torch.finfo(x.dtype).eps * values[-1]
        back = vectors * torch.where(counts, root, 0.0) @ vectors.mT
        of_start = (start * torch.where(inverse > 0, 1 / inverse, 0.0) @ back, start_divergence)

    kept = adaptive_kept(z)
    z_kept, start_kept = z[kept], tuple(part[kept] for part in of_start)
    sigma = distance_quantile(z_kept)
    first = None if len(z_kept) < min(m, 8) else adaptive_start(m)  # 7 samples are too few
    lam, base, risk, error = _choice(z_kept, sigma, dimensions, first, start_kept)
    if math.isfinite(lam):
        f = adaptive_residual(z, sigma, lam, base, *of_start[:1])
        residual = f + z
        f_kept = adaptive_residual(z_kept, sigma, lam, base, *start_kept[:1])
        divergence = adaptive_divergence(
            z_kept, f_kept, sigma, lam, base, dimensions, *start_kept[1:]
        )
        if not kept.all():  # a sample that was left out takes the divergence of its neighbor
            places = torch.arange(m).masked_fill(~kept, 0)
            places[kept] = torch.arange(len(z_kept))
            nearest = squared_distances(z, z_kept).argmin(-1)
            divergence = divergence[torch.where(kept, places, nearest)]
    elif base == 2:
        residual, divergence = of_start
    else:
        residual, divergence = torch.zeros_like(z), torch.zeros_like(z[:, 0])
    scores, departure = (residual - z) @ whitening.mT, residual @ whitening.mT
    left_out = x.new_tensor((~kept).sum().item() / len(kept))
    return (
        scores, x.new_tensor(lam), torch.tensor(base), risk, error, sigma, left_out, departure,
        divergence,
    )  # fmt: skip


def _choice(
    z: Tensor, sigma: Tensor, dimensions: int, first: int | None, of_start: tuple[Tensor, ...]
) -> tuple[float, int, Tensor, Tensor]:
    """λ, base, risk and standard error of the candidate with the lowest bound.

    ``first`` is the index in LAMBDA_GRID at which the search starts; None tries no λ.
    """

    @cache
    def best(i: int) -> tuple[float, int, Tensor, Tensor]:
        """Bound, base, risk and standard error of the base with the least bound, at index i."""
        options = []
        for base in range(3 if of_start else 2):
            lam = LAMBDA_GRID[i]
            f = adaptive_residual(z, sigma, lam, base, *of_start[:1])
            divergence = adaptive_divergence(z, f, sigma, lam, base, dimensions, *of_start[1:])
            r = adaptive_risk(z, f + z, divergence)
            options.append((bound_of(r), base, *mean_and_error(r)))
        return min(options, key=lambda option: option[0])

    def bound(i: int) -> float:
        return best(i)[0]

    none = z.new_zeros(())
    if first is None:
        return math.inf, 1, none, none
    limit, unchanged = 0.0, (math.inf, 1, none, none)  # the Gaussian score unchanged
    if of_start:
        r = adaptive_risk(z, *of_start)
        if bound_of(r) < 0:  # the start unchanged
            limit, unchanged = bound_of(r), (math.inf, 2, *mean_and_error(r))

    at = first
    for step in (-2, 2):  # decades, first towards larger λ
        before = at
        while 0 <= at + step < len(LAMBDA_GRID) and bound(at + step) < bound(at):
            at += step
        if at != before:
            break
    if bound(at) < limit:  # half a decade towards the better neighbor
        neighbors = [i for i in (at - 2, at + 2) if 0 <= i < len(LAMBDA_GRID)]
        half = (at + min(neighbors, key=bound)) // 2
        if bound(half) < bound(at):
            at = half
    return (LAMBDA_GRID[at], *best(at)[1:]) if bound(at) < limit else unchanged


def adaptive_kept(z: Tensor) -> Tensor:
    """Which samples take part in the choice of λ, (M, d) -> (M), boolean.

    csrc/common/thinning_rule.h explains the rule.
    """
    m, d = z.shape
    s = squared_distances(z)
    earlier = torch.ones(m, m).tril(-1).bool()
    distinct = ~((s <= 1e-12 * d) & earlier).any(-1)
    n = int(distinct.sum())
    if n < 2:
        return torch.ones(m).bool()
    if n < 24:
        return distinct
    among = s.masked_fill(torch.eye(m).bool() | ~distinct, torch.inf)
    nearest = among.sort(-1).values[:, : min(20, n // 4)]
    outer = nearest.shape[-1]
    inner = outer // 2
    log_ratio = (nearest[:, outer - 1] / nearest[:, inner - 1])[distinct].log().mean()
    half_dimension = sum(1 / j for j in range(inner, outer)) / max(float(log_ratio), 2e-3)

    def largest_ratio(p: float) -> float:
        return float((1 - (1 - p) ** (1 / 5)) ** (1 / half_dimension))

    scale = nearest[:, 5]
    too_many = False
    for p in (0.5, 0.2, 0.05, 0.01, 0.001):
        count = int((nearest[:, 0] < largest_ratio(p) * scale)[distinct].sum())
        too_many |= count > p * n + 3 * math.sqrt(2 * p * n) + 2
    if not too_many:
        return distinct
    larger = (scale > scale.unsqueeze(-1)) | ((scale == scale.unsqueeze(-1)) & earlier)
    close = among < largest_ratio(0.95) * torch.minimum(scale, scale.unsqueeze(-1))
    return distinct & ~(close & larger).any(-1)


def adaptive_start(m: int) -> int:
    """The index of the λ that is tried first: the power of ten next to 1/M."""
    return min(max(2 * round(math.log10(m)) - 2, 0), len(LAMBDA_GRID) - 1)


def imq(s: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``φ(s) = (1 + s/σ²)^(−1/2)``, φ' and φ'', differentiable by autograd."""
    a = 1 / sigma**2
    base = 1 + a * s
    return base**-0.5, -a / 2 * base**-1.5, 3 * a**2 / 4 * base**-2.5


def adaptive_residual(
    z: Tensor, sigma: Tensor, lam: float, base: int, start: Tensor | None = None
) -> Tensor:
    """``F = s₀ − (K + λM I)^{−1}(K s₀ + H)`` for z, (M, d) -> (M, d).

    s₀ is 0 for base 0, −z for base 1 and −z + ``start`` for base 2.
    """
    m = z.shape[0]
    k, p, _ = imq(squared_distances(z), sigma)
    h = -2 * (p.sum(-1, keepdim=True) * z - p @ z)
    s0 = -min(base, 1) * z
    if base == 2 and start is not None:
        s0 = s0 + start
    return s0 - torch.linalg.solve(k + lam * m * torch.eye(m).to(z), k @ s0 + h)


def adaptive_risk(z: Tensor, residual: Tensor, divergence: Tensor) -> Tensor:
    """``r_i = ½|R_i|² − z_i·R_i + div_i R`` for the residual R = F + z, (M,).

    ``divergence`` is the result of :func:`adaptive_divergence`, (M,).
    """
    return residual.square().sum(-1) / 2 - (z * residual).sum(-1) + divergence


def adaptive_divergence(
    z: Tensor,
    f: Tensor,
    sigma: Tensor,
    lam: float,
    base: int,
    dimensions: int | None = None,
    start_divergence: Tensor | None = None,
) -> Tensor:
    """``div_i R`` of R = F + z, with the derivatives of K and H, (M,).

    ``dimensions`` is the number of dimensions that count, by default d. ``start_divergence`` is the
    divergence of the start of base 2, (M,).
    """
    m, d = z.shape[0], z.shape[1] if dimensions is None else dimensions
    s = squared_distances(z)
    k, p, second = imq(s, sigma)
    inverse = torch.linalg.inv(k + lam * m * torch.eye(m).to(z))
    b = inverse.diagonal()
    q = 2 * (d * p + 2 * s * second).fill_diagonal_(0.0)
    fz = f @ z.mT
    bp = inverse * p
    divergence = (
        b * q.sum(-1)
        - (inverse * q).sum(-1)
        - 2 * b * ((p * fz.mT).sum(-1) - p @ fz.diagonal())
        - 2 * (fz.diagonal() * bp.sum(-1) - (bp * fz).sum(-1))
        + d * (inverse @ k).diagonal() ** min(base, 1)
    )
    if base == 2 and start_divergence is not None:
        divergence = divergence + (1 - (inverse @ k).diagonal()) * start_divergence
    return divergence
