"""An estimate of the information of one group, with its terms."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Candidate:
    """An estimate of I in nats, as the mean of one term for each sample."""

    method: str  #: the name in :attr:`.InformationValue.methods`
    value: Tensor  #: the estimate, ()
    #: estimates of ``log p(x, z) − log(p(x) p(z))`` at the samples, (M,), up to a constant
    terms: Tensor

    @property
    def standard_error(self) -> Tensor:
        """Standard error of the mean of the terms, ()."""
        return standard_error(self.terms)


def standard_error(terms: Tensor) -> Tensor:
    """Standard error of a mean of M terms."""
    return terms.std() / terms.shape[0] ** 0.5


def exceeds(value: Tensor, terms: Tensor, errors: float = 2.0) -> bool:
    """Whether a difference of two estimates is larger than ``errors`` times its standard error."""
    return bool(value > errors * standard_error(terms)) and bool(torch.isfinite(value))
