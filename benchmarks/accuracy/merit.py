"""The figures of merit of a score estimator: NMSE, bias of the gradient, error of dI/dθ.

- **NMSE** is ``Σ‖ŝ − s‖² / Σ‖s‖²`` over the samples, averaged over the data sets.
- **Bias of the gradient** is ``‖E Ĝ − G‖ / ‖G‖`` with the exact matrix G = dI/dA of an encoder
  ``v = A u + noise``, or G = dH/dA at A = I without an encoder. It matters because SGD averages
  variance away, but not bias.
- **Error of dI/dθ** is the root of the mean square error over the data sets, relative to the truth.
  θ is ρ of the correlated Gaussians and their transforms, and a of the bimodal ``aB + ε``.

The code of sample i is t(v_i), where t is a function of each coordinate. For a pair (x, y) the code
is y, otherwise z. (Without an encoder u = v = z.) Then ``Ĝ = −(1/M) Σ (ŝ_i ∘ t'(v_i)) u_iᵀ``, and
``dI/dθ ≈ −(1/M) Σ ŝ_i·∂t(v_i)/∂θ`` with fixed random numbers. ŝ is the score of z. For a pair it is
the score of y minus the y-part of the score of (x, y).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.accuracy.distributions import Distribution, Draw
from mige_ext import ScoreEstimator


@dataclass(frozen=True)
class Merit:
    """The figures of merit of an estimator on S data sets.

    Attributes:
        nmse: NMSE, (S).
        gradients: Ĝ, (S, k, k).
        derivatives: Estimates of dI/dθ, (S); NaN for a family without θ.
    """

    nmse: NDArray[np.float64]
    gradients: Tensor
    derivatives: NDArray[np.float64]

    def bias(self, exact: float) -> float:
        """``‖E Ĝ − G‖ / ‖G‖`` with G = ``exact`` times the identity matrix; NaN for one data set.

        The squared norm of a mean includes the variance of the mean, which is subtracted.
        """
        s, k = self.gradients.shape[:2]
        if s == 1:
            return float("nan")
        target = exact * torch.eye(k, dtype=self.gradients.dtype)
        square = (self.gradients.mean(0) - target).square().sum()
        noise = self.gradients.var(0).sum() / s
        return float(((square - noise).clamp(min=0) / target.square().sum()).sqrt())

    def derivative_error(self, exact: float | None) -> float:
        """Relative root mean square error of dI/dθ; NaN for a family without θ."""
        if exact is None:
            return float("nan")
        return float(np.sqrt(np.mean((self.derivatives - exact) ** 2)) / abs(exact))


def evaluate(estimator: ScoreEstimator, distribution: Distribution, draws: Sequence[Draw]) -> Merit:
    """The figures of merit of an estimator on some data sets of a distribution."""
    nmse, gradients, derivatives = [], [], []
    for draw_ in draws:
        scores = estimator.score(draw_.samples)
        exact = distribution.score(draw_.samples)
        nmse.append(((scores - exact).square().sum() / exact.square().sum()).item())
        if distribution.paired:  # I = H(x) + H(y) − H(x, y), and only y depends on A
            y = draw_.samples.chunk(2, -1)[1]
            scores = estimator.score(y) - scores.chunk(2, -1)[1]
        gradients.append(-(scores * draw_.slope).mT @ draw_.inputs / len(scores))
        tangent = draw_.slope * torch.nan if draw_.tangent is None else draw_.tangent
        derivatives.append(-(scores * tangent).sum(-1).mean().item())
    return Merit(np.array(nmse), torch.stack(gradients), np.array(derivatives))
