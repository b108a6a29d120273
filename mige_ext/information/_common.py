"""Parts of several information functions: the default estimator, checks, and the entropy."""

from functools import partial

from torch import Tensor

from mige_ext._gradients import entropy_and_gradient
from mige_ext._surrogate import Entropy, surrogate
from mige_ext.distributed import GlobalBatch, distribute
from mige_ext.projection import RandomProjection
from mige_ext.scores.adaptive import AdaptiveScore
from mige_ext.scores.base import ScoreEstimator, require_estimator

#: The default estimator, with the Gaussian part "ridge". ("qis" gives better scores, but biases
#: gradients of information more.) Assigning another estimator to this name changes nothing: pass
#: ``estimator=`` to a call.
DEFAULT_ESTIMATOR = AdaptiveScore()


def checked_estimator(estimator: ScoreEstimator | None) -> ScoreEstimator:
    """The estimator of a call: the argument ``estimator``, or the default for None."""
    if estimator is None:
        return DEFAULT_ESTIMATOR
    require_estimator(estimator)
    return estimator


def require_projection(projection: object) -> None:
    """Raise TypeError unless the argument ``projection`` is a projection or None."""
    if not isinstance(projection, RandomProjection | None):
        raise TypeError(f"projection must be a RandomProjection or None, got {projection!r}")


def entropy_surrogate(
    z: Tensor, estimator: ScoreEstimator, batch: GlobalBatch | None, term: str = "z"
) -> Tensor:
    """The surrogate of H(z), whose name in a record is ``term``."""
    estimator, (z,) = distribute(estimator, batch, z)
    return surrogate(Entropy, partial(entropy_and_gradient, estimator, term=term), z)
