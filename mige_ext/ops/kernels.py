"""Operators on pairs of points: distances, their quantile, RBF kernels and kernel products."""

from typing import Any

import torch
from torch import Tensor

from mige_ext._precision import no_autocast, per_group, positive, saturated, unit_of
from mige_ext._torch_compat import in_forward_mode, is_transforming
from mige_ext.ops._call import call, real


def squared_distances(x: Tensor, y: Tensor | None = None) -> Tensor:
    """Squared Euclidean distances ``‖x_i − y_j‖²``, from the differences x_i − y_j.

    Unlike the formula ``‖x‖² + ‖y‖² − 2x·y``, the differences keep the distances of close points
    accurate, and the distance of equal points is exactly 0. A value that overflows becomes the
    largest finite number. The result is differentiable with respect to ``x`` and ``y``.

    Args:
        x: points, (..., M, d).
        y: points, (..., N, d); ``x`` itself if not given, for half the work.

    Returns:
        (..., M, N), of the dtype of ``x``.

    Raises:
        ValueError, TypeError, RuntimeError: see :mod:`mige_ext.ops`.

    Cost:
        3MNd flop (half without ``y``).
    """
    if not _is_transformed():
        return call("squared_distances", x, y)
    distances = call("squared_distances", *_detached(x, y))
    x, y, unit = _normalized(x, y)
    return distances + _variation(x, y) * unit * unit


def _normalized(x: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor | None, Tensor]:
    """The points divided by a unit, minus the mean of x, and the unit.

    The unit is a power of two near the largest coordinate. Without the mean, a common offset adds
    no rounding errors.
    """
    unit = unit_of(x) if y is None else torch.maximum(unit_of(x), unit_of(y))
    x, y = x / unit, None if y is None else y / unit
    center = x.sum(-2, keepdim=True) / max(x.shape[-2], 1)
    return x - center, None if y is None else y - center, unit


