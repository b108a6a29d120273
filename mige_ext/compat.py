"""The names and signatures of the authors' release, for code that is written against it.

The conventions are the release's own where they differ from the paper's:

- J is the number of leading eigenvalues whose cumulative share stays *below* the threshold, one
  short of the paper's, and a batch shares the J of its mean spectrum;
- the bandwidth is the median of all M² distances, the M zeros among them, and of samples and query
  points together where there are query points;
- an entropy surrogate has the sign of −H.

Three defects are mended: ``n_eigen`` was forgotten after the first call; J = 0 silently kept the
whole spectrum (now J is at least 1); ``eta`` worked on the CPU only.
"""

import math
from numbers import Real

import torch
from torch import Tensor

from mige_ext import _checks, ops
from mige_ext._precision import at_least_float32, in_units, no_autocast, saturated, unit_of
from mige_ext.scores.base import ScoreEstimator, require_estimator


class SpectralScoreEstimator:
    """SSGE with the release's conventions.

    Args:
        n_eigen: fixed number of eigenvalues; all if neither this nor the threshold is given.
        eta: added to the diagonal of the Gram matrix before its eigendecomposition.
        n_eigen_threshold: share of the spectrum in (0, 1], instead of ``n_eigen``.
    """

    def __init__(
        self,
        n_eigen: int | None = None,
        eta: float | None = None,
        n_eigen_threshold: float | None = None,
    ) -> None:
        if n_eigen is not None and n_eigen_threshold is not None:
            raise ValueError(
                "n_eigen and n_eigen_threshold must not both be given, "
                f"got {n_eigen} and {n_eigen_threshold}"
            )
        _checks.require_count("n_eigen", n_eigen, or_none=True)
        if eta is not None and not (isinstance(eta, Real) and 0 <= eta < math.inf):
            raise ValueError(f"eta must be finite and not negative, got {eta!r}")
        if n_eigen_threshold is not None:
            _checks.require_share("n_eigen_threshold", n_eigen_threshold)
        self.n_eigen = n_eigen
        self.eta = eta
        self.n_eigen_threshold = n_eigen_threshold

    def score(self, samples: Tensor) -> Tensor:
        """:meth:`compute_gradients` at the samples, under the name of the library's protocol."""
        return self.compute_gradients(samples)

    def compute_gradients(self, samples: Tensor, x: Tensor | None = None) -> Tensor:
        """Scores at ``x``, or at the samples.

        Args:
            samples: (..., M, d) with M >= 2.
            x: query points, (..., Q, d).

        Returns:
            (..., M, d) or (..., Q, d), without a gradient; float32 at least.

        Raises:
            ValueError, TypeError: an argument that does not fit or is not finite.
        """
        _checks.require_samples("samples", samples)
        samples = at_least_float32(samples.detach())
        m = samples.shape[-2]
        if self.n_eigen is not None and self.n_eigen > m:
            raise ValueError(f"n_eigen must be at most M = {m}, got {self.n_eigen}")
        if x is not None:
            _checks.require_query("x", x, samples)
            if _checks.looking_is_free(x):
                _checks.require_finite(x=x)
        if _checks.looking_is_free(samples):
            _checks.require_finite(samples=samples)
        # In units of a power of two near the largest coordinate: exact, and always in range.
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
            # Rounding errors of zero are not inverted: repeated samples make K singular.
            noise = m * torch.finfo(values.dtype).eps * values.narrow(-1, m - 1, 1)
            kept = (values > noise) & self._leading(values)
            inverse = torch.where(kept, 1 / values, 0.0).unsqueeze(-1)
            projected = vectors.mT @ ops.rbf_gradient_sum(samples, bandwidth=sigma)
            if x is None:
                return saturated(-vectors @ (inverse * projected) / unit)
            coefficients = -vectors @ (inverse**2 * projected)
            scores = ops.rbf_product(x, samples, coefficients, bandwidth=sigma)
            return saturated(scores / unit)

    def _leading(self, values: Tensor) -> Tensor:
        """Which of the ascending eigenvalues are the J largest: a mask, (M,), for J is a tensor."""
        m = values.shape[-1]
        j: int | Tensor = m
        if self.n_eigen is not None:
            j = self.n_eigen
        elif self.n_eigen_threshold is not None:
            spectrum = values.flip(-1).reshape(-1, m).mean(0)
            share = spectrum.cumsum(0) / spectrum.sum()
            j = (share < self.n_eigen_threshold).sum().clamp(min=1)
        return torch.arange(m, device=values.device) >= m - j


def entropy_surrogate(estimator: ScoreEstimator, samples: Tensor) -> Tensor:
    """``mean Σ ∇ log q(z) · z``, whose gradient is that of −H(z).

    Args:
        estimator: anything with a ``score`` method.
        samples: (..., M, d).

    Returns:
        A scalar.
    """
    require_estimator(estimator)
    _checks.require_samples("samples", samples)
    products = (estimator.score(samples.detach()) * samples).sum(-1)
    return products.sum() / max(products.numel(), 1)


class MutualInformationGradientEstimator:
    """Surrogate of I(x; y) from three of −H, with the release's conventions.

    Args:
        n_eigen: as for :class:`SpectralScoreEstimator`.
        n_eigen_threshold: as for :class:`SpectralScoreEstimator`.
    """

    def __init__(self, n_eigen: int | None = None, n_eigen_threshold: float | None = None) -> None:
        self.estimator = SpectralScoreEstimator(n_eigen, n_eigen_threshold=n_eigen_threshold)

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """A scalar with the gradient of I(x; y): x (..., M, d_x), y (..., M, d_y)."""
        _checks.require_paired("x", x, "y", y)
        for name, argument in (("x", x), ("y", y)):
            if _checks.looking_is_free(argument):
                _checks.require_finite(**{name: argument})
        joint = entropy_surrogate(self.estimator, torch.cat((x, y), -1))
        return joint - entropy_surrogate(self.estimator, x) - entropy_surrogate(self.estimator, y)


def _release_bandwidth(points: Tensor) -> Tensor:
    """The element of ascending index n² − ⌊n²/2⌋ among all n² distances, the n zeros included."""
    n = points.shape[-2]
    index = n * n - n * n // 2 - n  # among the off-diagonal ones, where each pair stands twice
    pairs = n * (n - 1) // 2
    rank = max(index, 0) // 2 + 1
    sigma = ops.distance_quantile(points, (rank - 0.5) / pairs)
    return torch.where(sigma > 0, sigma, 1.0)  # all points equal: K = 1, H = 0, score 0
