"""The oracle: the best of several hundred settings of kernel score estimators.

Every setting is a spectral filter g (Zhou, Shi, Zhu, ICML 2020). With the Gram matrix K, the
gradient sum H, K/M = L = U diag(μ) Uᵀ and ζ = H/M,

    ŝ = −U g(μ) Uᵀ ζ,    ‖ŝ − s‖² = ‖g(μ) Uᵀζ + Uᵀs‖².

All filters of a kernel and a bandwidth therefore use one eigendecomposition, and one more filter
costs O(M). The Gram matrix of a curl-free kernel has Md rows. If it is too large for an
eigendecomposition, only the ν-method is used, which needs only products with L.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from mige_ext import Bandwidth

#: ``φ, φ', φ'', φ'''`` of the squared distance s in units of σ².
KERNELS: dict[str, Callable[[Tensor], tuple[Tensor, ...]]] = {
    "RBF": lambda s: tuple((-0.5) ** n * torch.exp(-s / 2) for n in range(4)),
    "IMQ": lambda s: tuple(
        factor * (1 + s) ** (-0.5 - n) for n, factor in enumerate((1.0, -0.5, 0.75, -1.875))
    ),
}

CUT_OFF, TIKHONOV, NU, LANDWEBER = "cut-off", "Tikhonov", "nu-method", "Landweber"
NUMBERS = {CUT_OFF: "share", TIKHONOV: "λ", NU: "steps", LANDWEBER: "steps"}


@dataclass(frozen=True)
class Setting:
    """An estimator of the grid.

    Attributes:
        kernel: "RBF" or "IMQ".
        curl_free: Whether the kernel is the curl-free kernel of φ.
        multiplier: σ relative to the median distance.
        filter: One of ``NUMBERS``.
        number: Parameter of the filter: the fraction of the trace, λ, or the number of steps. (ν is
            1 in the ν-method, and the step size is 1 in Landweber's iteration.)
    """

    kernel: str = "RBF"
    curl_free: bool = False
    multiplier: float = 1.0
    filter: str = CUT_OFF
    number: float = 0.99

    def __str__(self) -> str:
        """A text such as ``IMQ curl-free 1.4σ nu-method steps 32``."""
        curl = " curl-free" if self.curl_free else ""
        number = f"{NUMBERS[self.filter]} {self.number:g}"
        return f"{self.kernel}{curl} {self.multiplier:g}σ {self.filter} {number}"

    def score(self, samples: Tensor) -> Tensor:
        """Scores at the samples, (..., M, d) -> (..., M, d), by this setting alone."""
        if samples.dim() > 2:
            return torch.stack([self.score(group) for group in samples])
        problem = Problem(samples, self)
        if self.iterated(*samples.shape):
            *_, last = problem.iterates(int(self.number))
            return last
        spectrum = problem.spectrum
        scaled = -spectrum.filter(self).unsqueeze(-1) * spectrum.source
        return (spectrum.vectors @ scaled).view_as(samples)

    def iterated(self, m: int, d: int) -> bool:
        """Whether the matrix is too large for an eigendecomposition."""
        return self.curl_free and m * d > LARGEST


#: Largest number of rows of a curl-free kernel's matrix for an eigendecomposition.
LARGEST = 640

_FILTERS: dict[str, Sequence[float]] = {
    CUT_OFF: (0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.99, 0.995, 0.999),
    TIKHONOV: (0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 1e-6),
    NU: (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128),
    LANDWEBER: (1, 4, 16, 64, 256, 1024, 4096),
}


def grid(m: int, d: int) -> list[list[Setting]]:
    """The settings for M samples in d dimensions, with a list for each kernel and bandwidth.

    Above M = 512 there are fewer bandwidths, and the only curl-free kernel is IMQ.
    """
    small = m <= 512
    kernels = [
        Setting(kernel, False, multiplier)
        for kernel in KERNELS
        for multiplier in ((0.5, 0.7, 1.0, 1.4, 2.0, 4.0) if small else (0.7, 1.0, 1.4, 4.0))
    ] + [
        Setting(kernel, True, multiplier)
        for kernel in (KERNELS if small else ("IMQ",))
        for multiplier in ((0.7, 1.0, 2.0, 4.0) if small else (1.0, 2.0))
    ]
    return [
        [
            replace(base, filter=name, number=number)
            for name, numbers in _FILTERS.items()
            for number in numbers
            if name == NU or not base.iterated(m, d)
        ]
        for base in kernels
    ]


def errors(samples: Tensor, exact: Tensor, settings: Sequence[Setting]) -> list[float]:
    """``‖ŝ − s‖² / ‖s‖²`` of settings with the same kernel and bandwidth.

    Args:
        samples: Samples in float64, (M, d).
        exact: The true scores s of the samples, (M, d).
        settings: One list of :func:`grid`.
    """
    problem = Problem(samples, settings[0])
    size = exact.square().sum()
    if settings[0].iterated(*samples.shape):
        found = dict(enumerate(problem.iterates(int(max(s.number for s in settings))), 1))
        scores = [found[int(setting.number)] for setting in settings]
        return [((score - exact).square().sum() / size).item() for score in scores]
    spectrum = problem.spectrum
    # ‖g p + t‖² for all filters g at once, with the rows p of Uᵀζ and t of Uᵀs.
    target = spectrum.vectors.mT @ exact.reshape(len(spectrum.values), -1)
    pp, pt, tt = (
        (a * b).sum(-1)
        for a, b in (
            (spectrum.source, spectrum.source),
            (spectrum.source, target),
            (target, target),
        )
    )
    g = torch.stack([spectrum.filter(setting) for setting in settings])
    return ((g.square() * pp + 2 * g * pt + tt).sum(-1) / size).tolist()


class Problem:
    """L and ζ of one kernel and bandwidth at samples (M, d)."""

    def __init__(self, samples: Tensor, setting: Setting) -> None:
        self._curl_free = setting.curl_free
        self._m, self._d = samples.shape
        self._sigma = Bandwidth(multiplier=setting.multiplier)(samples)
        self._x = (samples - samples.mean(0)) / self._sigma
        self._s = torch.cdist(self._x, self._x, compute_mode="donot_use_mm_for_euclid_dist") ** 2
        self._phi = KERNELS[setting.kernel](self._s)

    @cached_property
    def source(self) -> Tensor:
        """ζ, (M, d): ``(2/M)(φ'X − diag(φ'1)X)``, or curl-free ``(2/M)(diag(B1)X − BX)``."""
        _, first, second, third = self._phi
        if self._curl_free:  # scaled so that K is the identity at r = 0
            b = 2 * ((self._d + 2) * second + 2 * self._s * third)
            pulled = self._pull(b)
        else:
            pulled = -self._pull(first)
        return 2 / self._m / self._sigma * pulled

    def apply(self, f: Tensor) -> Tensor:
        """``L f`` of f (M, d), with ``K = φ I`` or ``K = −2φ' I − 4φ'' r rᵀ``."""
        if not self._curl_free:
            return self._phi[0] @ f / self._m
        _, first, second, _ = self._phi
        along = self._x @ f.mT - (self._x * f).sum(-1)
        return (-2 * first @ f - 4 * self._pull(second * along)) / self._m

    def iterates(self, steps: int) -> Iterator[Tensor]:
        """The scores after each step of the ν-method, (M, d)."""
        for f in nu_method(self.apply, self.source, steps):
            yield -f

    @cached_property
    def spectrum(self) -> "Spectrum":
        """The eigendecomposition of L."""
        size = self._m
        matrix = self._phi[0]
        if self._curl_free:
            _, first, second, _ = self._phi
            r = self._x.unsqueeze(1) - self._x
            blocks = -4 * second[..., None, None] * r.unsqueeze(-1) * r.unsqueeze(-2)
            blocks = blocks - 2 * first[..., None, None] * torch.eye(self._d, dtype=r.dtype)
            size = self._m * self._d
            matrix = blocks.transpose(1, 2).reshape(size, size)
        values, vectors = torch.linalg.eigh(matrix)
        source = self.source.reshape(size, -1)
        return Spectrum(values / self._m, vectors, vectors.mT @ source)

    def _pull(self, weights: Tensor) -> Tensor:
        """``Σ_j w_ij (x_i − x_j)``."""
        return weights.sum(-1, keepdim=True) * self._x - weights @ self._x


