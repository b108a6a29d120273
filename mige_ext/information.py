"""Entropy and mutual information whose gradients are right, and whose values are not.

With ``z = E_ψ(x)``, the gradient of an entropy needs the score of z alone:

    ∇_ψ H(z) = −E[∇_z log q(z) ∂z/∂ψ]

so a score estimator gives ∇H, and ``I(x; z) = H(x) + H(z) − H(x, z)`` gives ∇I, without ever
estimating H or I (Wen et al., ICLR 2020). The functions here are *surrogates*: scalars with that
gradient. Maximise and minimise them as the quantities they stand for, and do not read their values:
by Stein's identity ``E[z·∇ log q(z)] = −d``, so an entropy surrogate is near d for any density.

**To remove a nuisance** s from a representation of your own, descend ``I(s; z)`` beside the loss of
the task. Fix the scale of z, or its entropy is all that falls; and give s a density: take an
angle as its sine and cosine, and add a little noise to them, as to an s that takes few values.

    >>> import torch, mige_ext as mige
    >>> x, s = torch.randn(256, 20), torch.randn(256, 1)             # s is what z shall not tell
    >>> x, label = x + s, (x[:, 0] > 0).long()
    >>> encoder = torch.nn.Sequential(torch.nn.Linear(20, 4), torch.nn.BatchNorm1d(4, affine=False))
    >>> head, beta = torch.nn.Linear(4, 2), 0.1                  # the larger β, the less is left
    >>> adam = torch.optim.Adam([*encoder.parameters(), *head.parameters()], 1e-2)
    >>> for _ in range(3):
    ...     z = encoder(x)
    ...     leak = mige.mutual_information(s, z)
    ...     loss = torch.nn.functional.cross_entropy(head(z), label) + beta * leak
    ...     adam.zero_grad(); loss.backward(); adam.step()

How much is left only an attacker tells, trained on the finished z: the value of ``leak`` does not.
`mige_ext.experiments.removal` measures it so, beside the alternatives.

Gradients reach whichever argument requires one, in its own dtype; scores are computed in float32 at
least, under autocast too. A second derivative raises an error.
"""

from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from mige_ext import _checks
from mige_ext._precision import at_least_float32
from mige_ext._torch_compat import is_transforming
from mige_ext.distributed import Share, across
from mige_ext.projection import RandomProjection
from mige_ext.scores.adaptive import AdaptiveScore
from mige_ext.scores.base import ScoreEstimator, require_estimator, stein_sum

if TYPE_CHECKING:  # which a torch built without its distributed part does not have
    from torch.distributed import ProcessGroup

#: Its gradients of information are less biased than with the Gaussian part of the best scores.
DEFAULT_ESTIMATOR = AdaptiveScore(gaussian="ridge")


def entropy(
    z: Tensor,
    *,
    estimator: ScoreEstimator | None = None,
    group: "ProcessGroup | None" = None,
) -> Tensor:
    """Surrogate of the entropy H(z), in nats.

    Args:
        z: samples, (..., M, d) with M >= 2. Leading dimensions are groups that do not see each
            other, over which the result is the mean: z of shape (N, K, d) gives H(z | group).
        estimator: anything with a ``score`` method; :data:`DEFAULT_ESTIMATOR` if not.
        group: a torch.distributed process group, whose ranks' z count as one batch; gradients
            are what DDP averages to those of one process, see :mod:`mige_ext.distributed`.

    Returns:
        A scalar. Its gradient in z is ``−∇ log q(z) / (number of samples)``.

    Raises:
        ValueError, TypeError: z is not such a tensor, or not finite.

    Cost:
        One score: O(M³ + M²d) for each group; the backward pass multiplies by a scalar.
    """
    estimator = _estimator(estimator)
    if group is None:
        _checks.require_samples("z", z)
        return _entropy(z, estimator)
    return _entropy(z, estimator, Share.of(group, lambda: _checks.require_samples("z", z, 0), z=z))


def _entropy(z: Tensor, estimator: ScoreEstimator, share: Share | None = None) -> Tensor:
    if share is not None:
        estimator, (z,) = across(estimator, share, z)
    result: Tensor
    result, _ = _applied(_Entropy, z, estimator)
    return result


