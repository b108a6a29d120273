"""Surrogates of the entropy and of the negentropy of one variable."""

from dataclasses import dataclass
from functools import partial

import torch.distributed as dist
from torch import Tensor

from mige_ext import _checks, _misuse, _recording
from mige_ext._gradients import negentropy_and_gradient
from mige_ext._surrogate import Negentropy, surrogate
from mige_ext.distributed import distribute, global_batch
from mige_ext.information._common import DEFAULT_ESTIMATOR, checked_estimator, entropy_surrogate
from mige_ext.scores.adaptive import AdaptiveScore
from mige_ext.scores.base import ScoreEstimator


def entropy(
    z: Tensor, *, estimator: ScoreEstimator | None = None, group: "dist.ProcessGroup | None" = None
) -> Tensor:
    """Surrogate of the entropy H(z), with the gradient ``−∇ log q(z) / (number of samples)``.

    Fix the scale of z before you maximize its entropy, because a larger scale has more entropy.

        >>> import torch, mige_ext as mige
        >>> linear, scale = torch.nn.Linear(8, 2), torch.nn.BatchNorm1d(2, affine=False)
        >>> (-mige.entropy(scale(linear(torch.randn(64, 8))))).backward()    # maximizes H(z)

    Args:
        z: samples, (..., M, d) with M >= 2. Leading dimensions are independent groups, over which
            the result is the mean. For z of shape (N, K, d), this mean is the conditional entropy
            H(z | n), where n is the index of the group.
        estimator: any object with a method ``score``; by default :data:`DEFAULT_ESTIMATOR`.
        group: a process group whose ranks' samples form one batch, see :mod:`mige_ext.distributed`.

    Returns:
        A scalar, whose gradient is the gradient of H(z) in nats.

    Raises:
        ValueError, TypeError: an argument is not as described or not finite.
        MemoryError: the estimator needs more than the free memory of the device.

    Cost:
        One score: O(M³ + M²d) for each group. The backward pass multiplies by a scalar.
    """
    estimator = checked_estimator(estimator)
    check = partial(_checks.require_samples, "z", z)
    batch = global_batch(group, check, z=z)
    _misuse.warn_without_gradient(z=z)
    _misuse.warn_of_values(z=z)
    _recording.begin("entropy")
    return entropy_surrogate(z, estimator, batch)


def negentropy(
    z: Tensor, *, estimator: AdaptiveScore | None = None, group: "dist.ProcessGroup | None" = None
) -> Tensor:
    """Surrogate of the negentropy, ``J(z) = H(Gaussian with the covariance of z) − H(z) >= 0``.

    The gradient is ``(ŝ(z) − ŝ_G(z)) / (number of samples)``, with ŝ the score of the estimator and
    ŝ_G the score of its Gaussian part (:meth:`.AdaptiveScore.gaussian_score`). J is zero for
    Gaussian samples, and invertible linear maps of z do not change J. The value of the surrogate
    means nothing.

    Maximizing J *contracts* z: the samples move into clusters at a fixed covariance, and z loses
    all information that the rest of the loss does not need. Minimizing J makes z Gaussian. To
    remove the information about one variable, use :func:`mutual_information`.

        >>> import torch, mige_ext as mige
        >>> z = torch.randn(256, 4).tanh().requires_grad_()
        >>> (-0.005 * mige.negentropy(z)).backward()              # a small weight: contract z
        >>> z.grad.shape
        torch.Size([256, 4])

    Fix the scale of z and use a small weight (``docs/removing.md`` has a recipe).

    Args:
        z: samples, (..., M, d) with M >= 2. Leading dimensions are independent groups, over which
            the result is the mean.
        estimator: an :class:`.AdaptiveScore`, whose Gaussian part is known; by default
            :data:`DEFAULT_ESTIMATOR`.
        group: a process group whose ranks' samples form one batch, see :mod:`mige_ext.distributed`.

    Returns:
        A scalar, whose gradient is the gradient of J(z) in nats. The gradient is 0 up to rounding
        if the estimator uses its Gaussian part unchanged.

    Raises:
        ValueError, TypeError: an argument is not as described or not finite.
        MemoryError: the estimator needs more than the free memory of the device.

    Cost:
        One score: O(M³ + M²d) for each group. The backward pass multiplies by a scalar.

    Comon, "Independent component analysis, a new concept?" (Signal Processing 36(3), 1994).
    """
    if not isinstance(estimator, AdaptiveScore | None):
        raise TypeError(f"estimator must be an AdaptiveScore or None, got {estimator!r}")
    check = partial(_checks.require_samples, "z", z)
    batch = global_batch(group, check, z=z)
    _misuse.warn_without_gradient(z=z)
    _misuse.warn_of_values(z=z)
    _recording.begin("negentropy")
    part, (z,) = distribute(_NonGaussianPart(estimator or DEFAULT_ESTIMATOR), batch, z)
    return surrogate(Negentropy, partial(negentropy_and_gradient, part), z)


@dataclass(frozen=True)
class _NonGaussianPart:
    """The score of an estimator minus the score of its Gaussian part."""

    estimator: AdaptiveScore

    def score(self, samples: Tensor) -> Tensor:
        return self.estimator.departure(samples)