def _distance_backward(grad: Tensor, x: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The gradients with respect to the normalized points, from the gradient of the distances."""
    with no_autocast(grad):
        if y is None:
            grad = grad + grad.mT
            return 2 * (grad.sum(-1, keepdim=True) * x - grad @ x), None
        grad_x = 2 * (grad.sum(-1, keepdim=True) * x - grad @ y)
        grad_y = 2 * (grad.sum(-2).unsqueeze(-1) * y - grad.mT @ x)
    return grad_x, grad_y


def _is_transformed() -> bool:
    """Whether a derivative must be written in torch operations, not registered for the operator.

    A registered derivative raises an error under ``torch.func.grad``, and is 0 in forward mode. An
    exported program may be transformed later.
    """
    return is_transforming() or in_forward_mode() or torch.compiler.is_exporting()


def _detached(*tensors: Any) -> tuple[Any, ...]:
    return tuple(t.detach() if isinstance(t, Tensor) else t for t in tensors)


def _variation(x: Tensor, y: Tensor | None) -> Tensor:
    """0 for every pair of points, with the derivatives of the squared distance."""
    other = x if y is None else y
    with no_autocast(x):
        expanded = x.square().sum(-1).unsqueeze(-1) + other.square().sum(-1).unsqueeze(-2)
        expanded = expanded - 2 * x @ other.mT
    return expanded - expanded.detach()


def _squared_distances_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
    x, y, unit = _normalized(*ctx.saved_tensors)
    grad_x, grad_y = _distance_backward(grad, x, y)
    return saturated(grad_x * unit), None if grad_y is None else saturated(grad_y * unit)


torch.library.register_autograd(
    "mige_ext::squared_distances",
    _squared_distances_backward,
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
)


def distance_quantile(x: Tensor, quantile: float = 0.5) -> Tensor:
    """An exact quantile of the pairwise distances ``‖x_i − x_j‖``, i < j, of each group.

    The quantile is the distance of rank ``ceil(quantile · M(M−1)/2)``, without interpolation, as in
    ``numpy.quantile(..., method="inverted_cdf")``. If this distance is 0, because many pairs
    coincide, the quantile is taken over the pairs at a positive distance. The result is 0 only if
    all points are equal. The result is not differentiable.

    Args:
        x: points, (..., M, d) with M >= 2.
        quantile: the quantile, in (0, 1]; 0.5 is the median.

    Returns:
        (...), one distance for each group.

    Raises:
        ValueError, TypeError, RuntimeError: see :mod:`mige_ext.ops`.

    Cost:
        1.5 M²d flop for the distances, and a radix selection with about two passes over M²/2
        values; M² values of memory.
    """
    return call("distance_quantile", x, real("quantile", quantile))


def rbf_gram(x: Tensor, y: Tensor | None = None, *, bandwidth: Tensor) -> Tensor:
    """RBF Gram matrix ``k_ij = exp(−‖x_i − y_j‖² / 2σ²)``.

    If ``y`` is not given, the matrix is exactly symmetric and its diagonal is exactly 1. The result
    is differentiable with respect to all three arguments.

    Args:
        x: points, (..., M, d).
        y: points, (..., N, d); ``x`` itself if not given, for half the work.
        bandwidth: σ > 0 of each group, (...), of the dtype of ``x``.

    Returns:
        (..., M, N), of the dtype of ``x``.

    Raises:
        ValueError, TypeError, RuntimeError: see :mod:`mige_ext.ops`.

    Cost:
        3MNd flop (half without ``y``) and MN exponentials.
    """
    if not _is_transformed():
        return call("rbf_gram", x, y, bandwidth)
    gram = call("rbf_gram", *_detached(x, y, bandwidth))
    x, y, unit = _normalized(x, y)
    sigma = positive(per_group(bandwidth) / unit)
    exponent = -saturated(squared_distances(x, y) / sigma / sigma) / 2
    return gram * torch.exp(exponent - exponent.detach())


def _rbf_gram_backward(
    ctx: Any, grad: Tensor
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    x, y, bandwidth, gram = ctx.saved_tensors
    weighted = grad * gram
    x, y, unit = _normalized(x, y)
    # σ² and 1/σ may overflow or underflow, so σ is divided by the unit.
    absolute = per_group(bandwidth)
    sigma = positive(absolute / unit)
    grad_x, grad_y = _distance_backward(-weighted / 2, x, y)
    grad_sigma = None
    if ctx.needs_input_grad[2]:
        # K depends only on x / σ and y / σ, so σ ∂/∂σ = −Σ x·∂/∂x − Σ y·∂/∂y (Euler).
        moment = (grad_x * x).sum((-2, -1))
        if grad_y is not None and y is not None:
            moment = moment + (grad_y * y).sum((-2, -1))
        relative = sigma.squeeze((-2, -1))
        grad_sigma = saturated(-moment / relative / relative / bandwidth)
    return (
        saturated(grad_x / sigma / absolute),
        None if grad_y is None else saturated(grad_y / sigma / absolute),
        grad_sigma,
    )


torch.library.register_autograd(
    "mige_ext::rbf_gram",
    _rbf_gram_backward,
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs, output),
)


def rbf_gradient_sum(x: Tensor, *, bandwidth: Tensor) -> Tensor:
    """Gradient sum of the RBF kernel, ``H_j = Σ_i ∇_{x_i} k(x_i, x_j)``.

    ``H = −(K X − diag(K1) X) / σ²`` takes a matrix product and row sums instead of an M×M×d array.
    The samples are centered first, so a common offset costs no accuracy. The result is not
    differentiable.

    Args:
        x: samples, (..., M, d).
        bandwidth: σ > 0 of each group, (...), of the dtype of ``x``.

    Returns:
        (..., M, d), of the dtype of ``x``.

    Raises:
        ValueError, TypeError, RuntimeError: see :mod:`mige_ext.ops`.

    Cost:
        1.5 M²d flop for K and 2 M²d for K X; M² values of memory.
    """
    return call("rbf_gradient_sum", x, bandwidth)


def rbf_product(q: Tensor, x: Tensor, w: Tensor, *, bandwidth: Tensor) -> Tensor:
    """Kernel product ``k(q, X) W`` without ``k`` in memory, such as a Nyström extension.

    The result is not differentiable.

    Args:
        q: query points, (..., Q, d).
        x: samples, (..., M, d).
        w: coefficients, (..., M, p).
        bandwidth: σ > 0 of each group, (...), of the dtype of ``q``.

    Returns:
        (..., Q, p), of the dtype of ``q``.

    Raises:
        ValueError, TypeError, RuntimeError: see :mod:`mige_ext.ops`.

    Cost:
        QM(3d + 2p) flop; O(M(d + p)) memory, independent of Q.
    """
    return call("rbf_product", q, x, w, bandwidth)
