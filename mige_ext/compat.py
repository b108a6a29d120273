"""The names and signatures of the code that the authors of MIGE (Wen et al.) released.

Where the release differs from the paper, this module follows the release:

- J is the number of leading eigenvalues whose cumulative fraction of the trace stays *below* the
  threshold, which is one less than in the paper. All groups of a batch have the same J, which
  follows from their mean spectrum.
- The bandwidth is the median of all M² distances, including the M zeros of the diagonal. Query
  points, if given, count as further samples in this median.
- An entropy surrogate has the sign of −H.

Three defects of the release are fixed:

- The argument ``n_eigen`` had an effect in the first call only.
- The release kept the whole spectrum if its rule gave J = 0. Here J is at least 1.
- The argument ``eta`` worked on the CPU only.
"""

import math
from dataclasses import dataclass
from numbers import Real

import torch
from torch import Tensor

from mige_ext import _checks, ops
from mige_ext._precision import at_least_float32, gram_rounding, in_units, no_autocast, unit_of
from mige_ext.scores.base import ScoreEstimator, require_estimator
from mige_ext.scores.kernel.spectral import leading


@dataclass(eq=False)
class SpectralScoreEstimator:
    """SSGE with the conventions of the release.

    Args:
        n_eigen: J, the number of eigenvalues; all by default.
        eta: a number that is added to the diagonal of the Gram matrix.
        n_eigen_threshold: fraction of the trace in (0, 1] that selects J, instead of ``n_eigen``.

    Raises:
        ValueError: an argument is invalid, or both n_eigen and n_eigen_threshold are given.
    """

    n_eigen: int | None = _checks.setting(None, _checks.require_count, or_none=True)
    eta: float | None = None
    n_eigen_threshold: float | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        n, eta, threshold = self.n_eigen, self.eta, self.n_eigen_threshold
        if n is not None and threshold is not None:
            raise ValueError(
                f"n_eigen and n_eigen_threshold must not both be given, got {n} and {threshold}"
            )
        _checks.require_settings(self)
        if eta is not None and not (isinstance(eta, Real) and 0 <= eta < math.inf):
            raise ValueError(f"eta must be finite and not negative, got {eta!r}")
        if threshold is not None:
            _checks.require_fraction("n_eigen_threshold", threshold)

    def score(self, samples: Tensor) -> Tensor:
        """Scores at the samples, with the interface of :class:`~mige_ext.ScoreEstimator`."""
        return self.compute_gradients(samples)

    def compute_gradients(self, samples: Tensor, x: Tensor | None = None) -> Tensor:
        """Scores at ``x``, or at the samples.

        Args:
            samples: (..., M, d) with M >= 2.
            x: query points, (..., Q, d); the samples by default.

        Returns:
            (..., M, d) or (..., Q, d), without a gradient; float64 for float64 samples, else
            float32.

        Raises:
            ValueError, TypeError: an argument is not as described or not finite.

        Cost:
            One eigendecomposition, O(M³ + M²d), for each group.
        """
        _checks.require_samples("samples", samples)
        samples = at_least_float32(samples.detach())
        m = samples.shape[-2]
        if self.n_eigen is not None and self.n_eigen > m:
            raise ValueError(f"n_eigen must be at most M = {m}, got {self.n_eigen}")
        if x is not None:
            _checks.require_query("x", x, samples)
        _checks.require_finite(samples=samples)
        unit = unit_of(samples)
        samples = points = samples / unit
        if x is not None:
            x = in_units(x.detach().to(samples.dtype), unit)
            points = torch.cat((samples, x), -2)

        with no_autocast(samples):
            sigma = _release_bandwidth(points)
            k = ops.rbf_gram(samples, bandwidth=sigma)
            if self.eta is not None:
                k = k + self.eta * torch.eye(m, dtype=k.dtype, device=k.device)
            values, vectors = ops.eigh(k)
            # Repeated samples make K singular, so eigenvalues that are rounding errors are dropped.
            kept = (values > gram_rounding(values)) & self._leading(values)
            inverse = torch.where(kept, 1 / values, 0.0).unsqueeze(-1)
            projected = vectors.mT @ ops.rbf_gradient_sum(samples, bandwidth=sigma)
            if x is None:
                return in_units(-vectors @ (inverse * projected), unit)
            coefficients = -vectors @ (inverse**2 * projected)
            return in_units(ops.rbf_product(x, samples, coefficients, bandwidth=sigma), unit)

    def _leading(self, values: Tensor) -> Tensor:
        """A mask of the J largest of the ascending eigenvalues, (M,)."""
        m = values.shape[-1]
        j: int | Tensor = m
        if self.n_eigen is not None:
            j = self.n_eigen
        elif self.n_eigen_threshold is not None:
            spectrum = values.flip(-1).reshape(-1, m).mean(0)
            fraction = spectrum.cumsum(0) / spectrum.sum()
            j = (fraction < self.n_eigen_threshold).sum().clamp(min=1)
        return leading(values, j)


def entropy_surrogate(estimator: ScoreEstimator, samples: Tensor) -> Tensor:
    """Surrogate of −H(z), ``mean ∇ log q(z) · z``.

    Args:
        estimator: any object with a method ``score``.
        samples: z, (..., M, d) with M >= 2.

    Returns:
        A scalar whose gradient is the gradient of −H(z), and whose value means nothing. As in the
        release, the scores are constants, so a second derivative is 0.

    Raises:
        ValueError, TypeError: an argument is not as described.

    Cost:
        One score.
    """
    require_estimator(estimator)
    _checks.require_samples("samples", samples)
    products = (estimator.score(samples.detach()) * samples).sum(-1)
    return products.sum() / max(products.numel(), 1)


class MutualInformationGradientEstimator:
    """Surrogate of I(x; y) from three surrogates of −H, with the conventions of the release.

    Args:
        n_eigen, n_eigen_threshold: as for :class:`SpectralScoreEstimator`.
    """

    def __init__(self, n_eigen: int | None = None, n_eigen_threshold: float | None = None) -> None:
        self.estimator = SpectralScoreEstimator(n_eigen, n_eigen_threshold=n_eigen_threshold)

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """A scalar with the gradient of I(x; y), for x (..., M, d_x) and y (..., M, d_y)."""
        _checks.require_paired("x", x, "y", y)
        _checks.require_finite(x=x, y=y)
        joint = entropy_surrogate(self.estimator, torch.cat((x, y), -1))
        return joint - entropy_surrogate(self.estimator, x) - entropy_surrogate(self.estimator, y)


def _release_bandwidth(points: Tensor) -> Tensor:
    """σ: the element n² − ⌊n²/2⌋ of the n² distances in ascending order, with the n zeros."""
    n = points.shape[-2]
    # The index among the distances off the diagonal, each of which occurs twice.
    index = n * n - n * n // 2 - n
    pairs = n * (n - 1) // 2
    rank = max(index, 0) // 2 + 1
    sigma = ops.distance_quantile(points, (rank - 0.5) / pairs)
    return torch.where(sigma > 0, sigma, 1.0)  # for equal points, H and the score are 0
