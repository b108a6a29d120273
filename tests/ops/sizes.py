"""Sizes of inputs, and a bandwidth that fits them, for the tests of every operator."""

import pytest
import torch
from torch import Tensor

# Numbers of samples, of other points and of dimensions, below, at and above the sizes of tiles and
# vectors.
SIZES = [
    (1, 1, 1),
    (2, 31, 3),
    (31, 2, 16),
    (33, 65, 17),
    (63, 64, 1),
    (65, 33, 300),
    (97, 130, 16),
    (130, 97, 17),
    (257, 63, 3),
]
for_each_size = pytest.mark.parametrize(("m", "n", "d"), SIZES)


def bandwidth(x: Tensor) -> Tensor:
    """A σ near the typical distance, which is not a round number."""
    return torch.full(x.shape[:-2], 0.77 * x.shape[-1] ** 0.5, dtype=x.dtype)