def mutual_information(
    x: Tensor,
    z: Tensor,
    *,
    estimator: ScoreEstimator | None = None,
    projection: RandomProjection | None = None,
    marginal: Literal["own", "matched"] = "own",
    group: "ProcessGroup | None" = None,
) -> Tensor:
    """Surrogate of the mutual information ``I(x; z) = H(x) + H(z) − H(x, z)``, in nats.

    Circumstance I: x is data and z its deterministic code; circumstance II: both are
    representations. A marginal whose argument needs no gradient is not estimated.

    For a deterministic ``z = E(x)`` the pair (x, z) has no density; the joint term then acts as a
    penalty on codes that cannot be predicted from x at the scale of the bandwidth.

        >>> import torch, mige_ext as mige
        >>> x, z = torch.randn(2, 64, 3), torch.randn(2, 64, 2, requires_grad=True)
        >>> (-mige.mutual_information(x, z)).backward()
        >>> z.grad.shape
        torch.Size([2, 64, 2])

    Args:
        x: samples, (..., M, d_x) with M >= 2, paired by row with z.
        z: samples, (..., M, d_z). Leading dimensions are groups, over which the result is the mean.
        estimator: anything with a ``score`` method; :data:`DEFAULT_ESTIMATOR` if not.
        projection: applied to x first, for x of high dimension ("scalable SSGE").
        marginal: where the scores of the marginals come from.

            - "own": x alone and z alone. An estimator shrinks the score of the joint, of more
              dimensions, more than theirs; what is left over acts like an entropy.
            - "matched": the pairs (x, z) with x permuted at random, a sample of the product of the
              marginals with the joint's size and dimensions. Joint and marginals are then shrunk
              alike: for independent x and z the expected gradient is 0, whatever the estimator.
        group: a torch.distributed process group, whose ranks' pairs count as one batch; gradients
            are what DDP averages to those of one process, see :mod:`mige_ext.distributed`.

    Returns:
        A scalar with the gradient of I(x; z) in x and z.

    Raises:
        ValueError, TypeError: x and z are not such tensors, do not fit, or are not finite; or
            ``marginal`` is neither of the two.

    Cost:
        The score of (x, z), and of each argument that requires a gradient or, matched, once more of
        (x, z): O(M³ + M²(d_x + d_z)) for each group; the backward pass multiplies by a scalar.
    """
    if marginal not in ("own", "matched"):
        raise ValueError(f'marginal must be "own" or "matched", got {marginal!r}')
    if marginal == "matched" and group is not None:
        raise ValueError(
            'marginal must be "own" with a group, whose ranks would each permute their own pairs, '
            'got "matched"'
        )
    estimator = _estimator(estimator)
    if projection is not None and not isinstance(projection, RandomProjection):
        raise TypeError(f"projection must be a RandomProjection, got {projection!r}")
    share = None
    if group is None:
        _checks.require_paired("x", x, "z", z)
    else:
        share = Share.of(group, lambda: _checks.require_paired("x", x, "z", z, 0), x=x, z=z)
    if projection is not None:
        x = projection(x)
    if share is not None:
        estimator, (x, z) = across(estimator, share, x, z)
    needs = x.requires_grad, z.requires_grad, marginal == "matched"
    result: Tensor
    result, *_ = _applied(_MutualInformation, x, z, estimator, *needs)
    return result


