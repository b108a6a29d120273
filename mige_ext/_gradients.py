"""Values and gradients of the surrogates (:mod:`mige_ext.information`) from estimated scores."""

import math
from functools import partial

import torch
from torch import Tensor

from mige_ext import _checks, _recording
from mige_ext._precision import at_least_float32, in_units
from mige_ext._recording import Calibration
from mige_ext._surrogate import Compute
from mige_ext.distributed import Block, on_one_scale
from mige_ext.scores.base import (
    PairScoreEstimator,
    ScoreEstimator,
    scores_pairs,
    stein_sum,
    varying_columns,
)


def entropy_and_gradient(
    estimator: ScoreEstimator,
    z: Tensor,
    /,
    term: str = "z",
    varying: tuple[Tensor, ...] = (),
    **arguments: Tensor,
) -> tuple[Tensor, Tensor]:
    """The value and the gradient of the surrogate of H(z), from the scores of ``estimator``.

    Args:
        estimator: a score estimator.
        z: samples, (..., M, d).
        term: name of the entropy in the record of :func:`mige_ext.recording`.
        varying: the number of varying columns of each block of z, if it is known.
        arguments: the arguments of the public function, by name, for errors about their values.
    """
    arguments = arguments or {"z": z}
    samples = at_least_float32(z)
    try:
        scores = estimator.score(samples)
    except ValueError:
        _checks.require_finite(**arguments)
        raise
    return _value_and_gradient(estimator, scores, samples, term, varying, **arguments)


def negentropy_and_gradient(estimator: ScoreEstimator, z: Tensor) -> tuple[Tensor, Tensor]:
    """The value and the gradient of the surrogate of the negentropy J(z).

    ``estimator`` gives the score of z minus the Gaussian score.
    """
    value, gradient = entropy_and_gradient(estimator, z)
    return -value, -gradient


def _value_and_gradient(
    estimator: ScoreEstimator,
    scores: Tensor,
    samples: Tensor,
    term: str,
    varying: tuple[Tensor, ...] = (),
    /,
    **arguments: Tensor,
) -> tuple[Tensor, Tensor]:
    """The value of a surrogate, ``−mean s·(z − m)``, and the gradient ``−s / M``.

    m is the mean of z, and M the number of samples in all groups.
    """
    if not isinstance(scores, Tensor):
        raise TypeError(
            f"estimator must give scores as a torch.Tensor, got {type(scores).__name__} "
            f"from {estimator!r}"
        )
    if scores.shape != samples.shape:
        raise ValueError(
            f"estimator must give scores of the shape of its samples, {_checks.shape(samples)}, "
            f"got {_checks.shape(scores)} from {estimator!r}"
        )
    gradient = -scores / max(samples.shape[:-1].numel(), 1)
    sums = stein_sum(samples, gradient)
    _recording.add(term, lambda: Calibration(sums, varying or (varying_columns(samples),)))
    value = sums.sum()
    if _checks.can_read(value) and not math.isfinite(value):
        _checks.require_finite(**arguments)
        raise ValueError(f"estimator must give finite scores, got {estimator!r}")
    return value, gradient


def _joint_and_gradients(
    estimator: ScoreEstimator, x: Tensor, z: Tensor, u: Block, v: Block, term: str = "joint"
) -> tuple[Tensor, Tensor, Tensor]:
    """The surrogate of H(x, z) and its gradients with respect to x and z.

    u and v are the results of :func:`.on_one_scale` for x and z.
    """
    dtype = torch.promote_types(u.samples.dtype, v.samples.dtype)
    pairs = torch.cat((u.samples.to(dtype), v.samples.to(dtype)), -1)
    varying = u.varying + v.varying
    value, gradient = entropy_and_gradient(estimator, pairs, term, varying, x=x, z=z)
    gradient_x, gradient_z = gradient.split([x.shape[-1], z.shape[-1]], -1)
    if u.unit is not None and v.unit is not None:
        return value, in_units(gradient_x, u.unit), in_units(gradient_z, v.unit)
    return value, gradient_x, gradient_z


