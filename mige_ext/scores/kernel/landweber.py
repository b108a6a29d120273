"""Landweber's iteration, which is stopped early."""

from dataclasses import dataclass
from itertools import repeat
from numbers import Real

from torch import Tensor

from mige_ext._checks import require_count, setting
from mige_ext.scores.kernel.gram import Gram
from mige_ext.scores.kernel.solvers import iterate
from mige_ext.scores.kernel.spectral import Solution, SpectralFilter


def _require_step_size(name: str, value: float) -> None:
    if not (isinstance(value, Real) and 0 < value < 2):
        raise ValueError(f"{name} must lie in (0, 2), got {value!r}")


@dataclass(frozen=True, kw_only=True)
class Landweber(SpectralFilter):
    """Landweber's iteration, ``g_t = g_{t−1} + α(−ζ − L g_{t−1})`` from 0, stopped early.

    g is the score at the samples, ``L = K/M``, and ``ζ = H/M`` with the gradient sum H
    (:mod:`mige_ext.scores.kernel.spectral`).

    Args:
        steps: t; 1/(αt) acts as λ of :class:`Tikhonov`.
        step_size: α, in (0, 2), for which the iteration converges; 1 is nearly the fastest.
        kernel, bandwidth, curl_free, calibrate: as for :class:`SpectralFilter`.
    """

    steps: int = setting(500, require_count)
    step_size: float = setting(1.0, _require_step_size)

    def _solve(self, gram: Gram, source: Tensor) -> Solution:
        steps = repeat((0.0, float(self.step_size)), int(self.steps))
        return self._smooth(*iterate(gram, source, steps))