@dataclass(frozen=True)
class Spectrum:
    """``L = U diag(μ) Uᵀ`` and ``Uᵀζ``.

    Attributes:
        values: μ in ascending order, (N), with N = M or Md.
        vectors: U, (N, N).
        source: ``Uᵀζ``, (N, d) or (N, 1).
    """

    values: Tensor
    vectors: Tensor
    source: Tensor

    def filter(self, setting: Setting) -> Tensor:
        """``g(μ)``, (N)."""
        mu, number = self.values, setting.number
        if setting.filter == TIKHONOV:
            return 1 / (mu + number)
        if setting.filter == NU:
            *_, last = nu_method(mu.mul, torch.ones_like(mu), int(number))
            return last
        if setting.filter == LANDWEBER:
            # (1 − (1 − μ)^t) / μ, whose limit at μ = 0 is t.
            positive = mu.clamp(torch.finfo(mu.dtype).tiny, 1)
            return -torch.expm1(number * torch.log1p(-positive)) / positive
        # The fewest leading eigenvalues whose fraction of the trace reaches `number`, without
        # rounding errors.
        descending = mu.flip(0)
        rank = int((descending.cumsum(0) < number * mu.sum()).sum()) + 1
        rounding = len(mu) * torch.finfo(mu.dtype).eps * descending[0]
        kept = (torch.arange(len(mu)) >= len(mu) - rank) & (mu > rounding)
        return torch.where(kept, 1 / mu, 0.0)


def nu_method(apply: Callable[[Tensor], Tensor], source: Tensor, steps: int) -> Iterator[Tensor]:
    """The iterates f₁, f₂, … of the ν-method for ``L f = ζ`` with ν = 1 and ``‖L‖ <= 1``.

    ``f_t = f_{t−1} + a_t (f_{t−1} − f_{t−2}) + b_t (ζ − L f_{t−1})`` (Engl, Hanke, Neubauer,
    "Regularization of Inverse Problems", 1996, section 6.3).
    """
    nu = 1.0
    before, f = torch.zeros_like(source), (4 * nu + 2) / (4 * nu + 1) * source
    yield f
    for t in range(2, steps + 1):
        shared = (t + 2 * nu - 1) * (2 * t + 4 * nu - 1)
        a = (t - 1) * (2 * t - 3) * (2 * t + 2 * nu - 1) / shared / (2 * t + 2 * nu - 3)
        b = 4 * (2 * t + 2 * nu - 1) * (t + nu - 1) / shared
        f, before = f + a * (f - before) + b * (source - apply(f)), f
        yield f