def information_with(
    marginal: str, estimator: ScoreEstimator, needs_x: bool, needs_z: bool
) -> Compute:
    """The function of x and z that computes the surrogate of I(x; z) and its gradients.

    ``marginal`` is the argument of :func:`mige_ext.mutual_information`. ``needs_x`` and ``needs_z``
    say whether x and z need a gradient.
    """
    if marginal == "matched":
        return partial(_matched_information, estimator)
    if marginal == "paired" and scores_pairs(estimator):
        return partial(_pair_information, estimator, needs_x, needs_z)
    return partial(_own_information, estimator, needs_x, needs_z)


def _own_information(
    estimator: ScoreEstimator, needs_x: bool, needs_z: bool, x: Tensor, z: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The surrogate of I(x; z) and its gradients, with the scores of x alone and z alone.

    H(x) is included only if x needs a gradient, and H(z) only if z needs a gradient.
    """
    u, v = on_one_scale(estimator, x), on_one_scale(estimator, z)
    value, gradient_x, gradient_z = (-part for part in _joint_and_gradients(estimator, x, z, u, v))
    if needs_x:
        value_x, marginal = entropy_and_gradient(estimator, x, "x", u.varying, x=x)
        value, gradient_x = value + value_x, gradient_x + marginal
    if needs_z:
        value_z, marginal = entropy_and_gradient(estimator, z, "z", v.varying, z=z)
        value, gradient_z = value + value_z, gradient_z + marginal
    return value, gradient_x, gradient_z


def _pair_information(
    estimator: PairScoreEstimator, needs_x: bool, needs_z: bool, x: Tensor, z: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """As :func:`_own_information`, but with three scores from one call of ``score_pair``."""
    u, v = on_one_scale(estimator, x), on_one_scale(estimator, z)
    samples_x, samples_z = at_least_float32(u.samples), at_least_float32(v.samples)
    try:
        joint, scores_x, scores_z = estimator.score_pair(samples_x, samples_z)
    except ValueError:
        _checks.require_finite(x=x, z=z)
        raise
    dtype = torch.promote_types(samples_x.dtype, samples_z.dtype)
    pairs = torch.cat((samples_x.to(dtype), samples_z.to(dtype)), -1)
    joint_entropy = _value_and_gradient(estimator, joint, pairs, "joint", x=x, z=z)
    value, gradient = (-part for part in joint_entropy)
    gradient_x, gradient_z = gradient.split([x.shape[-1], z.shape[-1]], -1)
    if needs_x:
        value_x, marginal = _value_and_gradient(estimator, scores_x, samples_x, "x", x=x)
        value, gradient_x = value + value_x, gradient_x + marginal
    if needs_z:
        value_z, marginal = _value_and_gradient(estimator, scores_z, samples_z, "z", z=z)
        value, gradient_z = value + value_z, gradient_z + marginal
    if u.unit is not None and v.unit is not None:
        return value, in_units(gradient_x, u.unit), in_units(gradient_z, v.unit)
    return value, gradient_x, gradient_z


def _matched_information(
    estimator: ScoreEstimator, x: Tensor, z: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The surrogate of I(x; z) and its gradients, with the scores of permuted pairs."""
    u, v = on_one_scale(estimator, x), on_one_scale(estimator, z)
    value, gradient_x, gradient_z = (-part for part in _joint_and_gradients(estimator, x, z, u, v))
    order = torch.randperm(x.shape[-2], device=x.device)
    permuted = x.index_select(-2, order)
    u = on_one_scale(estimator, permuted)
    product, marginal_x, marginal_z = _joint_and_gradients(estimator, permuted, z, u, v, "product")
    gradient_x = gradient_x.index_add(-2, order, marginal_x)
    return value + product, gradient_x, gradient_z + marginal_z
