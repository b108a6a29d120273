"""The risk of a candidate score, which is the mean of one value r for each sample, (M,)."""

import math

from torch import Tensor


def mean_and_error(r: Tensor) -> tuple[Tensor, Tensor]:
    """The risk and its standard error."""
    return r.mean(), r.std() / math.sqrt(len(r))


def bound_of(r: Tensor) -> float:
    """The risk plus its standard error. The candidate with the least bound is chosen."""
    risk, error = mean_and_error(r)
    return float(risk + error)
