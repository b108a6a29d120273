"""Matrix-valued kernels on points, and the two terms of a kernel score, ``K(q, X) w + b ζ(q)``.

The first term is a product of the kernel matrix with coefficients w. In the second term, b is a
number for each group, and the *source* ζ is the gradient sum divided by M (docs/mathematics.md).
Neither term needs an M×M×d array.

A kernel φ(s) = ψ(s/σ²) (``kernels.py``) defines two kernels with values in R^{d×d}. With r = q − x
and s = ‖r‖²:

- The diagonal kernel ``φ(s) I`` treats all coordinates equally and independently.
- The columns of the curl-free kernel ``σ² (−2φ'(s) I − 4φ''(s) r rᵀ)`` are gradients. A linear
  combination of columns is therefore a gradient, as a score is. The factor σ² makes the kernel I at
  r = 0. A coordinate in which all samples are equal does not count as a dimension.

In the formulas, the rows of X are the samples, the rows of q are the query points, and 1 is the
vector of ones, so P 1 has the row sums of P.

Zhou, Shi and Zhu, "Nonparametric Score Estimators" (ICML 2020), for the formulas.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from mige_ext import ops
from mige_ext._precision import per_group, saturated
from mige_ext.scores.kernel.kernels import RBF, Kernel


class Gram(ABC):
    """A matrix-valued kernel on the points q and x.

    Memory: O(QM), except ``dense`` of the curl-free kernel, O(QMd²).

    Args:
        kernel: φ.
        bandwidth: σ of each group, (...), near 1, because callers divide q, x and σ by a power of
            two near σ.
        x: samples, (..., M, d).
        q: query points, (..., Q, d); the samples themselves if not given.
    """

    _orders: tuple[int, ...]  # orders of the derivatives of ψ that __init__ computes

    def __init__(
        self, kernel: Kernel, bandwidth: Tensor, x: Tensor, q: Tensor | None = None
    ) -> None:
        self._kernel, self._square = kernel, per_group(bandwidth).square()
        squares = ops.squared_distances(x) if q is None else ops.squared_distances(q, x)
        # u = s/σ² is computed in place, because an allocation costs more than the division.
        self._u = squares.div_(self._square)
        self._psi = {order: kernel.psi(self._u, order) for order in self._orders}
        self._x, self._q = _centered(x, q)

    @property
    @abstractmethod
    def trace(self) -> Tensor | int:
        """The trace of :meth:`dense` for q = x, a number or (..., 1)."""

    @abstractmethod
    def product(self, w: Tensor) -> Tensor:
        """``Σ_j K(q_i, x_j) w_j``: (..., M, d) -> (..., Q, d)."""

    @abstractmethod
    def source(self) -> Tensor:
        """``ζ(q_i) = (1/M) Σ_j div_{x_j} K(x_j, q_i)``, (..., Q, d)."""

    @abstractmethod
    def dense(self) -> Tensor:
        """K as a matrix, (..., Q, M) or (..., Qd, Md)."""


class DiagonalGram(Gram):
    """The diagonal kernel ``φ(s) I``."""

    _orders = (0,)

    @property
    def trace(self) -> int:
        """The number of samples M, because φ(0) = 1."""
        return self._x.shape[-2]

    def product(self, w: Tensor) -> Tensor:
        """``Σ_j φ(s_ij) w_j``; 2QMd flop."""
        return self._psi[0] @ w

    def source(self) -> Tensor:
        """``(2/M) (P X − diag(P 1) q)``, P = φ'(s) = ψ'(u)/σ²; 2QMd flop."""
        p = self._kernel.psi(self._u, 1)
        pulled = p @ self._x - p.sum(-1, keepdim=True) * self._q
        return pulled * (2 / self._x.shape[-2] / self._square)

    def dense(self) -> Tensor:
        """φ(s), (..., Q, M), which is the same for each coordinate."""
        return self._psi[0]


class CurlFreeGram(Gram):
    """The curl-free kernel ``−2ψ'(u) I − 4ψ''(u) r rᵀ/σ²`` with u = s/σ²."""

    _orders = (1, 2)

    def __init__(
        self, kernel: Kernel, bandwidth: Tensor, x: Tensor, q: Tensor | None = None
    ) -> None:
        super().__init__(kernel, bandwidth, x, q)
        self._varies = x.amax(-2, keepdim=True) > x.amin(-2, keepdim=True)  # (..., 1, d)
        self._d = self._varies.sum(-1, keepdim=True)  # (..., 1, 1)

    @property
    def trace(self) -> Tensor:
        """M times the number of coordinates that vary, at least M; (..., 1)."""
        return (self._x.shape[-2] * self._d.squeeze(-1).clamp(min=1)).to(self._x.dtype)

    def product(self, w: Tensor) -> Tensor:
        """``−2ψ'w − 4(diag(A 1) q − A X)/σ²``, ``A = ψ''∘S``, ``S_ij = r_ij·w_j``; 6QMd flop."""
        a = self._psi[2] * self._along(w)
        bent = a.sum(-1, keepdim=True) * self._q - a @ self._x
        return -2 * (self._psi[1] @ w) - bent * (4 / self._square)

    def source(self) -> Tensor:
        """``4/(Mσ²) (diag(B 1) q − B X)``, ``B = (d + 2)ψ'' + 2uψ'''``; 2QMd flop.

        d counts the coordinates that vary.
        """
        m = self._x.shape[-2]
        b = (self._d + 2) * self._psi[2] + self._u * (2 * self._kernel.psi(self._u, 3))
        pulled = b.sum(-1, keepdim=True) * self._q - b @ self._x
        return pulled * (4 / m / self._square)

    def energy(self, w: Tensor, b: Tensor | None = None) -> Tensor:
        """The function whose gradient is ``product(w) + b · source()``, (..., Q).

        b has the shape (..., 1, 1), and None means 0. The function is
        ``Σ_j −2ψ' r_ij·w_j + (b/M) Σ_j (2dψ' + 4uψ'')``, where d counts the coordinates that vary.
        """
        energy = -2 * (self._psi[1] * self._along(w)).sum(-1)
        if b is None:
            return energy
        m = self._x.shape[-2]
        potential = 2 * self._d * self._psi[1] + self._u * (4 * self._psi[2])
        return energy + b.squeeze(-1) * potential.sum(-1) / m

    def dense(self) -> Tensor:
        """(..., Qd, Md), ordered by point, then coordinate; 0 for constant coordinates."""
        r = self._q.unsqueeze(-2) - self._x.unsqueeze(-3)
        eye = torch.diag_embed(self._varies.to(r.dtype)).unsqueeze(-3)
        bent = per_group(self._psi[2] * (4 / self._square)) * r.unsqueeze(-1) * r.unsqueeze(-2)
        blocks = -2 * per_group(self._psi[1]) * eye - bent
        return blocks.transpose(-3, -2).flatten(-4, -3).flatten(-2, -1)

    def _along(self, w: Tensor) -> Tensor:
        """``S_ij = (q_i − x_j)·w_j``, (..., Q, M)."""
        return self._q @ w.mT - (self._x * w).sum(-1).unsqueeze(-2)


