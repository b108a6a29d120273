"""The Student score in plain torch."""

import math

import torch
from torch import Tensor

from mige_ext.reference.adaptive import adaptive_score
from mige_ext.reference.risk import bound_of
from mige_ext.reference.whitening import counted_dimensions, ridge_whitening, standardized

#: The degrees of freedom ν that :func:`student_score` tries, without infinity.
STUDENT_NU = (3.0, 4.0, 6.0, 10.0, 20.0, 50.0)
#: The number of EM steps for the location and the scatter of a Student distribution.
STUDENT_STEPS = 4


def student_score(x: Tensor) -> tuple[Tensor, ...]:
    """Departure, its divergence, ν and the weights; see :func:`mige_ext.ops.student_score`."""
    groups = [_student_score(group) for group in x.reshape(-1, *x.shape[-2:])]
    if not groups:
        return x.clone(), x[..., 0].clone(), x.new_empty(x.shape[:-2]), x[..., 0].clone()
    return tuple(
        torch.stack(results).reshape(x.shape[:-2] + results[0].shape)
        for results in zip(*groups, strict=True)
    )


def adaptive_student_score(x: Tensor) -> tuple[Tensor, ...]:
    """The eleven results of :func:`mige_ext.ops.adaptive_student_score`."""
    groups = [_adaptive_student_score(group) for group in x.reshape(-1, *x.shape[-2:])]
    return tuple(
        torch.stack(results).reshape(x.shape[:-2] + results[0].shape)
        for results in zip(*groups, strict=True)
    )


def _adaptive_student_score(x: Tensor) -> tuple[Tensor, ...]:
    departure, divergence, nu, weights = _student_score(x)
    start = (departure, divergence) if nu.isfinite() else ()
    return *adaptive_score(x, *start), nu, weights


def _student_score(x: Tensor) -> tuple[Tensor, ...]:
    _, inverse, v, values, vectors = standardized(x)
    dimensions, excluded = (int(count) for count in counted_dimensions(x, values))
    tau = ridge_whitening(x)[2]
    values = values.clamp(min=0)
    scale = torch.where(torch.arange(len(values)) < excluded, 0.0, (values + tau).rsqrt())
    z = v @ vectors * scale
    one = torch.eye(z.shape[1]).to(z)
    unchanged = (
        torch.zeros_like(x), z.new_zeros(len(z)), z.new_tensor(math.inf), z.new_ones(len(z))
    )  # fmt: skip

    mean = z.new_zeros(z.shape[1])
    size = z.square().sum(-1).mean()
    bounds = {
        nu: bound_of(student_departure(z, nu, mean, one, dimensions, size)[2]) for nu in STUDENT_NU
    }
    first = min(bounds, key=lambda nu: bounds[nu])
    few_samples = 4 * (len(z) - 1) < 5 * dimensions
    if few_samples or not bounds[first] < 0:
        return unchanged

    ridge = torch.where(torch.arange(len(values)) < excluded, 1.0, tau / (values + tau))
    precision = one
    for _ in range(STUDENT_STEPS):
        u = z - mean
        w = student_weight((u @ precision * u).sum(-1), first, size)
        mean = w @ z / w.sum()
        u = z - mean
        precision = torch.linalg.inv((u * w.unsqueeze(-1)).mT @ u / len(z) + ridge.diag())
    found = {nu: student_departure(z, nu, mean, precision, dimensions, size) for nu in STUDENT_NU}
    nu = min(found, key=lambda nu: float(found[nu][2].mean()))
    residual, divergence, risk = found[nu]
    if not risk.mean() < 0:
        return unchanged
    back = inverse.squeeze(-2).unsqueeze(-1) * vectors * scale
    return residual @ back.mT, divergence, z.new_tensor(nu), w


def student_departure(
    z: Tensor, nu: float, mean: Tensor, precision: Tensor, dimensions: int, size: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """``R = z − w P u``, its divergence and the risk of every sample: (M, d), (M,), (M,).

    ``size`` is the mean of ‖z‖².
    """
    u = z - mean
    pu = u @ precision
    inner = (u * pu).sum(-1)
    w = student_weight(inner, nu, size)
    slope = -w / (nu - 2 + inner)
    score = -w.unsqueeze(-1) * pu
    trace = dimensions + precision.trace() - len(precision)
    divergence = dimensions - w * trace - 2 * slope * pu.square().sum(-1)
    risk = score.square().sum(-1) / 2 - z.square().sum(-1) / 2 + divergence
    return score + z, divergence, risk


def student_weight(inner: Tensor, nu: float, size: Tensor) -> Tensor:
    """``w = (ν + e) / (ν − 2 + r²)`` with r² = ``inner`` = uᵀPu and e = ``size``."""
    return (nu + size) / (nu - 2 + inner)
