"""The baselines of the adaptive score: the fastest versions in plain PyTorch that we could write.

``adaptive_score`` tries every λ of the grid for all groups at once and then searches among the
bounds, without a branch on a value, so that torch.compile can compile it. ``adaptive_score_pdist``
takes one group and tries only the λ that the search needs. The notation is that of
:func:`mige_ext.ops.adaptive_score`. That operator also leaves out samples that nearly coincide, and
these baselines do not.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from benchmarks.operators.solvers import eigh
from mige_ext.reference import (
    LAMBDA_GRID,
    RIDGE_GRID,
    STUDENT_NU,
    STUDENT_STEPS,
    adaptive_start,
)

DECADE = 2  # number of steps of the λ grid in a decade


def ridge_whitening(x: Tensor, factor: float | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, W and τ: (..., M, d) -> (..., d), (..., d, d), (...)."""
    m = x.shape[-2]
    mean = x.mean(-2, keepdim=True)
    centered = x - mean
    deviation = centered.square().mean(-2, keepdim=True).sqrt()
    inverse = torch.where(deviation > 0, 1 / deviation, 0.0)
    v = centered * inverse
    values, vectors = eigh(v.mT @ v / m)
    values = values.clamp_min(0)

    c1, c2 = m / (m - 1), m / (m - 1) ** 2
    grid = torch.linspace(*RIDGE_GRID, dtype=x.dtype, device=x.device)
    shrunk = 1 / (c1 * values.unsqueeze(-1) + 10**grid)  # [..., d, τ]
    squares = (v @ vectors).square()
    q, q2 = squares @ shrunk, squares @ shrunk.square()
    left = 1 - c2 * q
    risk = (c1**2 * q2 / (2 * left.square()) - c2 * q2 / left).mean(-2) - shrunk.sum(-2)
    fraction = 0.1 + 0.1 * min(1.0, 4 * x.shape[-1] / m) ** 2 if factor is None else factor
    tau = fraction * 10 ** _lowest(grid, risk)
    scaled = vectors * (values + tau.unsqueeze(-1)).rsqrt().unsqueeze(-2)
    return mean.squeeze(-2), inverse.mT * (scaled @ vectors.mT), tau


def _lowest(grid: Tensor, values: Tensor) -> Tensor:
    """Minimum of the parabola through the lowest value and its two neighbors."""
    at = values.argmin(-1, keepdim=True)
    inner = at.clamp(1, len(grid) - 2)
    left, here, right = (values.gather(-1, inner + k) for k in (-1, 0, 1))
    curvature = left - 2 * here + right
    shift = torch.where(curvature > 0, (left - right) / (2 * curvature), 0.0)
    step = grid[1] - grid[0]
    return (grid[at] + torch.where(at == inner, step * shift, 0.0)).squeeze(-1)