def rbf_score(
    q: Tensor, x: Tensor, w: Tensor, bandwidth: Tensor, b: Tensor | None = None
) -> Tensor:
    """``k(q, X) w + b ζ(q)`` for the diagonal RBF kernel, by the native operator.

    b has the shape (..., 1, 1), and None means 0. One product k(q, X) (w, X, 1) gives both
    terms, since ``ζ(q) = −(k(q, X) X − (k(q, X) 1) q) / (Mσ²)``. The product never forms the Q×M
    matrix.
    """
    if b is None:
        return ops.rbf_product(q, x, w, bandwidth=bandwidth)
    d = x.shape[-1]
    y, p = _centered(x, q)
    one = torch.ones_like(y.narrow(-1, 0, 1))
    products = ops.rbf_product(q, x, torch.cat((w, y, one), -1), bandwidth=bandwidth)
    pulled = products.narrow(-1, d, d) - products.narrow(-1, 2 * d, 1) * p
    sigma = per_group(bandwidth)
    return products.narrow(-1, 0, d) - b / x.shape[-2] * (pulled / sigma / sigma)


def gram_of(
    kernel: Kernel, curl_free: bool, bandwidth: Tensor, x: Tensor, q: Tensor | None = None
) -> Gram:
    """The diagonal or the curl-free kernel on points."""
    return (CurlFreeGram if curl_free else DiagonalGram)(kernel, bandwidth, x, q)


def has_native_product(kernel: Kernel, curl_free: bool) -> bool:
    """Whether :func:`rbf_score` computes with this kernel."""
    return type(kernel) is RBF and not curl_free


def _centered(x: Tensor, q: Tensor | None) -> tuple[Tensor, Tensor]:
    """X and q relative to the coordinate medians of at most 31 of the samples.

    With a large offset, the differences of products in the formulas would lose digits. Outliers do
    not move a median. The result is clamped to the fourth root of the dtype's largest number, so
    that no product overflows. (σ is near 1, so kernel values at larger distances are 0 anyway.)
    """
    some = min(x.shape[-2], 31)
    middle = x.narrow(-2, 0, some).sort(-2).values.narrow(-2, some // 2, 1)
    limit = torch.finfo(x.dtype).max ** 0.25
    y = saturated(x - middle).clamp(-limit, limit)
    return y, y if q is None else saturated(q - middle).clamp(-limit, limit)
