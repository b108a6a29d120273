"""Surrogate of the information of a stochastic encoder, from draws of its representation."""

from functools import partial

import torch.distributed as dist
from torch import Tensor

from mige_ext import _checks, _misuse, _recording
from mige_ext._surrogate import named_encoder_information
from mige_ext.distributed import global_batch
from mige_ext.information._common import checked_estimator, entropy_surrogate
from mige_ext.scores.base import ScoreEstimator


def encoder_information(
    z: Tensor,
    *,
    estimator: ScoreEstimator | None = None,
    conditional: Tensor | None = None,
    group: "dist.ProcessGroup | None" = None,
) -> Tensor:
    """Surrogate of ``I(x; z) = H(z) − H(z | x)`` of a stochastic encoder (circumstance III).

    The k-th draws of the N inputs are N samples of the marginal distribution of z. H(z) is the mean
    of the entropies of these K sets. H(z | x) is the mean over the N inputs of the entropy of the K
    draws.

    Estimated scores are too small, and fewer samples give smaller scores. The difference of the two
    entropies is therefore biased unless K = N. If the entropy of the encoder is known in closed
    form, give this entropy as ``conditional``, and use a calibrated estimator such as
    ``SSGE(calibrate="stein")``.

        >>> import torch, mige_ext as mige
        >>> mean, log_sigma = torch.randn(2, 64, 1, 3, requires_grad=True)
        >>> z = mean + log_sigma.exp() * torch.randn(64, 4, 3)     # 4 draws for each of 64 inputs
        >>> gaussian_entropy = log_sigma.sum((-2, -1))             # up to a constant
        >>> mige.encoder_information(
        ...     z, estimator=mige.SSGE(calibrate="stein"), conditional=gaussian_entropy
        ... ).backward()

    Args:
        z: K reparameterized draws for each of N inputs, (..., N, K, d) with N >= 2.
        estimator: any object with a method ``score``; by default :data:`DEFAULT_ESTIMATOR`.
        conditional: a differentiable tensor of any shape, whose mean is H(z | x) up to a constant.
            By default H(z | x) is estimated from the draws, which needs K >= 2.
        group: a process group whose ranks' inputs form one batch, see :mod:`mige_ext.distributed`.

    Returns:
        A scalar, whose gradients with respect to z and ``conditional`` are those of I(x; z) in
        nats.

    Raises:
        ValueError, TypeError: an argument is not as described or not finite.
        MemoryError: the estimator needs more than the free memory of the device.

    Cost:
        K scores of N samples and, without ``conditional``, N scores of K samples.
    """
    estimator = checked_estimator(estimator)
    batch = global_batch(group, partial(_require_draws, z, conditional), -3, z=z)
    _misuse.warn_of_swapped_draws(z.shape[-2], z.shape[-3] if batch is None else batch.total)
    _misuse.warn_without_gradient(z=z, conditional=conditional)
    _misuse.warn_of_values(z=z.transpose(-3, -2))
    _recording.begin("encoder_information")
    marginal = entropy_surrogate(z.transpose(-3, -2), estimator, batch)
    weight = 1.0 if batch is None else batch.weight
    # H(z | x) of an input does not depend on the inputs of other ranks.
    if conditional is None:
        given_x = entropy_surrogate(z, estimator, None, "z given x")
    else:
        given_x = (conditional / max(conditional.numel(), 1)).sum()
    return named_encoder_information(marginal - weight * given_x)


def _require_draws(z: Tensor, conditional: Tensor | None, min_inputs: int) -> None:
    _checks.require_tensor("z", z)
    min_draws = 2 if conditional is None else 1
    shape = z.shape
    if z.dim() < 3 or shape[-3] < min_inputs or shape[-2] < min_draws or shape[-1] < 1:
        bound = f"N >= {min_inputs}, " if min_inputs else ""
        message = (
            f"z must have shape (..., N, K, d) with {bound}K >= {min_draws} and d >= 1, "
            f"got {_checks.shape(z)}"
        )
        one_input = min_inputs == 2 and z.dim() >= 3 and shape[-3] == 1
        raise ValueError(message + _checks.ONE_SAMPLE if one_input else message)
    if conditional is None:
        return
    _checks.require_tensor("conditional", conditional)
    _checks.require_same_device("conditional", conditional, "z", z)
    if conditional.numel() == 0 and shape[-3] > 0:  # A rank may have no input.
        raise ValueError(
            f"conditional must have at least one value, got {_checks.shape(conditional)}"
        )
    _checks.require_finite(conditional=conditional)
