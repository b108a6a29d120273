"""The operators of :mod:`mige_ext.ops` in plain torch, in any dtype: the oracle of the tests.

Tests compare the operators with these functions in float64. The functions follow the formulas as
the papers write them, with every intermediate, and use no code of the operators. They are slow, and
only tests and benchmarks import them.
"""

import math
from functools import cache

import torch
from torch import Tensor


def squared_distances(x: Tensor, y: Tensor | None = None) -> Tensor:
    """``‖x_i − y_j‖²``: (..., M, d), (..., N, d) -> (..., M, N)."""
    y = x if y is None else y
    return (x.unsqueeze(-2) - y.unsqueeze(-3)).square().sum(-1)


def distance_quantile(x: Tensor, quantile: float = 0.5) -> Tensor:
    """The distance of rank ``ceil(quantile · n)`` among the n pairs, (..., M, d) -> (...).

    If that distance is 0, the result is the quantile of the pairs at a positive distance.
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
    numerical_rank = (descending > m * torch.finfo(x.dtype).eps * descending[..., :1]).sum(-1)
    j = torch.minimum(j, numerical_rank)

    kept = torch.arange(m) >= m - j.unsqueeze(-1)  # the last J of the ascending eigenvalues
    inverse = torch.where(kept, values, torch.inf) ** -power
    projected = vectors.mT @ rbf_gradient_sum(x, bandwidth=bandwidth)
    return -vectors @ (inverse.unsqueeze(-1) * projected), values, bandwidth, j


# --- the adaptive score ---------------------------------------------------------------------------

#: The ridges τ that are tried: log₁₀ of the smallest and of the largest, and their number.
RIDGE_GRID = (-4.0, 1.0, 26)
#: The λ that are tried.
LAMBDA_GRID = (0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5)


def ridge_whitening(x: Tensor, factor: float = 0.1) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, W and τ of ``z = (x − mean) W``; see :func:`mige_ext.ops.ridge_whitening`."""
    m, d = x.shape[-2:]
    mean, inverse, v, values, vectors = _standardized(x)
    dimensions, excluded = _dimensions(x, values)
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
    tau = (factor * 10 ** _parabola_minimum(grid, torch.stack(objective, -1))).to(x.dtype)
    scale = (values + tau.unsqueeze(-1)).rsqrt()
    scale = torch.where(torch.arange(d) < excluded.unsqueeze(-1), 0.0, scale)
    scaled = vectors * scale.unsqueeze(-2)
    return mean.squeeze(-2), inverse.mT * (scaled @ vectors.mT), tau


