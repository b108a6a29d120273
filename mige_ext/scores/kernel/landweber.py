"""Landweber's iteration, stopped early."""

from dataclasses import dataclass
from itertools import repeat
from numbers import Real

from torch import Tensor

from mige_ext import _checks
from mige_ext.scores.kernel.gram import Gram
from mige_ext.scores.kernel.solvers import iterate
from mige_ext.scores.kernel.spectral import Solution, SpectralFilter


@dataclass(frozen=True, kw_only=True)
class Landweber(SpectralFilter):
    """Landweber's iteration, ``g_t = g_{t−1} + α(−ζ − L g_{t−1})`` from 0, stopped early.

    Args:
        steps: t; 1/αt acts as λ.
        step_size: α, in (0, 2), where the iteration converges; 1 is safe and nearly the fastest.
        kernel, bandwidth, curl_free, calibrate: as for :class:`SpectralFilter`.
    """

    steps: int = 500
    step_size: float = 1.0

    def __post_init__(self) -> None:
        """Checks the arguments."""
        super().__post_init__()
        _checks.require_count("steps", self.steps)
        if not (isinstance(self.step_size, Real) and 0 < self.step_size < 2):
            raise ValueError(f"step_size must lie in (0, 2), got {self.step_size!r}")

    def _solve(self, gram: Gram, source: Tensor) -> Solution:
        steps = repeat((0.0, float(self.step_size)), int(self.steps))
        return self._smooth(*iterate(gram, source, steps))
