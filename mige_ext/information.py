"""Surrogates of entropy and mutual information: the gradient is right, the value means nothing.

With ``z = E_ψ(x)``, the gradient of the entropy needs only the score of z:

    ∇_ψ H(z) = −E[∇_z log q(z) ∂z/∂ψ]

A score estimator therefore gives ∇H, and ``I(x; z) = H(x) + H(z) − H(x, z)`` gives ∇I, without an
estimate of H or I (Wen et al., ICLR 2020). The functions of this module return *surrogates*, which
are scalars with that gradient. Maximize or minimize them like the quantity itself, and do not read
their values: by Stein's identity ``E[z·∇ log q(z)] = −d``, an entropy surrogate is near d for any
density.

To remove a nuisance s from a representation z, minimize ``I(s; z)`` beside the loss of the task, at
a fixed scale of z. ``docs/removing.md`` has the recipe and its conditions.

Gradients reach every argument that requires one, in its own dtype. Scores are computed in float32
or float64, also under autocast. A second derivative raises an error.

A call that is valid but probably not meant gives a :class:`.MigeWarning`, once for each kind.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

from mige_ext import _checks, _misuse, _recording
from mige_ext._categories import (
    conditional_information,
    information_of_category,
    is_category,
)
from mige_ext._gradients import (
    entropy_and_gradient,
    matched_information,
    negentropy_and_gradient,
    own_information,
    pair_information,
)
from mige_ext._precision import saturated
from mige_ext._surrogate import (
    CodeInformation,
    Entropy,
    MutualInformation,
    Negentropy,
    Surrogate,
    named_encoder_information,
    surrogate,
)
from mige_ext.distributed import (
    GlobalBatch,
    distribute,
    global_batch,
    standardized_block,
)
from mige_ext.projection import RandomProjection
from mige_ext.scores.adaptive import AdaptiveScore
from mige_ext.scores.base import (
    ScoreEstimator,
    require_estimator,
    scores_pairs,
)

#: The default uses gaussian="ridge": its gradients of information are less biased than those of
#: "qis", which gives the best scores.
DEFAULT_ESTIMATOR = AdaptiveScore()


def entropy(
    z: Tensor, *, estimator: ScoreEstimator | None = None, group: "dist.ProcessGroup | None" = None
) -> Tensor:
    """Surrogate of the entropy H(z), with the gradient ``−∇ log q(z) / (number of samples)``.

    Args:
        z: samples, (..., M, d) with M >= 2. Leading dimensions are independent groups, over which
            the result is the mean. For z of shape (N, K, d) it is the conditional entropy of z,
            given which of the N groups z belongs to.
        estimator: any object with a method ``score``; by default :data:`DEFAULT_ESTIMATOR`.
        group: a process group whose ranks' samples form one batch, see :mod:`mige_ext.distributed`.

    Returns:
        A scalar. Its gradient in z is the gradient of H(z) in nats.

    Raises:
        ValueError, TypeError: an argument is not as described or not finite.
        MemoryError: the estimator needs more than the free memory of the device.

    Cost:
        One score: O(M³ + M²d) for each group. The backward pass multiplies by a scalar.
    """
    estimator = _estimator(estimator)
    check = partial(_checks.require_samples, "z", z)
    batch = global_batch(group, check, z=z)
    _misuse.warn_without_gradient(z=z)
    _misuse.warn_of_values(z=z)
    _recording.begin("entropy")
    return _entropy(z, estimator, batch)


def negentropy(
    z: Tensor, *, estimator: AdaptiveScore | None = None, group: "dist.ProcessGroup | None" = None
) -> Tensor:
    """Surrogate of the negentropy, ``J(z) = H(Gaussian with the covariance of z) − H(z) >= 0``.

    Its gradient is ``(ŝ(z) − ŝ_G(z)) / (number of samples)``, with ŝ the score of the estimator and
    ŝ_G the score of its Gaussian part (:meth:`.AdaptiveScore.gaussian_score`). J is zero for
    Gaussian samples, and invertible linear maps of z do not change J. The value of the surrogate
    means nothing: it is near 0 for any density.

    Maximizing J *contracts* z: the samples move into clusters at a fixed covariance. Information
    that the rest of a loss does not need is lost, whatever it is about. Minimizing J makes z
    Gaussian. :func:`mutual_information` measures the dependence on one variable instead.

        >>> import torch, mige_ext as mige
        >>> z = torch.randn(256, 4).tanh().requires_grad_()
        >>> (-0.005 * mige.negentropy(z)).backward()              # a small weight: contract z
        >>> z.grad.shape
        torch.Size([256, 4])

    Fix the scale of z and use a small weight. ``docs/removing.md`` has a recipe, and the weights
    with which a code collapsed.

    Args:
        z: samples, (..., M, d) with M >= 2. Leading dimensions are independent groups, over which
            the result is the mean.
        estimator: an :class:`.AdaptiveScore`, whose Gaussian part is known; by default
            :data:`DEFAULT_ESTIMATOR`.
        group: a process group whose ranks' samples form one batch, see :mod:`mige_ext.distributed`.

    Returns:
        A scalar. Its gradient in z is the gradient of J(z) in nats. The gradient is 0 up to
        rounding where the estimator finds no correction of its Gaussian part.

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


