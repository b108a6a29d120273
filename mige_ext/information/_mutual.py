"""Surrogates of the mutual information of two variables, and of a code and its data."""

from functools import partial
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

from mige_ext import _checks, _misuse, _recording
from mige_ext._gradients import information_with
from mige_ext._surrogate import (
    CodeInformation,
    MutualInformation,
    Surrogate,
    may_need_gradient,
    surrogate,
)
from mige_ext.distributed import GlobalBatch, distribute, global_batch, standardized_block
from mige_ext.information._categories import (
    conditional_information,
    information_of_category,
    is_category,
)
from mige_ext.information._common import checked_estimator, require_projection
from mige_ext.projection import RandomProjection
from mige_ext.scores.base import ScoreEstimator


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

    Maximize it to align two representations (circumstance II of the paper). Minimize it with
    ``marginal="own"`` to remove from z the information about x.

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

    The gradient does not depend on the units of x and z. For "qis", and for an estimator with one
    bandwidth for all columns (:attr:`.FittableEstimator.depends_on_scale`), x and z are each
    divided by their root mean square deviation first, unless the bandwidth is a number, which has
    the unit of the samples.

    Args:
        x: samples, (..., M, d_x) with M >= 2, paired by row with z; or a category, (..., M), of any
            integers or booleans.
        z: samples, (..., M, d_z). Leading dimensions are independent groups, over which the result
            is the mean.
        estimator: any object with a method ``score``; by default :data:`DEFAULT_ESTIMATOR`.
        projection: a map that is applied first to an x of high dimension (called scalable SSGE in
            the paper).
        marginal: where the scores of the marginals come from.

            - "paired": from x alone and from z alone. The score of the pair (x, z) may start from
              these two scores (:meth:`.AdaptiveScore.score_pair`), so that errors cancel. An
              estimator without a method ``score_pair`` uses "own".
            - "own": from x alone and from z alone. The score of the pair is estimated separately,
              and is shrunk more, because the pair has more dimensions. Minimizing I(x; z) then also
              contracts z (:func:`negentropy`).
            - "matched": from pairs (x, z) with x permuted at random, which have the density
              p(x) p(z). All scores are then shrunk alike, and for independent x and z the expected
              gradient is 0 with any estimator.

            For a category x, "paired" is the gradient of Gaussian classifiers, which takes no
            ``estimator``. "own" is the score within the class minus the score of z. "matched" is
            the score within the class minus the score within classes that are permuted at random.
            With "own" and "matched", classes of 1 or 2 samples get no gradient.
        given: a category y, (..., M), of any integers or booleans. For an x with a density, classes
            of y with 1 or 2 samples add nothing.
        group: a process group whose ranks' samples form one batch, see :mod:`mige_ext.distributed`.

    Returns:
        A scalar, whose gradients with respect to x and z are the gradients of I(x; z) in nats.

    Raises:
        ValueError, TypeError: an argument is not as described or not finite. A category x is given
            with ``projection``, or with "paired" and ``estimator``.
        RuntimeError, NotImplementedError: a call with a category is compiled by ``torch.compile``,
            captured in a CUDA graph, or mapped by ``torch.func.vmap``.
        MemoryError: the estimator needs more than the free memory of the device.

    Cost:
        One score of (x, z). "own" adds a score of each argument that requires a gradient, "paired"
        adds scores of x and of z, and "matched" adds a score of permuted pairs. A score takes
        O(M³ + M²(d_x + d_z)) for each group. The backward pass multiplies by a scalar.

        For a category x of K classes, "paired" takes O(M K d² + K d³) for z of d dimensions. "own"
        takes a score of each class and a score of z, and "matched" two scores of each class. On
        CUDA the host waits for the sizes of the classes.
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
                f"x must have a floating-point dtype, got {x.dtype}, because projection is "
                f"{projection!r}; leave projection out if x is a category"
            )
        return information_of_category(x, z, given, estimator, marginal, group)
    estimator = checked_estimator(estimator)
    require_projection(projection)
    if given is not None:
        projected = projection or (lambda x: x)
        return conditional_information(x, z, given, estimator, marginal, group, projected)
    check = partial(_checks.require_paired, "x", x, "z", z, may_be_category=True)
    batch = global_batch(group, check, x=x, z=z)
    _misuse.warn_without_gradient(x=x, z=z)
    _misuse.warn_of_equal(x, z)
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
    """Surrogate of ``I(x; z + noise·ρ·ε)``, the information of a code about x through a channel.

    This is InfoMax for the code z = E(x) of a deterministic encoder (circumstance I of the paper).
    ε ~ N(0, I) is drawn in each call. ρ is the root mean square deviation of z over samples and
    columns, without constant columns.

    Without noise, I(x; z) is infinite for every such code. Training then increases the entropy of
    z, which favors a code without clusters. With noise, details of z that are smaller than
    ``noise·ρ`` carry no information. The gradient does not depend on the units of x and z.

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
        noise: standard deviation of the channel's noise relative to ρ, at least 0.
        estimator: any object with a method ``score``; by default :data:`DEFAULT_ESTIMATOR`.
        projection: a map that is applied first to an x of high dimension.
        group: a process group whose ranks' samples form one batch, see :mod:`mige_ext.distributed`.

    Returns:
        A scalar, whose gradients with respect to x and z are the gradients of the information in
        nats, including the derivative of ρ.

    Raises:
        ValueError, TypeError: an argument is not as described or not finite.
        MemoryError: the estimator needs more than the free memory of the device.

    Cost:
        The cost of :func:`mutual_information`.

    The noise comes from torch's global random generator. With ``group``, ranks with equal seeds get
    different noise.
    """
    _checks.require_not_negative("noise", noise)
    estimator = checked_estimator(estimator)
    require_projection(projection)
    batch = global_batch(group, partial(_checks.require_paired, "x", x, "z", z), x=x, z=z)
    if batch is None:  # with a group, global_batch has checked z
        _checks.require_finite(z=z)  # before noise is added
    _misuse.warn_without_gradient(x=x, z=z)
    _misuse.warn_of_values(z=z)
    code, *_ = standardized_block(z, batch)
    received = code + noise * _noise_like(code, batch)
    _recording.begin("code_information")
    return _information(CodeInformation, x, received, estimator, projection, "paired", batch)


def _noise_like(code: Tensor, batch: GlobalBatch | None) -> Tensor:
    """Standard normal noise, which also differs between ranks whose generators are equal."""
    if batch is None:
        return torch.randn_like(code)
    common = int(torch.randint(2**32, (), device="cpu"))
    # The generator of the CPU uses the low 32 bits of a seed. The factor is odd, so that all ranks
    # get different seeds.
    generator = torch.Generator(code.device).manual_seed((common + batch.rank * 0x9E3779B9) % 2**32)
    return torch.empty_like(code).normal_(generator=generator)


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
    compute = information_with(marginal, estimator, may_need_gradient(x), may_need_gradient(z))
    return surrogate(kind, compute, x, z)
