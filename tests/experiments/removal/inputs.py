"""Inputs of the tests of information removal."""

import torch
from torch import Tensor

from mige_ext.experiments.removal.nuisances import Batch, Images, Structural


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers in float32, the dtype of the experiments."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def draw(problem: Images | Structural, count: int, seed: int = 0) -> Batch:
    """A batch of random training rows."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(problem.count("train"), (count,), generator=generator)
    return problem.draw("train", rows, generator)