def encoder_information(
    z: Tensor,
    *,
    estimator: ScoreEstimator | None = None,
    conditional: Tensor | None = None,
    group: "ProcessGroup | None" = None,
) -> Tensor:
    """Surrogate of ``I(x; z) = H(z) − H(z | x)`` for a stochastic encoder (circumstance III).

    H(z) is the mean over the K draws of the entropy of N samples of the marginal, one from each
    input; H(z | x) the mean over the N inputs of the entropy of their K draws. Kernel scores shrink
    with fewer samples, so two terms from different sample sizes do not subtract to I: prefer K = N
    or, where the encoder's entropy is known in closed form, ``conditional``, with an estimator that
    calibrates (``SSGE(calibrate="stein")``).

        >>> import torch, mige_ext as mige
        >>> mean, sigma = torch.randn(2, 64, 1, 3, requires_grad=True).exp()
        >>> z = mean + sigma * torch.randn(64, 4, 3)               # 4 draws for each of 64 inputs
        >>> gaussian_entropy = sigma.log().sum((-2, -1))           # up to a constant
        >>> information = mige.encoder_information(z, conditional=gaussian_entropy)

    Args:
        z: K reparameterised draws for each of N inputs, (..., N, K, d), N >= 2.
        estimator: anything with a ``score`` method; :data:`DEFAULT_ESTIMATOR` if not.
        conditional: H(z | x) up to a constant, differentiable, of any shape: its mean is taken.
            From the draws, K >= 2, if not given.
        group: a torch.distributed process group, whose ranks' inputs count as one batch; gradients
            are what DDP averages to those of one process, see :mod:`mige_ext.distributed`.

    Returns:
        A scalar with the gradient of I(x; z) in z (and in ``conditional``).

    Raises:
        ValueError, TypeError: z or ``conditional`` is not such a tensor, or not finite.

    Cost:
        K scores of N samples, and N scores of K samples without ``conditional``.
    """
    estimator = _estimator(estimator)
    if group is None:
        _require_draws(z, conditional, 2)
        marginal, weight = _entropy(z.transpose(-3, -2), estimator), 1.0
    else:
        share = Share.of(group, lambda: _require_draws(z, conditional, 0), -3, z=z)
        marginal, weight = _entropy(z.transpose(-3, -2), estimator, share), share.weight
    # The other term is of each input alone.
    if conditional is None:
        return marginal - weight * entropy(z, estimator=estimator)
    return marginal - weight * (conditional / max(conditional.numel(), 1)).sum()


def _require_draws(z: Tensor, conditional: Tensor | None, min_inputs: int) -> None:
    _checks.require_tensor("z", z)
    min_draws = 2 if conditional is None else 1
    shape = z.shape
    if z.dim() < 3 or shape[-3] < min_inputs or shape[-2] < min_draws or shape[-1] < 1:
        bound = f"N >= {min_inputs}, " if min_inputs else ""
        raise ValueError(
            f"z must have shape (..., N, K, d) with {bound}K >= {min_draws} and d >= 1, "
            f"got {_checks.shape(z)}"
        )
    if conditional is None:
        return
    _checks.require_tensor("conditional", conditional)
    _checks.require_same_device("conditional", conditional, "z", z)
    if conditional.numel() == 0 and shape[-3] > 0:  # a rank may hold no input
        raise ValueError(
            f"conditional must hold at least one value, got {_checks.shape(conditional)}"
        )
    if _checks.looking_is_free(conditional):
        _checks.require_finite(conditional=conditional)


def _estimator(estimator: ScoreEstimator | None) -> ScoreEstimator:
    if estimator is None:
        return DEFAULT_ESTIMATOR
    require_estimator(estimator)
    return estimator


def _entropy_and_gradient(
    estimator: ScoreEstimator, samples: Tensor, /, **arguments: Tensor
) -> tuple[Tensor, Tensor]:
    """The surrogate's value, ``−mean s·(z − m)``, and its gradient ``−s / (number of samples)``.

    ``arguments`` are the tensors that the samples are made of, to name the one at fault.
    """
    samples = at_least_float32(samples)
    try:
        scores = estimator.score(samples)
    except ValueError:
        _checks.require_finite(**arguments)
        raise
    if scores.shape != samples.shape:
        raise ValueError(
            f"estimator must give scores of the shape of its samples, {_checks.shape(samples)}, "
            f"got {_checks.shape(scores)} from {estimator!r}"
        )
    gradient = -scores / max(samples.shape[:-1].numel(), 1)
    value = stein_sum(samples, gradient).sum()
    if _checks.looking_is_free(value) and not value.isfinite():
        _checks.require_finite(**arguments)
        raise ValueError(f"estimator must give finite scores, got {estimator!r}")
    return value, gradient


