"""The eigensolver of the eager baselines: ``torch.linalg.eigh``, or a library's batched routine.

torch 2.11 decomposes one CUDA matrix after another if n > 32, and newer versions call cuSOLVER's
batched routine, which is faster. Eager baselines are therefore timed with both.
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
    """The function, with ``solver`` instead of :func:`eigh`."""

    def call(*args: object, **kwargs: object) -> object:
        global _solver
        before, _solver = _solver, solver
        try:
            return function(*args, **kwargs)
        finally:
            _solver = before

    return call
