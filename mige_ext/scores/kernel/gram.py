"""Matrix-valued kernels on points: their products and their gradient sums, without M×M×d.

A kernel φ makes two kernels with values in R^{d×d}, with r = q − x and s = ‖r‖²:

- the diagonal one, ``φ(s) I``, which treats the coordinates alike and apart;
- the curl-free one, ``c (−2φ'(s) I − 4φ''(s) r rᵀ)``, whose columns are gradients: all that it
  spans is the gradient of a function, as a score is. c = −1/2φ'(0) = σ² makes it I at r = 0.

For query points q and samples x, both in one unit of length, each class here gives

- ``product(w)``: ``Σ_j K(q_i, x_j) w_j``, (..., M, d) -> (..., Q, d);
- ``source()``: ``ζ(q_i) = (1/M) Σ_j div_{x_j} K(x_j, q_i)``, (..., Q, d);
- ``dense()``: K as a matrix, (..., Q, M) or (..., Qd, Md).

The formulas are those of Zhou, Shi and Zhu, "Nonparametric Score Estimators" (ICML 2020).
"""

from typing import Protocol

import torch
from torch import Tensor

from mige_ext import ops
from mige_ext._precision import saturated
from mige_ext.scores.kernel.kernels import RBF, Kernel


class Gram(Protocol):
    """What the solvers ask of a matrix-valued kernel on points."""

    def product(self, w: Tensor) -> Tensor:
        """``Σ_j K(q_i, x_j) w_j``: (..., M, d) -> (..., Q, d)."""
        ...

    def source(self) -> Tensor:
        """``ζ(q_i)``, (..., Q, d)."""
        ...

    def dense(self) -> Tensor:
        """K as a matrix."""
        ...


class DiagonalGram:
    """``φ(s) I`` on the points q and x; memory a few Q×M.

    Args:
        kernel: φ.
        bandwidth: σ of each group, (...), near 1: the unit of length is near σ.
        x: samples, (..., M, d).
        q: query points, (..., Q, d); the samples themselves if not given.
    """

    def __init__(
        self, kernel: Kernel, bandwidth: Tensor, x: Tensor, q: Tensor | None = None
    ) -> None:
        self._kernel, self._square = kernel, _column(bandwidth).square()
        self._u = _relative_squares(self._square, x, q)
        self._k = kernel.psi(self._u)
        self._x, self._q = _centred(x, q)

    def product(self, w: Tensor) -> Tensor:
        """``Σ_j φ(s_ij) w_j``; 2QMd flop."""
        return self._k @ w

    def source(self) -> Tensor:
        """``(2/M) (P X − diag(P1) q)``, P = φ'(s) = ψ'(u)/σ²; 2QMd flop."""
        p = self._kernel.psi(self._u, 1)
        pulled = p @ self._x - p.sum(-1, keepdim=True) * self._q
        return pulled * (2 / self._x.shape[-2] / self._square)

    def dense(self) -> Tensor:
        """(..., Q, M), for each coordinate the same."""
        return self._k