def _applied(function: type[torch.autograd.Function], *args: Any) -> Any:
    """``function.apply``, in the style with ``setup_context`` only where torch.func asks for it.

    torch binds the arguments of that style by their signature, which costs a call 25 µs.
    """
    if torch.compiler.is_compiling() or is_transforming():
        return function.apply(*args)
    return _in_old_style(function).apply(*args)


@cache
def _in_old_style(function: Any) -> type[torch.autograd.Function]:
    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *args: Any) -> Any:
            output = function.forward(*args)
            function.setup_context(ctx, args, output)
            return output

        backward = function.backward

    Function.__name__ = function.__name__
    return Function


class _Surrogate(torch.autograd.Function):
    """One result, its gradients beside it: torch.func lets a context save outputs alone."""

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        raise NotImplementedError(
            "surrogates of entropy and mutual information do not work under torch.func.vmap: give "
            "the groups as leading dimensions, (..., M, d); the result is the mean over them"
        )


class _Entropy(_Surrogate):
    @staticmethod
    def forward(z: Tensor, estimator: ScoreEstimator) -> tuple[Tensor, Tensor]:
        return _entropy_and_gradient(estimator, z.detach(), z=z)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _, gradient = output
        ctx.mark_non_differentiable(gradient)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(inputs[0], gradient)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: None) -> tuple[Tensor, None]:
        z, gradient = ctx.saved_tensors
        return _applied(_FirstDerivative, grad * gradient, z), None


class _MutualInformation(_Surrogate):
    @staticmethod
    def forward(
        x: Tensor, z: Tensor, estimator: ScoreEstimator, needs_x: bool, needs_z: bool, matched: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        x_value, z_value = x.detach(), z.detach()
        dtype = torch.promote_types(x.dtype, z.dtype)

        def joint(x_value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            """H(x, z), and its gradients in x and z."""
            pairs = torch.cat((x_value.to(dtype), z_value.to(dtype)), -1)
            value, gradient = _entropy_and_gradient(estimator, pairs, x=x, z=z)
            return value, *gradient.split([x.shape[-1], z.shape[-1]], -1)

        value, gradient_x, gradient_z = (-of_joint for of_joint in joint(x_value))
        if matched:
            order = torch.randperm(x.shape[-2], device=x.device)
            value_of_both, permuted, marginal = joint(x_value.index_select(-2, order))
            value, gradient_z = value + value_of_both, gradient_z + marginal
            gradient_x = gradient_x.index_add(-2, order, permuted)
            return value, gradient_x, gradient_z
        if needs_x:
            value_x, marginal = _entropy_and_gradient(estimator, x_value, x=x)
            value, gradient_x = value + value_x, gradient_x + marginal
        if needs_z:
            value_z, marginal = _entropy_and_gradient(estimator, z_value, z=z)
            value, gradient_z = value + value_z, gradient_z + marginal
        return value, gradient_x, gradient_z

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        x, z, *_ = inputs
        _, gradient_x, gradient_z = output
        ctx.mark_non_differentiable(gradient_x, gradient_z)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, z, gradient_x, gradient_z)

    @staticmethod
    def backward(
        ctx: Any, grad: Tensor, _x: None, _z: None
    ) -> tuple[Tensor | None, Tensor | None, None, None, None, None]:
        x, z, gradient_x, gradient_z = ctx.saved_tensors
        needs_x, needs_z, *_ = ctx.needs_input_grad
        return (
            _applied(_FirstDerivative, grad * gradient_x, x) if needs_x else None,
            _applied(_FirstDerivative, grad * gradient_z, z) if needs_z else None,
            None,
            None,
            None,
            None,
        )


class _FirstDerivative(torch.autograd.Function):
    """A gradient, in the dtype of its argument, that refuses to be differentiated.

    ``once_differentiable`` would not do: it lets a gradient penalty pass whose own gradient is then
    silently zero, because the incoming gradient, a constant, requires none.
    """

    generate_vmap_rule = True  # for torch.func.jacrev

    @staticmethod
    def forward(gradient: Tensor, argument: Tensor) -> Tensor:
        return gradient.to(argument.dtype, copy=True)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        raise RuntimeError(
            "surrogates of entropy and mutual information are differentiable once: the score "
            "estimate in their gradient has no derivative"
        )
