"""Score estimators by their names in the commands."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import mige_ext as mige
from mige_ext.scores.base import ScoreEstimator

ESTIMATORS: dict[str, Callable[..., Any]] = {
    "ssge": mige.SSGE,
    "adaptive": partial(mige.AdaptiveScore, gaussian="ridge"),
    "gaussian": mige.GaussianScore,
    "landweber": mige.Landweber,
    "nu-method": mige.NuMethod,
    "stein": mige.Stein,
    "tikhonov": mige.Tikhonov,
}


def require_option(name: str, option: str) -> None:
    """Check that an estimator has an option.

    Raises:
        ValueError: The estimator lacks the option. The message names estimators with the option.
    """
    having = [known for known in ESTIMATORS if option in _options(known)]
    if name not in having:
        raise ValueError(f"{option} goes with --estimator {' or '.join(having)}, got {name!r}")


def make_estimator(name: str, *, threshold: float, calibrate: str | None = None) -> ScoreEstimator:
    """The estimator of this name. An option that the estimator lacks is ignored.

    Raises:
        ValueError: No estimator has this name, or an option is out of range.
    """
    if name not in ESTIMATORS:
        raise ValueError(f"estimator must be one of {list(ESTIMATORS)}, got {name!r}")
    given = {"threshold": threshold, "calibrate": calibrate}
    made: ScoreEstimator = ESTIMATORS[name](
        **{option: value for option, value in given.items() if option in _options(name)}
    )
    return made


def _options(name: str) -> set[str]:
    return set(inspect.signature(ESTIMATORS[name]).parameters)