def _standardized(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Mean, 1/σ, ``v = (x − mean)/σ``, and the eigenvalues and eigenvectors of vᵀv/M."""
    mean = x.mean(-2, keepdim=True)
    deviation = (x - mean).square().mean(-2, keepdim=True).sqrt()
    inverse = torch.where((x != x[..., :1, :]).any(-2, keepdim=True), 1 / deviation, 0.0)
    v = (x - mean) * inverse
    return mean, inverse, v, *torch.linalg.eigh(v.mT @ v / x.shape[-2])


def _dimensions(x: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """The number of dimensions that count and of directions that are excluded, (...) each.

    ``values`` are the eigenvalues of the correlations. With M − 1 >= 1.25 × (varying columns) their
    numerical rank is trusted, and directions without variance are excluded. With fewer samples the
    rank only reflects M, and every varying column counts.
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


#: The degrees of freedom ν of :func:`student_score`, beside infinity.
STUDENT_NU = (3.0, 4.0, 6.0, 10.0, 20.0, 50.0)
#: The number of EM steps for the location and the scatter of a Student distribution.
STUDENT_STEPS = 6


def student_score(x: Tensor) -> tuple[Tensor, ...]:
    """Departure, its divergence, ν and the weights; see :func:`mige_ext.ops.student_score`."""
    groups = [_student_score(group) for group in x.reshape(-1, *x.shape[-2:])]
    if not groups:
        return x.clone(), x[..., 0].clone(), x.new_empty(x.shape[:-2]), x[..., 0].clone()
    return tuple(
        torch.stack(results).reshape(x.shape[:-2] + results[0].shape)
        for results in zip(*groups, strict=True)
    )


def _student_score(x: Tensor) -> tuple[Tensor, ...]:
    _, inverse, v, values, vectors = _standardized(x)
    dimensions, excluded = (int(count) for count in _dimensions(x, values))
    tau = ridge_whitening(x)[2]
    values = values.clamp(min=0)
    scale = torch.where(torch.arange(len(values)) < excluded, 0.0, (values + tau).rsqrt())
    z = v @ vectors * scale
    one = torch.eye(z.shape[1]).to(z)
    unchanged = (
        torch.zeros_like(x), z.new_zeros(len(z)), z.new_tensor(math.inf), z.new_ones(len(z))
    )  # fmt: skip

    mean = z.new_zeros(z.shape[1])
    bounds = {nu: _bound(student_departure(z, nu, mean, one, dimensions)[2]) for nu in STUDENT_NU}
    first = min(bounds, key=lambda nu: bounds[nu])
    if not bounds[first] < 0:
        return unchanged

    ridge = torch.where(torch.arange(len(values)) < excluded, 1.0, tau / (values + tau))
    precision = one
    for _ in range(STUDENT_STEPS):
        u = z - mean
        w = student_weight((u @ precision * u).sum(-1), first, dimensions)
        mean = w @ z / w.sum()
        u = z - mean
        precision = torch.linalg.inv((u * w.unsqueeze(-1)).mT @ u / len(z) + ridge.diag())
    found = {nu: student_departure(z, nu, mean, precision, dimensions) for nu in STUDENT_NU}
    nu = min(found, key=lambda nu: float(found[nu][2].mean()))
    residual, divergence, risk = found[nu]
    if not risk.mean() < 0:
        return unchanged
    back = inverse.squeeze(-2).unsqueeze(-1) * vectors * scale
    return residual @ back.mT, divergence, z.new_tensor(nu), w


def student_departure(
    z: Tensor, nu: float, mean: Tensor, precision: Tensor, dimensions: int
) -> tuple[Tensor, Tensor, Tensor]:
    """``R = z − w P u``, its divergence and the risk of every sample: (M, d), (M,), (M,)."""
    u = z - mean
    pu = u @ precision
    inner = (u * pu).sum(-1)
    w = student_weight(inner, nu, dimensions)
    slope = -w / (nu - 2 + inner)
    score = -w.unsqueeze(-1) * pu
    # Σ_k P_kk over the dimensions that count; the other columns of z have P_kk = 1.
    trace = dimensions + precision.trace() - len(precision)
    divergence = dimensions - w * trace - 2 * slope * pu.square().sum(-1)
    risk = score.square().sum(-1) / 2 - z.square().sum(-1) / 2 + divergence
    return score + z, divergence, risk


def student_weight(inner: Tensor, nu: float, dimensions: int) -> Tensor:
    """``(ν + d) / (ν − 2 + r²)`` of ``inner`` = r², in units of the covariance."""
    return (nu + dimensions) / (nu - 2 + inner)


def adaptive_score(
    x: Tensor, start: Tensor | None = None, start_divergence: Tensor | None = None
) -> tuple[Tensor, ...]:
    """Scores, λ, base, risk, its standard error, σ, left out, departure and its divergence.

    See :func:`mige_ext.ops.adaptive_score`.
    """
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

    _, inverse, _, values, vectors = _standardized(x)
    dimensions, excluded = (int(count) for count in _dimensions(x, values))
    of_start: tuple[Tensor, ...] = ()
    if start is not None and start_divergence is not None:
        # W⁻ᵀ maps scores of x to scores of z. With d > M it keeps what the samples span.
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

    The search starts at λ number ``first``; without it, no λ is tried.
    """

    @cache
    def best(i: int) -> tuple[float, int, Tensor, Tensor]:
        """Bound, base, risk and standard error at λ number i, for the base with the lower bound."""
        options = []
        for base in range(3 if of_start else 2):
            f = adaptive_residual(z, sigma, LAMBDA_GRID[i], base, *of_start[:1])
            r = adaptive_risk(z, f, sigma, LAMBDA_GRID[i], base, dimensions, *of_start[1:])
            options.append((_bound(r), base, *_mean_and_error(r)))
        return min(options, key=lambda option: option[0])

    def bound(i: int) -> float:
        return best(i)[0]

    none = z.new_zeros(())
    if first is None:
        return math.inf, 1, none, none
    limit, unchanged = 0.0, (math.inf, 1, none, none)  # the Gaussian score unchanged
    if of_start:
        r = of_start[0].square().sum(-1) / 2 - (z * of_start[0]).sum(-1) + of_start[1]
        if _bound(r) < 0:  # the start unchanged
            limit, unchanged = _bound(r), (math.inf, 2, *_mean_and_error(r))

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


def _mean_and_error(r: Tensor) -> tuple[Tensor, Tensor]:
    return r.mean(), r.std() / math.sqrt(len(r))


def _bound(r: Tensor) -> float:
    risk, error = _mean_and_error(r)
    return float(risk + error)


def adaptive_kept(z: Tensor) -> Tensor:
    """Which samples take part in the choice of λ, (M, d) -> (M), boolean.

    Of samples that coincide up to rounding, one is kept. Near-coincident pairs are separated if
    there are more of them than among independent samples. csrc/common/thinning_rule.h explains the
    rule.
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
    close = among < largest_ratio(0.5) * torch.minimum(scale, scale.unsqueeze(-1))
    return distinct & ~(close & larger).any(-1)


def adaptive_start(m: int) -> int:
    """The index of the λ that is tried first: the power of ten on the grid next to 1/M."""
    return min(max(2 * round(math.log10(m)) - 2, 0), len(LAMBDA_GRID) - 1)


def imq(s: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``φ(s) = (1 + s/σ²)^(−1/2)``, φ' and φ'', which autograd can differentiate again."""
    a = 1 / sigma**2
    base = 1 + a * s
    return base**-0.5, -a / 2 * base**-1.5, 3 * a**2 / 4 * base**-2.5


def adaptive_residual(
    z: Tensor, sigma: Tensor, lam: float, base: int, start: Tensor | None = None
) -> Tensor:
    """``F = s₀ − (K + λM I)^{−1}(K s₀ + H)`` for z (M, d).

    s₀ is 0 for base 0, −z for base 1 and −z + ``start`` for base 2.
    """
    m = z.shape[0]
    k, p, _ = imq(squared_distances(z), sigma)
    h = -2 * (p.sum(-1, keepdim=True) * z - p @ z)
    s0 = -min(base, 1) * z
    if base == 2 and start is not None:
        s0 = s0 + start
    return s0 - torch.linalg.solve(k + lam * m * torch.eye(m).to(z), k @ s0 + h)


def adaptive_risk(
    z: Tensor,
    f: Tensor,
    sigma: Tensor,
    lam: float,
    base: int,
    dimensions: int | None = None,
    start_divergence: Tensor | None = None,
) -> Tensor:
    """``r_i = ½|R_i|² − z_i·R_i + div_i R`` with R = F + z and the total derivative of R, (M,).

    ``dimensions`` is the number of dimensions that count; by default all d.
    """
    divergence = adaptive_divergence(z, f, sigma, lam, base, dimensions, start_divergence)
    residual = f + z
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
    """``div_i R``, the divergence of R = F + z with the total derivative of R, (M,).

    ``start_divergence`` is the divergence of the start of base 2, (M,).
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
