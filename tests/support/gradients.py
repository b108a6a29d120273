"""Leaf tensors, gradients and their comparison, for the tests of differentiable functions."""

import torch
from torch import Tensor

from tests.support.accuracy import rounding
from tests.support.inputs import normal


def leaf(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return normal(*shape, dtype=dtype, seed=seed).requires_grad_()


def gradient(value: Tensor, *inputs: Tensor) -> Tensor:
    """The gradients of the value with respect to the inputs, flattened and concatenated."""
    return torch.cat([g.flatten() for g in torch.autograd.grad(value, inputs)])


def close(a: Tensor, b: Tensor, terms: int = 1) -> bool:
    """Whether a and b are equal up to rounding in the coarser of their dtypes."""
    coarse = max(a.dtype, b.dtype, key=lambda dtype: torch.finfo(dtype).eps)
    error = (a.double() - b.double()).abs().max().item()
    return error <= rounding(coarse, terms) * b.double().abs().max().item()
