"""Tikhonov regularization, and the Stein gradient estimator, which is the same filter."""

from dataclasses import dataclass

from torch import Tensor

from mige_ext._checks import require_positive, setting
from mige_ext.scores.kernel.gram import Gram
from mige_ext.scores.kernel.spectral import Solution, SpectralFilter


@dataclass(frozen=True, kw_only=True)
class Tikhonov(SpectralFilter):
    """Tikhonov regularization, ``g = −(L + λI)^{−1} ζ``.

    g is the score at the samples, ``L = K/M``, and ``ζ = H/M`` with the gradient sum H
    (:mod:`mige_ext.scores.kernel.spectral`). At other points
    ``g(q) = −(K(q, X) g(X)/M + ζ(q))/λ``.

        >>> import torch, mige_ext as mige
        >>> mige.Tikhonov(lam=1e-3, kernel=mige.IMQ()).score(torch.randn(64, 3)).shape
        torch.Size([64, 3])

    If λ is below the rounding errors of L (about M ε), L + λI may be indefinite. A score then
    raises ValueError on the CPU, and is NaN on CUDA.

    Args:
        lam: λ > 0, relative to the eigenvalues of L, which are at most 1. For a few hundred
            samples, the best λ is 1e-3 to 3e-3, and 3e-3 to 1e-2 for curl-free kernels.
        kernel, bandwidth, curl_free, calibrate: as for :class:`SpectralFilter`.
    """

    lam: float = setting(2e-3, require_positive)

    def _solve(self, gram: Gram, source: Tensor) -> Solution:
        return self._solve_shifted(gram, source, float(self.lam))


@dataclass(frozen=True, kw_only=True)
class Stein(SpectralFilter):
    """Stein gradient estimator, ``g = −(K + ηI)^{−1} H`` (Li and Turner, ICLR 2018).

    H is the gradient sum. This estimator is :class:`Tikhonov` with ``λ = η/M``, and raises the same
    errors. Li and Turner define the estimator at the samples only.

    Args:
        eta: η > 0, relative to the eigenvalues of K, whose sum is M (Md if curl-free). For M = 250
            the default η = 0.5 corresponds to the default λ = η/M = 2e-3 of :class:`Tikhonov`.
        kernel, bandwidth, curl_free, calibrate: as for :class:`SpectralFilter`.
    """

    eta: float = setting(0.5, require_positive)

    def _solve(self, gram: Gram, source: Tensor) -> Solution:
        return self._solve_shifted(gram, source, self.eta / source.shape[-2])
