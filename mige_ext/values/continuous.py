"""The choice among the estimates of I(x; z) for continuous x and z, and of H(z)."""

import math

import torch
from torch import Tensor

from mige_ext._precision import power_of_two
from mige_ext.values.candidates import Candidate, exceeds
from mige_ext.values.gaussian import NO_VARIANCE, gaussian_part, log_determinant_bias, white
from mige_ext.values.kernel import interaction, negentropy
from mige_ext.values.neighbors import neighbor_entropy, neighbor_information
from mige_ext.values.student import student_copula

#: Directions of the standardized samples with a smaller relative variance are left out. Rounding
#: errors of the samples raise this limit.
_LEAST_VARIANCE = 1e-13


def continuous_information(
    u: Tensor, v: Tensor, generator: torch.Generator
) -> tuple[Candidate, Candidate]:
    """I(x; z) and its Gaussian part, from uniform scores of x and z, (M, d_x) and (M, d_z).

    Uniform scores are the ranks, scaled to (0, 1).
    """
    x, z = torch.special.ndtri(u), torch.special.ndtri(v)
    part = gaussian_part(x, z)
    gaussian = part.candidate
    of_pairs, of_x, of_z = interaction(part, generator)
    best = Candidate(
        "kernel",
        gaussian.value + of_pairs.value - of_x.value - of_z.value,
        gaussian.terms + of_pairs.terms - of_x.terms - of_z.terms,
    )
    if part.x.shape[1] == u.shape[1] and part.z.shape[1] == v.shape[1]:
        student = student_copula(torch.cat((u, v), 1), u.shape[1])
        gain = student.gain.mean() - of_pairs.value
        if exceeds(gain, student.gain - of_pairs.terms):
            best = student.candidate
    neighbors = neighbor_information(x, z)
    if exceeds(neighbors.value - best.value, neighbors.terms - best.terms):
        best = neighbors
    return best, gaussian


def continuous_entropy(
    z: Tensor, generator: torch.Generator, rounding: float = 0.0
) -> tuple[Candidate, Candidate]:
    """H(z) and its Gaussian part, from samples (M, d).

    ``rounding`` is the ε of the dtype that the samples had, if it is coarser than float32.
    """
    m, d = z.shape
    if m < d + 2:
        raise ValueError(f"z must have M >= d + 2 samples, {d + 2}, got {m}")
    constant_columns = int((z == z[0]).all(0).sum())
    if constant_columns:
        raise ValueError(
            f"z must vary in every column, got {constant_columns} constant columns: the entropy of "
            "z is minus infinity"
        )
    dtype = z.dtype if (z.float() != z).any() else torch.float32
    rounding = max(rounding, torch.finfo(dtype).eps)
    unit = power_of_two(z.abs().amax(0))  # so that squares neither overflow nor underflow
    z = z / unit
    deviation = z.std(0)
    standard = (z - z.mean(0)) / deviation
    noise = float((rounding / deviation).square().max())
    # A real direction may have little variance, but no less than the rounding errors.
    least = min(max(_LEAST_VARIANCE, 100 * noise), NO_VARIANCE)
    y = white(standard, max(least, 4 * noise))
    if y.shape[1] < d:
        raise ValueError(
            f"z must vary in all {d} directions, got {y.shape[1]}: a linear combination of the "
            "columns is constant, and the entropy of z is minus infinity"
        )
    covariance = standard.mT @ standard / (m - 1)
    half_log = torch.linalg.cholesky(covariance).diagonal().log().sum()
    half_log = half_log + deviation.log().sum() + unit.log().sum()
    constant = half_log + d / 2 * math.log(2 * math.pi * math.e)
    squares = y.square().sum(1) / 2
    gaussian = Candidate("gaussian", constant - log_determinant_bias(m, d) / 2, squares)
    found = negentropy(y, generator)
    best = Candidate("kernel", gaussian.value - found.value, gaussian.terms - found.terms)
    if not exceeds(found.value, found.terms):
        return best, gaussian
    neighbors = neighbor_entropy(y)
    # The covariance of y with the divisor M is the identity; `covariance` has the divisor M − 1.
    scale = half_log + d / 2 * math.log((m - 1) / m)
    other = Candidate("neighbors", neighbors.value + scale, neighbors.terms)
    if exceeds(best.value - other.value, best.terms - other.terms):
        best = other
    return best, gaussian
