"""The ν-method: Landweber's iteration, accelerated."""

from dataclasses import dataclass

from torch import Tensor

from mige_ext._checks import require_count, require_positive, setting
from mige_ext.scores.kernel.gram import Gram
from mige_ext.scores.kernel.solvers import iterate
from mige_ext.scores.kernel.spectral import Solution, SpectralFilter


@dataclass(frozen=True, kw_only=True)
class NuMethod(SpectralFilter):
    """The ν-method (Engl, Hanke, Neubauer, Regularization of Inverse Problems, 1996, section 6.3).

    ``g_t = g_{t−1} + u_t(g_{t−1} − g_{t−2}) + ω_t(−ζ − L g_{t−1})``, with g, L and ζ as in
    :class:`Landweber`. t steps of the ν-method regularize like about t² steps of Landweber's
    iteration. For the filter f_t, ``1 − μ f_t(μ)`` is the Jacobi polynomial
    P_t^{(2ν − 1/2, −1/2)}(1 − 2μ), scaled to 1 at μ = 0.

    Args:
        steps: t; 1/t² acts as λ of :class:`Tikhonov`.
        nu: ν > 0 of the Jacobi polynomials. The method is optimal for smoothness up to ν.
        kernel, bandwidth, curl_free, calibrate: as for :class:`SpectralFilter`.
    """

    steps: int = setting(22, require_count)
    nu: float = setting(1.0, require_positive)

    def _solve(self, gram: Gram, source: Tensor) -> Solution:
        steps = (_step(t, float(self.nu)) for t in range(1, int(self.steps) + 1))
        return self._smooth(*iterate(gram, source, steps))


def _step(t: int, nu: float) -> tuple[float, float]:
    """u_t and ω_t of :class:`NuMethod`."""
    if t == 1:
        return 0.0, (4 * nu + 2) / (4 * nu + 1)
    last = (t + 2 * nu - 1) * (2 * t + 4 * nu - 1)
    u = (t - 1) * (2 * t - 3) * (2 * t + 2 * nu - 1) / (last * (2 * t + 2 * nu - 3))
    return u, 4 * (2 * t + 2 * nu - 1) * (t + nu - 1) / last