def student_score(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Departure, divergence, ν and weights of (..., M, d), with EM steps for every group."""
    m, d = x.shape[-2:]
    mean, whitening, tau = ridge_whitening(x)
    z = (x - mean.unsqueeze(-2)) @ whitening
    # The ridge in whitened coordinates, τ (R + τI)⁻¹.
    root = x.std(-2, correction=0).unsqueeze(-1) * whitening
    ridge = tau[..., None, None] * root @ root
    nus = torch.tensor(STUDENT_NU, dtype=x.dtype, device=x.device)
    squares = z.square().sum(-1)
    e = squares.mean(-1)[..., None, None]

    def candidates(inner: Tensor, squared: Tensor, trace: Tensor) -> tuple[Tensor, Tensor]:
        """Divergences and risks for every ν, (..., M, ν)."""
        inner, squared = inner.unsqueeze(-1), squared.unsqueeze(-1)
        weight = (nus + e) / (nus - 2 + inner)
        divergence = d - weight * trace + 2 * weight * squared / (nus - 2 + inner)
        size = weight.square() * squared - squares.unsqueeze(-1)
        return divergence, size / 2 + divergence

    _, risks = candidates(squares, squares, x.new_tensor(float(d)))
    bound, number = (risks.mean(-2) + risks.std(-2) / math.sqrt(m)).min(-1)
    few_samples = 4 * (m - 1) < 5 * d
    finite, nu = (bound < 0) & (not few_samples), nus.take(number)
    u, inner = z, squares
    for _ in range(STUDENT_STEPS):
        weights = (nu.unsqueeze(-1) + e.squeeze(-1)) / (nu.unsqueeze(-1) - 2 + inner)
        location = (weights.unsqueeze(-1) * z).sum(-2) / weights.sum(-1, keepdim=True)
        u = z - location.unsqueeze(-2)
        scatter = u.mT @ (weights.unsqueeze(-1) * u) / m + ridge
        precision = torch.cholesky_inverse(torch.linalg.cholesky(scatter))
        pu = u @ precision
        inner = (u * pu).sum(-1)
    trace = precision.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    divergences, risks = candidates(inner, pu.square().sum(-1), trace)
    risk, number = risks.mean(-2).min(-1)
    finite, nu = finite & (risk < 0), nus.take(number)
    index = number[..., None, None].expand(*number.shape, m, 1)
    divergence = divergences.gather(-1, index).squeeze(-1)
    weight = (nu.unsqueeze(-1) + e.squeeze(-1)) / (nu.unsqueeze(-1) - 2 + inner)
    departure = (z - weight.unsqueeze(-1) * pu) @ whitening.mT
    return (
        torch.where(finite[..., None, None], departure, 0.0),
        torch.where(finite.unsqueeze(-1), divergence, 0.0),
        torch.where(finite, nu, torch.inf),
        torch.where(finite.unsqueeze(-1), weights, 1.0),
    )


@dataclass(frozen=True)
class Whitened:
    """Quantities of groups (..., M, d) that do not depend on λ."""

    z: Tensor
    whitening: Tensor
    k: Tensor
    cubes: Tensor  # K³, elementwise
    q: Tensor  # Laplacian of the kernel at each pair, (..., M, M)
    variance: Tensor  # σ², (..., 1, 1)
    h: Tensor
    start: Tensor | None = None  # the departure of a start from −z, (..., M, d)
    start_divergence: Tensor | None = None  # (..., M)

    @classmethod
    def of(cls, x: Tensor, pairs: Tensor | None = None) -> "Whitened":
        """Compute the quantities from samples.

        Args:
            x: Samples, (..., M, d).
            pairs: Positions of the pairs in a flattened M×M array. None computes the distances of
                the pairs by ``pdist``.
        """
        mean, whitening, _ = ridge_whitening(x)
        z = (x - mean.unsqueeze(-2)) @ whitening
        distances = torch.cdist(z, z)
        among = torch.pdist(z) if pairs is None else distances.flatten(-2)[..., pairs]
        sigma = among.kthvalue((among.shape[-1] + 1) // 2, dim=-1).values
        variance = sigma[..., None, None].square()
        k = (1 + distances.square() / variance).rsqrt()
        cubes = k * k * k
        q = cubes * (3 - x.shape[-1] - 3 * k * k) / variance
        h = (cubes.sum(-1, keepdim=True) * z - cubes @ z) / variance
        return cls(z, whitening, k, cubes, q, variance, h)

    def started(self, start: Tensor, divergence: Tensor) -> "Whitened":
        """The same quantities with a start, given as its departure in the units of a score of x."""
        return replace(
            self, start=start @ torch.linalg.inv(self.whitening.mT), start_divergence=divergence
        )

    def candidates(self, lam: float) -> tuple[Tensor, Tensor, Tensor]:
        """F of all bases, (bases, ..., M, d), with their risks and standard errors."""
        z, (m, d) = self.z, self.z.shape[-2:]
        mu = lam * m
        eye = torch.eye(m, dtype=z.dtype, device=z.device)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(self.k + mu * eye))
        solved = inverse @ torch.cat([self.h, z], -1)
        w, y = solved[..., :d], solved[..., d:]
        candidates = [-w, -w - mu * y]
        b = inverse.diagonal(dim1=-2, dim2=-1)
        kept = [d * torch.ones_like(b), d * (1 - mu * b)]  # of the divergence of the base
        if self.start is not None and self.start_divergence is not None:
            candidates.append(candidates[1] + mu * (inverse @ self.start))
            kept.append(kept[1] + mu * b * self.start_divergence)
        f = torch.stack(candidates)

        weighted = inverse * self.cubes
        along = (f * z).sum(-1)
        across = (z * (self.cubes @ f)).sum(-1) - (self.cubes @ along.unsqueeze(-1)).squeeze(-1)
        within = along * weighted.sum(-1) - (f * (weighted @ z)).sum(-1)
        divergence = (
            b * self.q.sum(-1)
            - (inverse * self.q).sum(-1)
            + (b * across + within) / self.variance.squeeze(-1)
            + torch.stack(kept)
        )
        return f, *self.risk(f + z, divergence)

    def risk(self, departure: Tensor, divergence: Tensor) -> tuple[Tensor, Tensor]:
        """Risk of a departure from −z and its standard error, (...)."""
        r = departure.square().sum(-1) / 2 - (self.z * departure).sum(-1) + divergence
        return r.mean(-1), r.std(-1) / math.sqrt(r.shape[-1])

    def scores(self, f: Tensor) -> Tensor:
        """F in the coordinates of the samples."""
        return f @ self.whitening.mT


def adaptive_score(x: Tensor) -> Tensor:
    """Scores of (..., M, d), for which every λ is tried."""
    state = _whitened(x)
    unchanged = -state.z
    return state.scores(_best(state, unchanged, torch.zeros_like(unchanged[..., 0, 0])))


def adaptive_student_score(x: Tensor) -> Tensor:
    """Scores of (..., M, d) with the Student score as a start, for which every λ is tried."""
    start, divergence, *_ = student_score(x)
    state = _whitened(x).started(start, divergence)
    assert state.start is not None
    bound = torch.stack(state.risk(state.start, divergence)).sum(0)
    better = (bound < 0)[..., None, None]
    unchanged = torch.where(better, state.start - state.z, -state.z)
    return state.scores(_best(state, unchanged, bound.clamp(max=0)))


def _whitened(x: Tensor) -> Whitened:
    m = x.shape[-2]
    i, j = torch.triu_indices(m, m, 1, device=x.device)
    return Whitened.of(x, i * m + j)


def _best(state: Whitened, unchanged: Tensor, limit: Tensor) -> Tensor:
    """The F with the lowest bound, or ``unchanged`` if no bound is below ``limit``, (...)."""
    x, m = state.z, state.z.shape[-2]
    best, chosen = [], []
    for lam in LAMBDA_GRID:
        f, risk, error = state.candidates(lam)
        bound, base = (risk + error).min(0)
        best.append(bound)
        index = base[..., None, None].expand(1, *x.shape)
        chosen.append(f.gather(0, index).squeeze(0))
    bounds = torch.stack(best, -1)

    def at(numbers: Tensor) -> Tensor:
        """Bounds at these indices of the grid, and infinity outside the grid."""
        inside = (numbers >= 0) & (numbers < len(LAMBDA_GRID))
        there = bounds.gather(-1, numbers.clamp(0, len(LAMBDA_GRID) - 1).unsqueeze(-1))
        return torch.where(inside, there.squeeze(-1), torch.inf)

    start = adaptive_start(m)
    number = torch.full(x.shape[:-2], start, device=x.device)
    for step, furthest in ((-DECADE, start), (DECADE, len(LAMBDA_GRID) - 1 - start)):
        going = number == start
        for _ in range(furthest // DECADE):
            going = going & (at(number + step) < at(number))
            number = torch.where(going, number + step, number)
    smaller = at(number + DECADE) < at(number - DECADE)
    half = torch.where(smaller, number + DECADE // 2, number - DECADE // 2)
    number = torch.where((at(number) < limit) & (at(half) < at(number)), half, number)
    every = torch.stack(chosen)
    index = number.expand(1, *number.shape)[..., None, None].expand(1, *x.shape)
    f = every.gather(0, index).squeeze(0)
    return torch.where((at(number) < limit)[..., None, None], f, unchanged)


def adaptive_score_pdist(x: Tensor) -> Tensor:
    """Scores of one group (M, d), for which only the λ that the search needs are tried."""
    state = Whitened.of(x)
    tried: dict[int, tuple[float, Tensor]] = {}

    def bound(number: int) -> float:
        if not 0 <= number < len(LAMBDA_GRID):
            return math.inf
        if number not in tried:
            f, risk, error = state.candidates(LAMBDA_GRID[number])
            without, with_it = (risk + error).tolist()
            tried[number] = min((without, f[0]), (with_it, f[1]), key=lambda option: option[0])
        return tried[number][0]

    start = at = adaptive_start(x.shape[0])
    for step in (-DECADE, DECADE):
        while bound(at + step) < bound(at):
            at += step
        if at != start:
            break
    if bound(at) < 0:
        half = at + (DECADE // 2 if bound(at + DECADE) < bound(at - DECADE) else -DECADE // 2)
        at = half if bound(half) < bound(at) else at
    return state.scores(tried[at][1] if bound(at) < 0 else -state.z)
