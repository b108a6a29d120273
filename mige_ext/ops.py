"""The compiled operators: a checked function and a fake (shape-only) kernel for each.

Every operator takes leading batch dimensions (groups that do not see each other), float32 or
float64, and any strides, on the CPU and on CUDA. Results are bitwise the same from run to run, for
a group alone and in a batch, and on the CPU, with the MKL of torch for x86-64, for any number of
threads. NaN, infinity, and bandwidths that are not positive raise an error on the CPU; on CUDA,
where looking would stall the stream, they make all results of their group NaN (J is 0 then).
``reference.py`` says the same in plain torch.
"""

from typing import Any

import torch
from torch import Tensor

from mige_ext import _C, _checks
from mige_ext._precision import no_autocast, positive, saturated, unit_of

OPERATORS = (
    "squared_distances",
    "distance_quantile",
    "rbf_gram",
    "rbf_gradient_sum",
    "rbf_product",
    "eigh",
    "ssge",
    "ridge_whitening",
    "adaptive_score",
)

_library = torch.ops.mige_ext


class _WithoutDerivative(torch.autograd.Function):
    """Calls an operator that has no derivative, and says so when one is asked for.

    An autograd kernel in Python would do the same, and cost every call 7 µs, 5 % of a small score.
    """

    @staticmethod
    def forward(name: str, *args: Any) -> Any:
        return getattr(_library, name)(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.name = inputs[0]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise NotImplementedError(
            f"mige_ext.ops.{ctx.name} has no derivative: detach its inputs, or use "
            "squared_distances or rbf_gram, which have one"
        )


def _call(name: str, *args: Any) -> Any:
    if torch.is_grad_enabled() and any(isinstance(a, Tensor) and a.requires_grad for a in args):
        return _WithoutDerivative.apply(name, *args)
    return getattr(_library, name)(*args)


def _require_bandwidth(bandwidth: Tensor, x: Tensor, name: str = "x") -> None:
    _checks.require_native("bandwidth", bandwidth)
    _checks.require_like("bandwidth", bandwidth, name, x)
    _checks.require_batch("bandwidth", bandwidth.shape, name, x.shape[:-2])


def _require_pair(x: Tensor, y: Tensor | None) -> None:
    _checks.require_samples("x", x, 0)
    _checks.require_native("x", x)
    if y is None:
        return
    _checks.require_samples("y", y, 0)
    _checks.require_like("y", y, "x", x)
    _checks.require_batch("y", y.shape[:-2], "x", x.shape[:-2])
    if y.shape[-1] != x.shape[-1]:
        raise ValueError(f"y must have as many columns as x, {x.shape[-1]}, got {y.shape[-1]}")


# --- squared_distances ----------------------------------------------------------------------------


def squared_distances(x: Tensor, y: Tensor | None = None) -> Tensor:
    """Squared Euclidean distances ``‖x_i − y_j‖²``, by direct differences.

    Without cancellation: equal rows are at distance exactly 0, no value is negative, and close
    points keep their digits (``‖x‖² + ‖y‖² − 2x·y`` loses them). Values that overflow are the
    largest finite number. Differentiable in ``x`` and ``y``.

    Args:
        x: points, (..., M, d).
        y: points, (..., N, d); ``x`` itself if not given, for half the work.

    Returns:
        (..., M, N), of the dtype of ``x``.

    Raises:
        ValueError, TypeError: shapes, dtypes or devices that do not fit.
        RuntimeError: NaN or infinity among the coordinates.

    Cost:
        3MNd flop (half without ``y``).
    """
    _require_pair(x, y)
    return _library.squared_distances(x, y)


@torch.library.register_fake("mige_ext::squared_distances")
def _(x: Tensor, y: Tensor | None) -> Tensor:
    return x.new_empty((*x.shape[:-1], (x if y is None else y).shape[-2]))


def _normalised(x: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor | None, Tensor]:
    """The points in units of a power of two near the largest coordinate, and that unit.

    Without the offset that they share, too, which would cancel in exact arithmetic only.
    """
    unit = unit_of(x) if y is None else torch.maximum(unit_of(x), unit_of(y))
    x, y = x / unit, None if y is None else y / unit
    centre = x.sum(-2, keepdim=True) / max(x.shape[-2], 1)
    return x - centre, None if y is None else y - centre, unit


def _distance_backward(grad: Tensor, x: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Pulls a gradient with respect to the squared distances back to the points, normalised."""
    with no_autocast(grad):
        if y is None:
            grad = grad + grad.mT
            return 2 * (grad.sum(-1, keepdim=True) * x - grad @ x), None
        grad_x = 2 * (grad.sum(-1, keepdim=True) * x - grad @ y)
        grad_y = 2 * (grad.sum(-2).unsqueeze(-1) * y - grad.mT @ x)
    return grad_x, grad_y


def _squared_distances_setup(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _squared_distances_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
    x, y, unit = _normalised(*ctx.saved_tensors)
    grad_x, grad_y = _distance_backward(grad, x, y)
    return saturated(grad_x * unit), None if grad_y is None else saturated(grad_y * unit)


torch.library.register_autograd(
    "mige_ext::squared_distances",
    _squared_distances_backward,
    setup_context=_squared_distances_setup,
)


# --- distance_quantile ----------------------------------------------------------------------------


def distance_quantile(x: Tensor, quantile: float = 0.5) -> Tensor:
    """An exact quantile of the pairwise distances ``‖x_i − x_j‖``, i < j, of each group.

    The value of rank ``ceil(quantile · M(M−1)/2)``, an element of the set and no interpolation
    (``numpy.quantile(..., method="inverted_cdf")``), found by radix selection. Where it would be 0,
    because at least that share of the pairs coincide, it is taken among the pairs at a positive
    distance; it is 0 only if all points are equal. Not differentiable.

    Args:
        x: points, (..., M, d) with M >= 2.
        quantile: in (0, 1].

    Returns:
        (...), one distance for each group.

    Raises:
        ValueError, TypeError: an argument that does not fit.
        RuntimeError: NaN or infinity among the coordinates.

    Cost:
        1.5 M²d flop for the distances and about two passes over M²/2 values; M² values of memory.
    """
    _checks.require_samples("x", x)
    _checks.require_native("x", x)
    _checks.require_share("quantile", quantile)
    return _call("distance_quantile", x, float(quantile))


@torch.library.register_fake("mige_ext::distance_quantile")
def _(x: Tensor, quantile: float) -> Tensor:
    return x.new_empty(x.shape[:-2])


# --- rbf_gram -------------------------------------------------------------------------------------


def rbf_gram(x: Tensor, y: Tensor | None = None, *, bandwidth: Tensor) -> Tensor:
    """RBF Gram matrix ``k_ij = exp(−‖x_i − y_j‖² / 2σ²)``.

    Symmetric to the bit, with a diagonal of exactly 1, if ``y`` is not given. Differentiable in all
    three arguments.

    Args:
        x: points, (..., M, d).
        y: points, (..., N, d); ``x`` itself if not given, for half the work.
        bandwidth: σ > 0 of each group, (...), of the dtype of ``x``.

    Returns:
        (..., M, N), of the dtype of ``x``.

    Raises:
        ValueError, TypeError: shapes, dtypes or devices that do not fit.
        RuntimeError: NaN or infinity among the coordinates, or a bandwidth that is not positive.

    Cost:
        3MNd flop (half without ``y``) and MN exponentials.
    """
    _require_pair(x, y)
    _require_bandwidth(bandwidth, x)
    return _library.rbf_gram(x, y, bandwidth)


@torch.library.register_fake("mige_ext::rbf_gram")
def _(x: Tensor, y: Tensor | None, bandwidth: Tensor) -> Tensor:
    return x.new_empty((*x.shape[:-1], (x if y is None else y).shape[-2]))


def _rbf_gram_setup(ctx: Any, inputs: Any, output: Tensor) -> None:
    ctx.save_for_backward(*inputs, output)


def _rbf_gram_backward(
    ctx: Any, grad: Tensor
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    x, y, bandwidth, gram = ctx.saved_tensors
    weighted = grad * gram
    x, y, unit = _normalised(x, y)
    # Distances in units of σ: neither its square nor its inverse has to be in range.
    absolute = bandwidth.unsqueeze(-1).unsqueeze(-1)
    sigma = positive(absolute / unit)
    grad_x, grad_y = _distance_backward(-weighted / 2, x, y)
    grad_sigma = None
    if ctx.needs_input_grad[2]:
        # K depends on x / σ alone, so that σ ∂/∂σ = −Σ x·∂/∂x (Euler).
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
    "mige_ext::rbf_gram", _rbf_gram_backward, setup_context=_rbf_gram_setup
)


# --- rbf_gradient_sum -----------------------------------------------------------------------------


def rbf_gradient_sum(x: Tensor, *, bandwidth: Tensor) -> Tensor:
    """Gradient sum of the RBF kernel, ``H_j = Σ_i ∇_{x_i} k(x_i, x_j)``.

    ``H = −(K X − diag(K1) X) / σ²``: two matrix products in place of an array of M×M×d. The samples
    are centred first, so that an offset common to all costs no accuracy. Not differentiable.

    Args:
        x: samples, (..., M, d).
        bandwidth: σ > 0 of each group, (...), of the dtype of ``x``.

    Returns:
        (..., M, d), of the dtype of ``x``.

    Raises:
        ValueError, TypeError: shapes, dtypes or devices that do not fit.
        RuntimeError: NaN, infinity, or a bandwidth that is not positive.

    Cost:
        3.5 M²d flop, M² values of memory.
    """
    _checks.require_samples("x", x, 1)
    _checks.require_native("x", x)
    _require_bandwidth(bandwidth, x)
    return _call("rbf_gradient_sum", x, bandwidth)


@torch.library.register_fake("mige_ext::rbf_gradient_sum")
def _(x: Tensor, bandwidth: Tensor) -> Tensor:
    return x.new_empty(x.shape)


# --- rbf_product ----------------------------------------------------------------------------------


def rbf_product(q: Tensor, x: Tensor, w: Tensor, *, bandwidth: Tensor) -> Tensor:
    """Kernel product ``k(q, X) W`` without ``k`` in memory: the Nyström extension.

    Args:
        q: query points, (..., Q, d).
        x: samples, (..., M, d).
        w: coefficients, (..., M, p).
        bandwidth: σ > 0 of each group, (...), of the dtype of ``q``.

    Returns:
        (..., Q, p), of the dtype of ``q``. Not differentiable.

    Raises:
        ValueError, TypeError: shapes, dtypes or devices that do not fit.
        RuntimeError: NaN, infinity, or a bandwidth that is not positive.

    Cost:
        QM(3d + 2p) flop; memory O(M(d + p)), whatever Q.
    """
    _checks.require_samples("q", q, 0)
    _checks.require_samples("x", x, 0)
    _checks.require_tensor("w", w)
    if w.dim() < 2:
        raise ValueError(f"w must have shape (..., M, p), got {_checks.shape(w)}")
    for name, tensor in (("q", q), ("x", x), ("w", w)):
        _checks.require_native(name, tensor)
        _checks.require_like(name, tensor, "q", q)
        _checks.require_batch(name, tensor.shape[:-2], "q", q.shape[:-2])
    if x.shape[-1] != q.shape[-1]:
        raise ValueError(f"x must have as many columns as q, {q.shape[-1]}, got {x.shape[-1]}")
    if w.shape[-2] != x.shape[-2]:
        raise ValueError(f"w must have as many rows as x, {x.shape[-2]}, got {w.shape[-2]}")
    _require_bandwidth(bandwidth, q, "q")
    return _call("rbf_product", q, x, w, bandwidth)


@torch.library.register_fake("mige_ext::rbf_product")
def _(q: Tensor, x: Tensor, w: Tensor, bandwidth: Tensor) -> Tensor:
    return q.new_empty((*q.shape[:-1], w.shape[-1]))


# --- eigh -----------------------------------------------------------------------------------------


def eigh(k: Tensor) -> tuple[Tensor, Tensor]:
    """Eigendecomposition ``K = U diag(λ) Uᵀ`` of symmetric matrices, groups in parallel.

    On the CPU LAPACK's divide and conquer, called directly; ``torch.linalg.eigh`` works through a
    batch one matrix after the other, here each thread takes its share. On CUDA pivoted Cholesky and
    one-sided Jacobi (Veselić and Hari 1989), a warp, a block or many blocks a matrix, without
    waiting for the device; above M = 2048 torch's solver, which does wait, and deals with NaN as
    torch does. Not differentiable: use torch's for that.

    Args:
        k: symmetric matrices, (..., M, M); only the lower triangle is read.

    Returns:
        eigenvalues, (..., M), ascending, and eigenvectors, (..., M, M), in the columns.

    Raises:
        ValueError, TypeError: an argument that does not fit.
        RuntimeError: NaN or infinity among the entries.

    Cost:
        About 9M³ flop a matrix on the CPU, where one matrix runs on one thread, so that its bits do
        not depend on the number of threads; 6 to 8 sweeps of 5M³ flop on CUDA, 8M³ where
        many blocks share a matrix (M > 239 in float32 on an H100).
    """
    _checks.require_native("k", k)
    if k.dim() < 2 or k.shape[-1] != k.shape[-2] or k.shape[-1] < 1:
        raise ValueError(f"k must have shape (..., M, M) with M >= 1, got {_checks.shape(k)}")
    return _call("eigh", k)


@torch.library.register_fake("mige_ext::eigh")
def _(k: Tensor) -> tuple[Tensor, Tensor]:
    return k.new_empty(k.shape[:-1]), k.new_empty(k.shape).mT


# --- ssge -----------------------------------------------------------------------------------------


def ssge(
    x: Tensor,
    bandwidth: Tensor | None = None,
    *,
    quantile: float = 0.5,
    multiplier: float = 1.0,
    threshold: float = 0.99,
    rank: int | None = None,
    power: int = 1,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The Spectral Stein Gradient Estimator as one operator: ``−U_J Λ_J^{−power} U_Jᵀ H``.

    ``power=1`` gives the score ``∇ log q`` at the samples, ``power=2`` the coefficients W of its
    Nyström extension ``∇ log q(z) = k(z, X) W`` (:func:`rbf_product`). Scale and offset of the
    samples are taken out first, so that neither costs accuracy nor range. A group whose samples are
    all equal has score 0, and rank 0 unless ``bandwidth`` is given. Not differentiable.

    Args:
        x: samples, (..., M, d) with M >= 2.
        bandwidth: σ > 0 of each group, (...); from ``quantile`` and ``multiplier`` if not given.
        quantile: of the pairwise distances, in (0, 1]; see :func:`distance_quantile`.
        multiplier: σ = multiplier × quantile of the distances.
        threshold: J is the smallest number of leading eigenvalues whose share of trace(K) reaches
            it; in (0, 1].
        rank: J itself, in [1, M], instead of ``threshold``. Either way, eigenvalues below
            M ε λ_max are rounding error and are not kept.
        power: 1 or 2.

    Returns:
        the result, (..., M, d); the eigenvalues of K, (..., M), ascending; σ, (...); J, (...),
        int64.

    Raises:
        ValueError, TypeError: an argument that does not fit.
        RuntimeError: NaN, infinity, or a bandwidth that is not positive.

    Cost:
        3.5M²d + 4MJd + about 9M³ flop; memory about 4M² + O(Md). Shi, Sun, Zhu (ICML 2018).
    """
    _checks.require_samples("x", x)
    _checks.require_native("x", x)
    if bandwidth is not None:
        _require_bandwidth(bandwidth, x)
    _checks.require_share("quantile", quantile)
    _checks.require_positive("multiplier", multiplier)
    _checks.require_share("threshold", threshold)
    if rank is not None:
        _checks.require_count("rank", rank, or_none=True)
        if rank > x.shape[-2]:
            raise ValueError(f"rank must lie in [1, M] with M = {x.shape[-2]}, got {rank}")
    if not isinstance(power, int) or power not in (1, 2):
        raise ValueError(f"power must be 1 or 2, got {power!r}")
    numbers = float(quantile), float(multiplier), float(threshold), int(rank or 0), power
    return _call("ssge", x, bandwidth, *numbers)


@torch.library.register_fake("mige_ext::ssge")
def _(
    x: Tensor,
    bandwidth: Tensor | None,
    quantile: float,
    multiplier: float,
    threshold: float,
    rank: int,
    power: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    batch = x.shape[:-2]
    return (
        x.new_empty(x.shape),
        x.new_empty(x.shape[:-1]),
        x.new_empty(batch),
        x.new_empty(batch, dtype=torch.int64),
    )


# --- ridge_whitening ------------------------------------------------------------------------------


def ridge_whitening(x: Tensor, *, factor: float = 0.1) -> tuple[Tensor, Tensor, Tensor]:
    """Whitening of the samples with a ridge that chooses itself: ``z = (x − mean) W``.

    With V the standardised samples and R = VᵀV/M their correlations, ``W = D^{−1} (R + τI)^{−1/2}``
    with D the standard deviations, so that ``−z Wᵀ`` is the score of the Gaussian with covariance
    ``D (R + τI) D``. τ is ``factor`` times the minimiser of the leave-one-out Hyvärinen objective
    of that score, which has a closed form: with c₁ = M/(M−1), c₂ = M/(M−1)²,
    ``A = (c₁R + τI)^{−1}``, q_i = v_iᵀ A v_i and q2_i = v_iᵀ A² v_i it is the mean of

        ½ c₁² q2_i / (1 − c₂ q_i)² − tr A − c₂ q2_i / (1 − c₂ q_i)

    over 26 values of τ from 1e-4 to 10, between which a parabola interpolates. A column that is
    constant has a row of zeros in W, and does not count in the trace. Neither does a direction
    without variance, if M − 1 is at least 5/4 of the columns that vary; it is mapped to 0. Not
    differentiable.

    Args:
        x: samples, (..., M, d) with M >= 2.
        factor: positive; 1 gives the best Gaussian score, 0.1, a weaker shrinkage, the coordinates
            of :func:`adaptive_score`.

    Returns:
        the mean, (..., d); W, (..., d, d); τ, (...).

    Raises:
        ValueError, TypeError: an argument that does not fit.
        RuntimeError: NaN or infinity among the coordinates.

    Cost:
        4Md² + about 11d³ flop; memory O(Md + d²).
    """
    _checks.require_samples("x", x)
    _checks.require_native("x", x)
    _checks.require_positive("factor", factor)
    return _call("ridge_whitening", x, float(factor))


@torch.library.register_fake("mige_ext::ridge_whitening")
def _(x: Tensor, factor: float) -> tuple[Tensor, Tensor, Tensor]:
    batch, d = x.shape[:-2], x.shape[-1]
    return x.new_empty((*batch, d)), x.new_empty((*batch, d, d)), x.new_empty(batch)


# --- adaptive_score -------------------------------------------------------------------------------


def adaptive_score(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """A score without settings: Tikhonov's filter on whitened samples, which chooses itself.

    The samples are whitened (:func:`ridge_whitening`). With the IMQ kernel φ(s) = (1 + s/σ²)^{−1/2}
    of the median bandwidth, K = φ and H its gradient sum, the candidates are

        F = s₀ − (K + λM I)^{−1} (K s₀ + H),   s₀ = −base · z

    with base 1 (a correction of the Gaussian score) or 0. Their risk, ``E‖F − s‖²/2`` but for a
    constant, follows from Stein's identity on the joint law of the batch as the mean of
    ``r_i = ½‖R_i‖² − z_i·R_i + div_i R`` with R = F + z and the total divergence, through K, H and
    the inverse. The candidate with the least mean + standard error is taken, and the Gaussian
    score, R = 0, if none is below 0. λ climbs by decades from the one next to 1/M, and then half a
    decade, within 0.1 … 1e-5. Directions without variance, constant columns among them, count for
    nothing (:func:`ridge_whitening`). Not differentiable.

    Args:
        x: samples, (..., M, d) with M >= 2.

    Returns:
        scores, (..., M, d), zero for a group of equal samples; and for each group, (...): λ,
        infinite for the Gaussian score; base, int64; the risk less that of the Gaussian score and
        its standard error; σ, in whitened units.

    Raises:
        ValueError, TypeError: an argument that does not fit.
        RuntimeError: NaN or infinity among the coordinates.

    Cost:
        M³ + 10M²r flop for each λ that is tried, 3 to 5 of them, with r = min(M, d), and one
        eigendecomposition of r × r; memory about 4M² + O(Md).
    """
    _checks.require_samples("x", x)
    _checks.require_native("x", x)
    return _call("adaptive_score", x)


@torch.library.register_fake("mige_ext::adaptive_score")
def _(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    batch = x.shape[:-2]
    lam, risk, error, sigma = (x.new_empty(batch) for _ in range(4))
    return x.new_empty(x.shape), lam, x.new_empty(batch, dtype=torch.int64), risk, error, sigma


# --- a build without CUDA -------------------------------------------------------------------------


def _refuse_cuda(name: str) -> None:
    def kernel(*args: Any) -> Any:
        raise NotImplementedError(
            f"mige_ext.ops.{name} cannot run on CUDA tensors: mige_ext was built without nvcc"
        )

    torch.library.register_kernel(f"mige_ext::{name}", "cuda", kernel)


if not _C.cuda_architectures:
    for _name in OPERATORS:
        _refuse_cuda(_name)
