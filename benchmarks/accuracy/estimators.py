"""The estimators that the accuracy benchmark compares."""

from dataclasses import dataclass

from torch import Tensor

from mige_ext import (
    SSGE,
    AdaptiveScore,
    GaussianScore,
    NuMethod,
    ScoreEstimator,
    Tikhonov,
    compat,
    ops,
)


@dataclass(frozen=True)
class Candidate:
    """A row of the tables.

    Attributes:
        name: Name in the tables.
        estimator: A public estimator or a setting of the grid.
        in_grid: Whether the oracle may choose the candidate.
        control: Name of the Gaussian score that the candidate corrects, and should not be worse
            than; "" for none.
    """

    name: str
    estimator: ScoreEstimator
    in_grid: bool = False
    control: str = ""


class GaussianPart:
    """The Gaussian score that ``AdaptiveScore(gaussian="ridge")`` corrects.

    The ridge is the weak ridge: a tenth to a fifth of the ridge of :class:`GaussianScore`.
    """

    def score(self, samples: Tensor) -> Tensor:
        """``−(z − m) W Wᵀ``, (M, d) -> (M, d)."""
        mean, whitening, _ = ops.ridge_whitening(samples)
        return -((samples - mean) @ whitening) @ whitening.mT

    def __str__(self) -> str:
        """Name of the operator that gives the score."""
        return "ops.ridge_whitening"


def candidates() -> list[Candidate]:
    """The estimators of every table, controls first."""
    return [
        Candidate("Gaussian ridge", GaussianScore(covariance="ridge"), in_grid=True),
        Candidate("Gaussian qis", GaussianScore(covariance="qis"), in_grid=True),
        Candidate("Gaussian mle", GaussianScore(covariance="mle"), in_grid=True),
        Candidate("Gaussian part", GaussianPart(), in_grid=True),
        Candidate("adaptive ridge", AdaptiveScore(gaussian="ridge"), control="Gaussian part"),
        Candidate("adaptive qis", AdaptiveScore(gaussian="qis"), control="Gaussian qis"),
        Candidate("adaptive mle", AdaptiveScore(gaussian="mle"), control="Gaussian mle"),
        Candidate("SSGE .99", SSGE()),
        Candidate("SSGE calibrated", SSGE(calibrate="stein")),
        Candidate("authors' .99", compat.SpectralScoreEstimator(n_eigen_threshold=0.99)),
        Candidate("Tikhonov", Tikhonov()),
        Candidate("NuMethod", NuMethod()),
    ]