def mutual_information(
    x: Tensor,
    z: Tensor,
    *,
    estimator: ScoreEstimator | None = None,
    projection: RandomProjection | None = None,
    marginal: Literal["paired", "own", "matched"] = "paired",
    given: Tensor | None = None,
    group: "dist.ProcessGroup | None" = None,
) -> Tensor:
    """Surrogate of the mutual information ``I(x; z) = H(x) + H(z) − H(x, z)``.

    x and z may both be representations (circumstance II of the paper), and one of them may be data.
    The marginal entropy of an argument that needs no gradient is not estimated.

    The gradient does not depend on the units of x and z. The default and the Gaussian estimators
    scale the pair themselves. For an estimator with one bandwidth for all columns
    (:attr:`.FittableEstimator.has_common_bandwidth`), x and z are first divided by their root mean
    square deviations, each as one block. A bandwidth that is a number has a unit; it is applied to
    x and z as they are.

    For a deterministic ``z = E(x)`` the pair (x, z) has no density, and I(x; z) is infinite. To
    train such an encoder, use :func:`code_information`.

        >>> import torch, mige_ext as mige
        >>> x, z = torch.randn(2, 64, 3), torch.randn(2, 64, 2, requires_grad=True)
        >>> (-mige.mutual_information(x, z)).backward()
        >>> z.grad.shape
        torch.Size([2, 64, 2])

    An integer or boolean x is a category, ``I(x; z) = H(z) − Σ_c p(c) H(z | x = c)``. With
    ``given``, the information is conditional, ``Σ_y p(y) I(x; z | y)``. ``docs/categories.md`` says
    which ``marginal`` to choose.

        >>> s = torch.randint(0, 3, (2, 64))
        >>> mige.mutual_information(s, z, marginal="own", given=s > 0).backward()

    Args:
        x: samples, (..., M, d_x) with M >= 2, paired by row with z; or a category, (..., M), of any
            integers or booleans.
        z: samples, (..., M, d_z). Leading dimensions are independent groups, over which the result
            is the mean.
        estimator: any object with a method ``score``; by default :data:`DEFAULT_ESTIMATOR`.
        projection: a map that is applied first to an x of high dimension (called scalable SSGE in
            the paper).
        marginal: where the scores of the marginals come from.

            - "paired": they are estimated from x alone and from z alone, and the score of the joint
              may start from them (:meth:`.AdaptiveScore.score_pair`). Joint and marginals then err
              alike. An estimator without a method ``score_pair`` uses "own".
            - "own": they are estimated from x alone and from z alone, and the score of the joint is
              estimated without them. An estimator shrinks the score of the joint, which has more
              dimensions, more than the scores of the marginals. The difference between the two
              shrinkages adds a term like an entropy to the gradient: minimizing I(x; z) then also
              contracts z (:func:`negentropy`).
            - "matched": they come from pairs (x, z) with x permuted at random. Such pairs are
              samples of the product of the marginals, with the size and the dimensions of the
              joint. Joint and marginals are then shrunk alike: for independent x and z the expected
              gradient is 0 with any estimator.

            For a category x, "paired" is the gradient of Gaussian classifiers, which takes no
            ``estimator``. "own" is the score of z minus the score within the class. "matched" is
            the score within classes that are permuted at random, minus the score within the class.
            With both, the samples of classes of 1 or 2 samples get no gradient.
        given: a category y, (..., M), of any integers or booleans. For an x with a density, classes
            of y of 1 or 2 samples add nothing.
        group: a process group whose ranks' samples form one batch, see :mod:`mige_ext.distributed`.

    Returns:
        A scalar. Its gradients in x and z are the gradients of I(x; z) in nats.

    Raises:
        ValueError, TypeError: an argument is not as described or not finite. For a category x,
            ``projection`` is refused, and ``estimator`` with "paired".
        RuntimeError, NotImplementedError: a call with a category is compiled by ``torch.compile``,
            captured in a CUDA graph, or mapped by ``torch.func.vmap``.
        MemoryError: the estimator needs more than the free memory of the device.

    Cost:
        One score of (x, z). "own" adds one score for each argument that requires a gradient,
        "paired" one of x and one of z, and "matched" one of permuted pairs. A score takes
        O(M³ + M²(d_x + d_z)) for each group. The backward pass multiplies by a scalar.

        For a category x of K classes, "paired" takes O(M K d² + K d³). The other two take a score
        of each class, and "own" a score of z. On CUDA the host waits for the sizes of the classes.
    """
    _checks.require_choice("marginal", marginal, "paired", "own", "matched")
    if marginal == "matched" and group is not None:
        raise ValueError(
            'marginal must be "paired" or "own" with a group, because "matched" would permute only '
            'the pairs within each rank, got "matched"'
        )
    if is_category(x):
        if projection is not None:
            raise ValueError(
                f"x must have a floating-point dtype, got {x.dtype}, unless x is a category; then "
                f"projection must be None, got {projection!r}"
            )
        if estimator is not None:
            require_estimator(estimator)
        default = DEFAULT_ESTIMATOR
        return information_of_category(x, z, given, estimator, default, marginal, group)
    estimator = _estimator(estimator)
    _require_projection(projection)
    if given is not None:
        projected = projection or (lambda x: x)
        return conditional_information(x, z, given, estimator, marginal, group, projected)
    batch = global_batch(group, partial(_checks.require_paired, "x", x, "z", z), x=x, z=z)
    _misuse.warn_without_gradient(x=x, z=z)
    _misuse.warn_of_values(x=x, z=z, few_values=True)
    _recording.begin("mutual_information")
    return _information(MutualInformation, x, z, estimator, projection, marginal, batch)


