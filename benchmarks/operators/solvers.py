"""The eigensolver of the eager baselines: ``torch.linalg.eigh``, or a library's batched routine.

Up to version 2.11, torch decomposes one CUDA matrix after another if n > 32. cuSOLVER's batched
routine, which newer versions call, is faster. The benchmarks of operators that decompose a matrix
therefore time the eager baselines with both.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Solver = Callable[[Tensor], tuple[Tensor, Tensor]]

_solver: Solver | None = None


def eigh(k: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors by the current solver."""
    if _solver is not None:
        return _solver(k)
    values, vectors = torch.linalg.eigh(k)
    return values, vectors


def solved_by(solver: Solver, function: Callable[..., object]) -> Callable[..., object]:
    """The function, with :func:`eigh` computed by this solver while the function runs."""

    def call(*args: object, **kwargs: object) -> object:
        global _solver
        before, _solver = _solver, solver
        try:
            return function(*args, **kwargs)
        finally:
            _solver = before

    return call
