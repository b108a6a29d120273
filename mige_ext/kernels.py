"""Kernel functions φ of the squared distance s = ‖x − y‖², and rules that choose a bandwidth."""

from dataclasses import dataclass
from numbers import Real

import torch
from torch import Tensor

from mige_ext import _checks, ops
from mige_ext._precision import at_least_float32, positive, saturated


@dataclass(frozen=True)
class RBF:
    """The RBF (Gaussian) kernel ``φ(s) = exp(−s / 2σ²)``.

    Called with points it gives their Gram matrix, with the native operator. ``phi`` and ``dphi``
    are the function and its derivatives in s, elementwise, for those who build on it.
    """

    def __call__(self, x: Tensor, y: Tensor | None = None, *, bandwidth: Tensor | float) -> Tensor:
        """Gram matrix ``k(x_i, y_j)``: (..., M, d), (..., N, d) -> (..., M, N). Differentiable.

        Args:
            x: points, (..., M, d), float32 or float64.
            y: points, (..., N, d); ``x`` itself if not given.
            bandwidth: σ > 0, a number or one value for each group, (...).
        """
        _checks.require_native("x", x)
        return ops.rbf_gram(x, y, bandwidth=bandwidth_tensor(bandwidth, x))

    def phi(self, s: Tensor, bandwidth: Tensor | float) -> Tensor:
        """``φ(s)``."""
        sigma = _scalar(bandwidth, s)
        return torch.exp(-(s / sigma) / sigma / 2)  # σ² may be out of range where σ is not

    def dphi(self, s: Tensor, bandwidth: Tensor | float, order: int = 1) -> Tensor:
        """The derivative of φ of the given order: ``(−1/2σ²)^order φ(s)``."""
        if not isinstance(order, int) or order < 0:
            raise ValueError(f"order must be a non-negative integer, got {order!r}")
        sigma = _scalar(bandwidth, s)
        return saturated((-0.5 / sigma / sigma) ** order) * self.phi(s, sigma)


@dataclass(frozen=True)
class Bandwidth:
    """Bandwidth rule: σ = ``multiplier`` × a quantile of the pairwise distances.

    ``Bandwidth()`` is the median rule, which ``bandwidth="median"`` stands for.

    Args:
        quantile: in (0, 1]; 0.5 is the median.
        multiplier: positive.
    """

    quantile: float = 0.5
    multiplier: float = 1.0

    def __post_init__(self) -> None:
        """Checks the numbers."""
        _checks.require_share("quantile", self.quantile)
        _checks.require_positive("multiplier", self.multiplier)

    def __call__(self, samples: Tensor) -> Tensor:
        """σ of each group of samples: (..., M, d) -> (...), in float32 at least.

        Positive and finite, whatever the multiplier; 0 where all samples of a group are equal.
        """
        _checks.require_samples("samples", samples)
        samples = at_least_float32(samples.detach())
        try:
            sigma = ops.distance_quantile(samples, self.quantile)
        except RuntimeError:
            if _checks.looking_is_free(samples):
                _checks.require_finite(samples=samples)
            raise
        return torch.where(sigma > 0, positive(self.multiplier * sigma), 0.0)


def bandwidth_rule(bandwidth: "str | float | Bandwidth") -> "float | Bandwidth":
    """Reads the argument ``bandwidth`` of an estimator: "median", a number, or a rule."""
    if isinstance(bandwidth, Bandwidth):
        return bandwidth
    if bandwidth == "median":
        return Bandwidth()
    if not isinstance(bandwidth, Real):
        raise ValueError(
            f'bandwidth must be "median", a positive number or a Bandwidth, got {bandwidth!r}'
        )
    _checks.require_positive("bandwidth", bandwidth)
    return float(bandwidth)


def bandwidth_tensor(bandwidth: Tensor | float, x: Tensor) -> Tensor:
    """σ for each group of x, from a number or as it is."""
    if isinstance(bandwidth, Tensor):
        return bandwidth
    return torch.full(x.shape[:-2], _number(bandwidth, x), dtype=x.dtype, device=x.device)


def _scalar(bandwidth: Tensor | float, s: Tensor) -> Tensor:
    _checks.require_native("s", s)
    if isinstance(bandwidth, Tensor):
        return bandwidth.to(s)
    return torch.full((), _number(bandwidth, s), dtype=s.dtype, device=s.device)


def _number(bandwidth: float, like: Tensor) -> float:
    _checks.require_positive("bandwidth", bandwidth)
    limits = torch.finfo(like.dtype)
    if not limits.tiny <= bandwidth <= limits.max:
        raise ValueError(
            f"bandwidth must be a normal number of {like.dtype}, between {limits.tiny:g} and "
            f"{limits.max:g}, got {bandwidth!r}"
        )
    return float(bandwidth)