def code_information(
    x: Tensor,
    z: Tensor,
    *,
    noise: float = 0.6,
    estimator: ScoreEstimator | None = None,
    projection: RandomProjection | None = None,
    group: "dist.ProcessGroup | None" = None,
) -> Tensor:
    """Surrogate of ``I(x; z + noise·s·ε)``, the information of a code about x through a channel.

    This is InfoMax: z = E(x) is the code of a deterministic encoder (circumstance I of the paper),
    ε ~ N(0, I) is drawn in each call, and s is the scale of z: the root mean square deviation over
    samples and columns, without the columns that are constant.

    The channel makes the information finite. Without noise I(x; z) is infinite for every such code.
    Training then increases the entropy of z, which favors a code without clusters. With noise,
    details of z that are smaller than ``noise·s`` carry no information. The gradient does not
    depend on the units of x and z.

        >>> import torch, mige_ext as mige
        >>> x = torch.randn(64, 3)
        >>> z = x[:, :2].tanh().requires_grad_()
        >>> (-mige.code_information(x, z)).backward()
        >>> z.grad.shape
        torch.Size([64, 2])

    Args:
        x: data, (..., M, d_x) with M >= 2, paired by row with z.
        z: codes, (..., M, d_z). Leading dimensions are independent groups, over which the result
            is the mean.
        noise: standard deviation of the channel's noise relative to s, at least 0.
        estimator: any object with a method ``score``; by default :data:`DEFAULT_ESTIMATOR`.
        projection: a map that is applied first to an x of high dimension.
        group: a process group whose ranks' samples form one batch, see :mod:`mige_ext.distributed`.

    Returns:
        A scalar. Its gradients in x and z are the gradients of the information in nats. The
        gradient in z includes the derivative of s.

    Raises:
        ValueError, TypeError: an argument is not as described or not finite.
        MemoryError: the estimator needs more than the free memory of the device.

    Cost:
        That of :func:`mutual_information`. The noise comes from torch's global random generator.
    """
    _checks.require_not_negative("noise", noise)
    estimator = _estimator(estimator)
    _require_projection(projection)
    batch = global_batch(group, partial(_checks.require_paired, "x", x, "z", z), x=x, z=z)
    _misuse.warn_without_gradient(x=x, z=z)
    _misuse.warn_of_values(z=z)
    code, *_ = standardized_block(z, batch)
    received = code + noise * torch.randn_like(code)
    _recording.begin("code_information")
    return _information(CodeInformation, x, received, estimator, projection, "paired", batch)


