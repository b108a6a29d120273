"""The frame of the spectral filters in ``filters.py``: units, bandwidths, fits and diagnostics."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Literal, TypeVar

import torch
from torch import Tensor

from mige_ext import _checks
from mige_ext._precision import in_units, no_autocast, power_of_two, saturated
from mige_ext.scores.base import (
    Diagnostics,
    Fitted,
    calibrated,
    prepared,
    prepared_query,
    require_calibrate,
    stein_calibration,
)
from mige_ext.scores.kernel.gram import (
    CurlFreeGram,
    DiagonalGram,
    gram_of,
    has_native_product,
    rbf_score,
)
from mige_ext.scores.kernel.kernels import RBF, Bandwidth, Kernel, bandwidth_rule, bandwidth_tensor
from mige_ext.scores.kernel.solvers import solve_shifted

_RBF = RBF()


def _rbf() -> Kernel:
    """The default kernel, where torch.compile finds it: compiled code may make estimators."""
    return _RBF


@dataclass(frozen=True, eq=False)
class FittedFilter(Fitted):
    """A fitted kernel score, ``g(q) = K(q, X) w + b ζ(q)``.

    All but the diagnostics is in a unit of length that is a power of two, so that samples of any
    size have coefficients in range.

    Attributes:
        samples: X, (..., M, d).
        coefficients: w, (..., M, d).
        bandwidth: σ, (...); 1 for a group of equal samples, whose coefficients are 0.
        unit: what the others are in units of, (..., 1, 1).
        diagnostics: rank, bandwidth, energy and calibration, in the units of the caller.
        share: b, (..., 1, 1); None for 0.
        kernel: φ.
        curl_free: whether K is the curl-free kernel of φ, or ``φ I``.
    """

    samples: Tensor
    coefficients: Tensor
    bandwidth: Tensor
    unit: Tensor
    diagnostics: Diagnostics
    share: Tensor | None = None
    kernel: Kernel = field(default_factory=_rbf)
    curl_free: bool = False

    def score(self, query: Tensor | None = None) -> Tensor:
        """Scores at other points.

        Args:
            query: (..., Q, d), leading dimensions and device as the samples; the samples themselves
                if not given.

        Returns:
            (..., Q, d), without a gradient, in the dtype of the fit.

        Raises:
            ValueError, TypeError: a query that is not such a tensor or not finite.

        Cost:
            O(QMd) time. The diagonal RBF kernel takes O(Md) memory: its Q×M matrix is never formed;
            the others O(QM).
        """
        points = self.samples if query is None else self._in_units(query)
        with no_autocast(points):
            if has_native_product(self.kernel, self.curl_free):
                arguments = points, self.samples, self.coefficients, self.bandwidth, self.share
                return saturated(rbf_score(*arguments) / self.unit)
            gram = gram_of(self.kernel, self.curl_free, self.bandwidth, self.samples, points)
            scores = gram.product(self.coefficients)
            if self.share is not None:
                scores = scores + self.share * gram.source()
            return saturated(scores / self.unit)

    def energy(self, query: Tensor | None = None) -> Tensor:
        """The log-density that the score is the gradient of, up to a constant for each group.

        Args:
            query: as for :meth:`score`.

        Returns:
            (..., Q), without a gradient.

        Raises:
            ValueError, TypeError: a query that is not such a tensor or not finite; a fit that is
                not curl-free, whose score is no gradient.

        Cost:
            4QMd flop; memory O(QM).
        """
        if not self.curl_free:
            raise ValueError("energy needs a fit with curl_free=True, got curl_free=False")
        points = self.samples if query is None else self._in_units(query)
        with no_autocast(points):
            gram = CurlFreeGram(self.kernel, self.bandwidth, self.samples, points)
            return saturated(gram.energy(self.coefficients, self.share))

    def _in_units(self, query: Tensor) -> Tensor:
        return in_units(prepared_query(query, self.samples), self.unit)


FilterT = TypeVar("FilterT", bound=FittedFilter)


@dataclass(frozen=True)
class Solution:
    """A filter applied to one batch of samples, in their units.

    Attributes:
        scores: at the samples, (..., M, d).
        coefficients: w, (..., M, d).
        share: b, a number.
        rank: J, (...).
        energy: share of trace(K) kept, (...).
    """

    scores: Tensor
    coefficients: Tensor
    share: float | None
    rank: Tensor
    energy: Tensor


@dataclass(frozen=True)
class Estimate:
    """A solution, and the samples and units it is in; σ absolute is 0 for equal samples."""

    samples: Tensor
    unit: Tensor
    bandwidth: Tensor
    absolute: Tensor
    solution: Solution

    def diagnostics(self) -> Diagnostics:
        """What the estimate says about itself."""
        known = self.absolute > 0
        return Diagnostics(
            torch.where(known, self.solution.rank, 0),
            self.absolute,
            torch.where(known, self.solution.energy, 0.0),
            self.calibration(),
        )

    def calibration(self) -> Tensor:
        """Of the scores; about a sample, since an offset would cost the mean its digits."""
        x = saturated(self.samples - self.samples.narrow(-2, 0, 1))
        return stein_calibration(x, self.solution.scores)


@dataclass(frozen=True, kw_only=True)
class SpectralFilter(ABC):
    """What the spectral filters share.

    Scores are computed on detached inputs, in float32 at least, for any leading batch dimensions:
    each group has its own bandwidth and does not see the others.

    Args:
        bandwidth: "median", a number, or a :class:`Bandwidth` rule.
        calibrate: "stein" divides the scores of each group by :attr:`Diagnostics.calibration`,
            one scalar that undoes the shrinkage; None leaves them.
        kernel: φ, ``RBF()`` or ``IMQ()``.
        curl_free: whether K is the curl-free kernel of φ, whose score is the gradient of
            :meth:`FittedFilter.energy`, in place of ``φ I``.
    """

    bandwidth: str | float | Bandwidth = "median"
    calibrate: Literal["stein"] | None = None
    kernel: Kernel = field(default_factory=_rbf)
    curl_free: bool = False

    def __post_init__(self) -> None:
        """Checks the arguments."""
        bandwidth_rule(self.bandwidth)
        require_calibrate(self.calibrate)
        if not isinstance(self.kernel, Kernel):
            raise TypeError(f"kernel must be a Kernel such as IMQ(), got {self.kernel!r}")
        if not isinstance(self.curl_free, bool):
            raise TypeError(f"curl_free must be True or False, got {self.curl_free!r}")

    def score(self, samples: Tensor) -> Tensor:
        """Scores at the samples.

        Args:
            samples: (..., M, d) with M >= 2, floating point.

        Returns:
            (..., M, d), without a gradient; float64 for float64 samples, else float32. Zero for a
            group whose samples are all equal.

        Raises:
            ValueError, TypeError: samples that are not such a tensor or not finite.

        Cost:
            That of the filter, in the table of the module, for each group.
        """
        estimate = self._estimate(samples)
        scores = estimate.solution.scores
        if self.calibrate is not None:
            scores = calibrated(scores, estimate.calibration())
        return saturated(scores / estimate.unit)

    def fit(self, samples: Tensor) -> FittedFilter:
        """Fits the score anywhere.

        Args:
            samples: (..., M, d) with M >= 2, floating point.

        Returns:
            The fitted score; it keeps its own samples and coefficients, 2Md values a group.

        Raises:
            ValueError, TypeError: samples that are not such a tensor or not finite.

        Cost:
            As :meth:`score`.
        """
        return self._fit(FittedFilter, samples)

    def diagnose(self, samples: Tensor) -> Diagnostics:
        """Rank, bandwidth, captured energy and calibration of :meth:`score`; same arguments."""
        return self._estimate(samples).diagnostics()

    def _fit(self, kind: type[FilterT], samples: Tensor) -> FilterT:
        e = self._estimate(samples)
        diagnostics = e.diagnostics()
        coefficients, share = e.solution.coefficients, None
        if e.solution.share is not None:
            known = (e.absolute > 0).unsqueeze(-1).unsqueeze(-1)
            share = torch.where(known, e.solution.share, torch.zeros_like(e.unit))
        if self.calibrate is not None:
            coefficients = calibrated(coefficients, diagnostics.calibration)
            share = None if share is None else calibrated(share, diagnostics.calibration)
        record = e.samples, coefficients, e.bandwidth, e.unit, diagnostics
        return kind(*record, share, self.kernel, self.curl_free)

    def _estimate(self, samples: Tensor) -> Estimate:
        samples = prepared(samples)
        if _checks.looking_is_free(samples):
            _checks.require_finite(samples=samples)
        rule = bandwidth_rule(self.bandwidth)
        found = rule(samples) if isinstance(rule, Bandwidth) else rule
        absolute = bandwidth_tensor(found, samples)
        # In units of a power of two near σ, which is exact, the squares that count are in range.
        unit = power_of_two(absolute).unsqueeze(-1).unsqueeze(-1)
        bandwidth = torch.where(absolute > 0, absolute / unit.squeeze((-2, -1)), 1.0)
        x = in_units(samples, unit)
        with no_autocast(x):
            gram = gram_of(self.kernel, self.curl_free, bandwidth, x)
            return Estimate(x, unit, bandwidth, absolute, self._solve(gram, gram.source()))

    @abstractmethod
    def _solve(self, gram: DiagonalGram | CurlFreeGram, source: Tensor) -> Solution:
        """The filter on the gram of samples with themselves and ζ at the samples."""

    def _smooth(self, g: Tensor, coefficients: Tensor, share: float) -> Solution:
        """The solution of a filter that cuts nothing off, from g with the sign of ζ."""
        m, d = g.shape[-2:]
        rank = torch.full(g.shape[:-2], m * d if self.curl_free else m, device=g.device)
        return Solution(-g, -coefficients, -share, rank, torch.ones_like(g.sum((-2, -1))))

    def _shifted(self, gram: DiagonalGram | CurlFreeGram, source: Tensor, lam: float) -> Solution:
        g = solve_shifted(gram, lam, source)
        return self._smooth(g, g / (-lam * g.shape[-2]), 1 / lam)
