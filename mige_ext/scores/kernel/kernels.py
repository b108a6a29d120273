"""Kernel functions φ of the squared distance s = ‖x − y‖², and rules that choose a bandwidth."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from numbers import Real

import torch
from torch import Tensor

from mige_ext import _checks, ops
from mige_ext._precision import (
    at_least_float32,
    in_units,
    per_group,
    positive,
    power_of_two,
    saturated,
)


class Kernel(ABC):
    """A radial kernel ``k(x, y) = φ(‖x − y‖²) = ψ(‖x − y‖²/σ²)`` with the bandwidth σ.

    A call with points returns their Gram matrix. To define a kernel, write a frozen dataclass,
    whose fields are numbers or tensors, with the method :meth:`psi`. ``ψ(0) = 1`` and ``ψ'(0) =
    −1/2`` are required, so that σ has the same meaning for every kernel.
    """

    @abstractmethod
    def psi(self, u: Tensor, order: int = 0) -> Tensor:
        """The derivative of ψ of this order at u >= 0, elementwise."""

    def phi(self, s: Tensor, bandwidth: Tensor | float) -> Tensor:
        """φ(s) = ψ(s/σ²), elementwise."""
        sigma = _scalar(bandwidth, s)
        return self.psi(s / sigma / sigma)  # σ² may overflow or underflow

    def dphi(self, s: Tensor, bandwidth: Tensor | float, order: int = 1) -> Tensor:
        """The derivative of φ, ``ψ^(order)(s/σ²) σ^(−2 order)``, clamped to finite numbers."""
        if not _checks.is_integer(order, 0):
            raise ValueError(f"order must be a non-negative integer, got {order!r}")
        sigma = _scalar(bandwidth, s)
        factor = saturated((1 / sigma / sigma) ** order)
        return saturated(factor * self.psi(s / sigma / sigma, order))

    def __call__(self, x: Tensor, y: Tensor | None = None, *, bandwidth: Tensor | float) -> Tensor:
        """Gram matrix ``k(x_i, y_j)``.

        Args:
            x: points, (..., M, d), float32 or float64.
            y: points, (..., N, d); ``x`` itself if not given.
            bandwidth: σ > 0, a number or one value for each group, (...).

        Returns:
            (..., M, N), of the dtype of ``x``, differentiable with respect to all arguments.

        Raises:
            ValueError, TypeError: an argument is not as described or not finite.

        Cost:
            3MNd flop (half without ``y``) and MN values of ψ.
        """
        _checks.require_samples("x", x, 0)
        _checks.require_native("x", x)
        _checks.require_finite(x=x)
        if y is not None:
            _checks.require_query("y", y, x, "x")
            _checks.require_like("y", y, "x", x)
        if isinstance(bandwidth, Tensor):
            _checks.require_like("bandwidth", bandwidth, "x", x)
            _checks.require_batch("bandwidth", bandwidth.shape, "x", x.shape[:-2])
            if _checks.can_read(bandwidth) and not (bandwidth > 0).all():
                raise ValueError(f"bandwidth must be positive, got {bandwidth.min().item():g}")
        sigma = bandwidth_tensor(bandwidth, x)
        unit = per_group(power_of_two(sigma))
        s = ops.squared_distances(in_units(x, unit), None if y is None else in_units(y, unit))
        return self.phi(s, per_group(sigma) / unit)


@dataclass(frozen=True)
class RBF(Kernel):
    """The RBF (Gaussian) kernel ``φ(s) = exp(−s/(2σ²))``; its Gram matrix is a native operator."""

    def psi(self, u: Tensor, order: int = 0) -> Tensor:
        """``(−1/2)^order exp(−u/2)``."""
        value = torch.exp(u / -2)
        return value if order == 0 else (-0.5) ** order * value

    def __call__(self, x: Tensor, y: Tensor | None = None, *, bandwidth: Tensor | float) -> Tensor:
        """Gram matrix by the native operator; see :meth:`Kernel.__call__`."""
        _checks.require_native("x", x)
        return ops.rbf_gram(x, y, bandwidth=bandwidth_tensor(bandwidth, x))


@dataclass(frozen=True)
class IMQ(Kernel):
    """The inverse multiquadric kernel ``φ(s) = (1 + s/σ²)^(−1/2)``, which has heavy tails."""

    def psi(self, u: Tensor, order: int = 0) -> Tensor:
        """``(−1/2)(−3/2) ··· (1/2 − order) (1 + u)^(−1/2 − order)``."""
        root = (1 + u).rsqrt()
        if order == 0:
            return root
        return math.prod([-0.5 - k for k in range(order)]) * root ** (1 + 2 * order)


@dataclass(frozen=True)
class Bandwidth:
    """Bandwidth rule: σ = ``multiplier`` × a quantile of the pairwise distances.

    ``Bandwidth()`` is the median rule, for which ``bandwidth="median"`` is a short form.

    Args:
        quantile: in (0, 1]; 0.5 is the median.
        multiplier: positive.
    """

    quantile: float = _checks.setting(0.5, _checks.require_fraction)
    multiplier: float = _checks.setting(1.0, _checks.require_positive)

    def __post_init__(self) -> None:
        """Check the settings."""
        _checks.require_settings(self)

    def __call__(self, samples: Tensor) -> Tensor:
        """σ of each group of samples, (..., M, d) -> (...), in float32 at least.

        σ is 0 if all samples of a group are equal, and otherwise positive and finite.
        """
        _checks.require_samples("samples", samples)
        samples = at_least_float32(samples.detach())
        with _checks.naming(samples=samples):
            sigma = ops.distance_quantile(samples, self.quantile)
        return torch.where(sigma == 0, 0.0, positive(self.multiplier * sigma))  # NaN stays NaN


_MEDIAN = Bandwidth()


def require_kernel(kernel: object) -> None:
    """Refuse a value that is not a :class:`Kernel`, and a kernel with a wrong ψ(0) or ψ'(0).

    ψ(0) and ψ'(0) are not checked for the kernels of this module, nor while code is compiled.
    """
    if not isinstance(kernel, Kernel):
        raise TypeError(f"kernel must be a Kernel such as IMQ(), got {kernel!r}")
    if type(kernel) in (RBF, IMQ) or torch.compiler.is_compiling():
        return
    zero = torch.zeros((), dtype=torch.float64, device="cpu")
    value, slope = (kernel.psi(zero, order).item() for order in (0, 1))
    if abs(value - 1) > 1e-6 or abs(slope + 0.5) > 1e-6:
        raise ValueError(
            "kernel must have psi(0) = 1 and psi'(0) = -1/2, which define the bandwidth, "
            f"got {value:g} and {slope:g} from {kernel!r}"
        )


def bandwidth_rule(bandwidth: "str | float | Bandwidth") -> "float | Bandwidth":
    """The rule or the number that the argument ``bandwidth`` of an estimator stands for."""
    if isinstance(bandwidth, Bandwidth):
        return bandwidth
    if bandwidth == "median":
        return _MEDIAN
    if not isinstance(bandwidth, Real):
        raise ValueError(
            f'bandwidth must be "median", a positive number or a Bandwidth, got {bandwidth!r}'
        )
    _checks.require_positive("bandwidth", bandwidth)
    return float(bandwidth)


def bandwidth_of(bandwidth: "str | float | Bandwidth", samples: Tensor) -> Tensor:
    """σ for each group of samples, (...), from the argument ``bandwidth`` of an estimator."""
    rule = bandwidth_rule(bandwidth)
    return rule(samples) if isinstance(rule, Bandwidth) else bandwidth_tensor(rule, samples)


def bandwidth_tensor(bandwidth: Tensor | float, x: Tensor) -> Tensor:
    """σ for each group of x, (...), from a number or a tensor."""
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