def encoder_information(
    z: Tensor,
    *,
    estimator: ScoreEstimator | None = None,
    conditional: Tensor | None = None,
    group: "dist.ProcessGroup | None" = None,
) -> Tensor:
    """Surrogate of ``I(x; z) = H(z) − H(z | x)`` of a stochastic encoder (circumstance III).

    For each k, the k-th draws of the N inputs are N samples of the marginal distribution of z. H(z)
    is the mean of the entropies of these K sets. H(z | x) is the mean over the N inputs of the
    entropy of their K draws.

    Estimated scores are too small, and more so with fewer samples. If the two entropies come from
    different numbers of samples, their difference is therefore not I. Choose K = N to estimate both
    from equally many. If the entropy of the encoder is known in closed form, give it as
    ``conditional``, and use a calibrated estimator such as ``SSGE(calibrate="stein")``.

        >>> import torch, mige_ext as mige
        >>> mean, sigma = torch.randn(2, 64, 1, 3, requires_grad=True).exp()
        >>> z = mean + sigma * torch.randn(64, 4, 3)               # 4 draws for each of 64 inputs
        >>> gaussian_entropy = sigma.log().sum((-2, -1))           # up to a constant
        >>> information = mige.encoder_information(
        ...     z, estimator=mige.SSGE(calibrate="stein"), conditional=gaussian_entropy
        ... )

    Args:
        z: K reparameterized draws for each of N inputs, (..., N, K, d) with N >= 2.
        estimator: any object with a method ``score``; by default :data:`DEFAULT_ESTIMATOR`.
        conditional: H(z | x) up to a constant, differentiable, of any shape; the function takes its
            mean. By default H(z | x) is estimated from the draws, which needs K >= 2.
        group: a process group whose ranks' inputs form one batch, see :mod:`mige_ext.distributed`.

    Returns:
        A scalar. Its gradients in z and ``conditional`` are the gradients of I(x; z) in nats.

    Raises:
        ValueError, TypeError: an argument is not as described or not finite.
        MemoryError: the estimator needs more than the free memory of the device.

    Cost:
        K scores of N samples and, without ``conditional``, N scores of K samples.
    """
    estimator = _estimator(estimator)
    batch = global_batch(group, partial(_require_draws, z, conditional), -3, z=z)
    _misuse.warn_of_swapped_draws(z.shape[-2], z.shape[-3] if batch is None else batch.total)
    _misuse.warn_without_gradient(z=z, conditional=conditional)
    _misuse.warn_of_values(z=z.transpose(-3, -2))
    _recording.begin("encoder_information")
    marginal = _entropy(z.transpose(-3, -2), estimator, batch)
    weight = 1.0 if batch is None else batch.weight
    # The conditional term of an input needs no other rank.
    if conditional is None:
        given_x = _entropy(z, estimator, None, "z given x")
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


def _estimator(estimator: ScoreEstimator | None) -> ScoreEstimator:
    if estimator is None:
        return DEFAULT_ESTIMATOR
    require_estimator(estimator)
    return estimator


@dataclass(frozen=True)
class _NonGaussianPart:
    """The score of an estimator minus the score of its Gaussian part."""

    estimator: AdaptiveScore

    def score(self, samples: Tensor) -> Tensor:
        gaussian = self.estimator.gaussian_score(samples)
        return saturated(self.estimator.score(samples) - gaussian)


def _entropy(
    z: Tensor, estimator: ScoreEstimator, batch: GlobalBatch | None, term: str = "z"
) -> Tensor:
    estimator, (z,) = distribute(estimator, batch, z)
    return surrogate(Entropy, partial(entropy_and_gradient, estimator, term=term), z)


def _require_projection(projection: object) -> None:
    if not isinstance(projection, RandomProjection | None):
        raise TypeError(f"projection must be a RandomProjection or None, got {projection!r}")


def _information(
    kind: type[Surrogate],
    x: Tensor,
    z: Tensor,
    estimator: ScoreEstimator,
    projection: RandomProjection | None,
    marginal: str,
    batch: GlobalBatch | None,
) -> Tensor:
    if projection is not None:
        x = projection(x)
    estimator, (x, z) = distribute(estimator, batch, x, z)
    if marginal == "matched":
        return surrogate(kind, partial(matched_information, estimator), x, z)
    needed = x.requires_grad, z.requires_grad
    if marginal == "paired" and scores_pairs(estimator):
        return surrogate(kind, partial(pair_information, estimator, *needed), x, z)
    return surrogate(kind, partial(own_information, estimator, *needed), x, z)