class CurlFreeGram:
    """``σ²(−2φ'(s) I − 4φ''(s) r rᵀ) = −2ψ'(u) I − 4ψ''(u) r rᵀ/σ²``; memory a few Q×M.

    Takes the arguments of :class:`DiagonalGram`.
    """

    def __init__(
        self, kernel: Kernel, bandwidth: Tensor, x: Tensor, q: Tensor | None = None
    ) -> None:
        self._kernel, self._square = kernel, _column(bandwidth).square()
        self._u = _relative_squares(self._square, x, q)
        self._first, self._second = kernel.psi(self._u, 1), kernel.psi(self._u, 2)
        self._x, self._q = _centred(x, q)

    def product(self, w: Tensor) -> Tensor:
        """``−2ψ'w − 4(diag(A1) q − A X)/σ²``, ``A = ψ''∘S``, ``S_ij = r_ij·w_j``; 6QMd flop."""
        a = self._second * self._along(w)
        bent = a.sum(-1, keepdim=True) * self._q - a @ self._x
        return -2 * (self._first @ w) - bent * (4 / self._square)

    def source(self) -> Tensor:
        """``(4/Mσ²) (diag(B1) q − B X)``, ``B = (d + 2)ψ'' + 2uψ'''``; 2QMd flop."""
        m, d = self._x.shape[-2:]
        b = (d + 2) * self._second + self._u * (2 * self._kernel.psi(self._u, 3))
        pulled = b.sum(-1, keepdim=True) * self._q - b @ self._x
        return pulled * (4 / m / self._square)

    def energy(self, w: Tensor, share: Tensor | None = None) -> Tensor:
        """The function of which ``product(w) + share · source()`` is the gradient, (..., Q).

        ``Σ_j −2ψ' r_ij·w_j + (share/M) Σ_j (2dψ' + 4uψ'')``.
        """
        energy = -2 * (self._first * self._along(w)).sum(-1)
        if share is None:
            return energy
        m, d = self._x.shape[-2:]
        potential = 2 * d * self._first + self._u * (4 * self._second)
        return energy + share.squeeze(-1) * potential.sum(-1) / m

    def dense(self) -> Tensor:
        """(..., Qd, Md), rows and columns ordered by point, then coordinate."""
        r = self._q.unsqueeze(-2) - self._x.unsqueeze(-3)
        eye = torch.eye(r.shape[-1], dtype=r.dtype, device=r.device)
        bent = (self._second * (4 / self._square)).unsqueeze(-1).unsqueeze(-1)
        blocks = -2 * self._first.unsqueeze(-1).unsqueeze(-1) * eye
        blocks = blocks - bent * r.unsqueeze(-1) * r.unsqueeze(-2)
        return blocks.transpose(-3, -2).flatten(-4, -3).flatten(-2, -1)

    def _along(self, w: Tensor) -> Tensor:
        """``S_ij = (q_i − x_j)·w_j``, (..., Q, M)."""
        return self._q @ w.mT - (self._x * w).sum(-1).unsqueeze(-2)


def rbf_score(
    q: Tensor, x: Tensor, w: Tensor, bandwidth: Tensor, share: Tensor | None = None
) -> Tensor:
    """``k(q, X) w + share · ζ(q)`` for the diagonal RBF kernel, by the native operator.

    ``ζ(q) = −(k(q, X) X − (k(q, X) 1) q) / Mσ²``: one product with (w, X, 1), whose Q×M matrix is
    never in memory.
    """
    if share is None:
        return ops.rbf_product(q, x, w, bandwidth=bandwidth)
    d = x.shape[-1]
    y, p = _centred(x, q)
    one = torch.ones_like(y.narrow(-1, 0, 1))
    products = ops.rbf_product(q, x, torch.cat((w, y, one), -1), bandwidth=bandwidth)
    pulled = products.narrow(-1, d, d) - products.narrow(-1, 2 * d, 1) * p
    sigma = _column(bandwidth)
    return products.narrow(-1, 0, d) - share / x.shape[-2] * (pulled / sigma / sigma)


def gram_of(
    kernel: Kernel, curl_free: bool, bandwidth: Tensor, x: Tensor, q: Tensor | None = None
) -> DiagonalGram | CurlFreeGram:
    """The one or the other."""
    return (CurlFreeGram if curl_free else DiagonalGram)(kernel, bandwidth, x, q)


def has_native_product(kernel: Kernel, curl_free: bool) -> bool:
    """Whether :func:`rbf_score` is this kernel's."""
    return type(kernel) is RBF and not curl_free


def _relative_squares(square: Tensor, x: Tensor, q: Tensor | None) -> Tensor:
    """``u = s/σ²``, (..., Q, M)."""
    squares = ops.squared_distances(x) if q is None else ops.squared_distances(q, x)
    return squares.div_(square)  # its own memory: the pages of another M×M cost more than the work


def _centred(x: Tensor, q: Tensor | None) -> tuple[Tensor, Tensor]:
    """X and q about the medians of the coordinates of some of x.

    The formulas subtract products of coordinates that an offset would make large. Medians are not
    moved by an outlier, and make equal samples exactly 0. The fourth root of the largest number
    bounds the result, so that no product overflows: kernels are 0 to rounding that many
    bandwidths away.
    """
    some = min(x.shape[-2], 31)
    middle = x.narrow(-2, 0, some).sort(-2).values.narrow(-2, some // 2, 1)
    limit = torch.finfo(x.dtype).max ** 0.25
    y = saturated(x - middle).clamp(-limit, limit)
    return y, y if q is None else saturated(q - middle).clamp(-limit, limit)


def _column(bandwidth: Tensor) -> Tensor:
    return bandwidth.unsqueeze(-1).unsqueeze(-1)
