"""Inputs for several tests."""

import pytest
import torch
from torch import Tensor

DTYPES = (torch.float32, torch.float64)

for_each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64"])


def normal(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    """Standard normal numbers, which are the same in every dtype up to rounding."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype)
