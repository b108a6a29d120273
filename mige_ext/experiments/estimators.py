"""Score estimators by the names that the commands know them by."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import mige_ext as mige
from mige_ext.score import ScoreEstimator

ESTIMATORS: dict[str, Callable[..., Any]] = {
    "ssge": mige.SSGE,
    # As the information functions have it: QIS would bias the gradients of information.
    "adaptive": partial(mige.AdaptiveScore, gaussian="ridge"),
    "gaussian": mige.GaussianScore,
    "landweber": mige.Landweber,
    "nu-method": mige.NuMethod,
    "stein": mige.Stein,
    "tikhonov": mige.Tikhonov,
}


def has_option(name: str, option: str) -> bool:
    """Whether the estimator of this name has this option."""
    return name in ESTIMATORS and option in inspect.signature(ESTIMATORS[name]).parameters


def make_estimator(name: str, **options: Any) -> ScoreEstimator:
    """The estimator of this name, with those of the options that it has.

    Raises:
        ValueError: no estimator has this name, or an option is out of range.
    """
    if name not in ESTIMATORS:
        raise ValueError(f"estimator must be one of {list(ESTIMATORS)}, got {name!r}")
    made: ScoreEstimator = ESTIMATORS[name](
        **{option: value for option, value in options.items() if has_option(name, option)}
    )
    return made
