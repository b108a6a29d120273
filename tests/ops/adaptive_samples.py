"""Samples for the tests of the adaptive score and of its parts."""

import pytest
import torch
from torch import Tensor

from tests.support.inputs import normal

# Sizes below, at and above those of tiles, vectors and pivot blocks. Some have more dimensions than
# samples.
SIZES = [
    (2, 1),
    (2, 3),
    (3, 2),
    (5, 2),
    (31, 3),
    (33, 5),
    (64, 16),
    (65, 64),
    (64, 130),
    (130, 17),
]
LARGE = (200, 3)  # takes the emulator many seconds
for_each_size = pytest.mark.parametrize(
    ("m", "d"), [*SIZES, pytest.param(*LARGE, marks=pytest.mark.thorough)]
)


def samples(kind: str, m: int, d: int) -> Tensor:
    """Samples of kinds that get different λ or bases, with unequal columns and an offset."""
    x = normal(m, d)
    if kind == "two modes":
        x = 1.5 * x.sign() + 0.3 * normal(m, d, seed=1)
    if kind == "heavy tails":
        x = x * (0.1 + 4 * normal(m, 1, seed=2).abs())
    if kind == "peak":  # samples nearly coincide, so the kernel matrix is nearly singular
        x = x**3
    x[:, d // 2 :] += x[:, : d - d // 2] / 2
    return x * torch.logspace(-1, 1, d, dtype=x.dtype) + 3


KINDS = ["normal", "two modes", "heavy tails", "peak"]
