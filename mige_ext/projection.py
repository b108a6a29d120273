"""Random projection, which keeps distances and makes scores affordable in high dimension."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mige_ext import _checks
from mige_ext._precision import at_least_float32, no_autocast
from mige_ext._torch_compat import constant_when_compiled, is_transforming

_KEPT = 16
_matrices: "dict[tuple[RandomProjection, int, torch.dtype, torch.device], Tensor]" = {}


@dataclass(frozen=True)
class RandomProjection:
    """Linear map ``x → R x`` to k dimensions, with R of shape (k, d) Gaussian and normalised.

    The paper's equations 18 and 19 do not fit together: unit-length columns keep squared norms in
    expectation as they are, and the factor √(d/k) is what unit-length rows need. Both are offered,
    each right: ``E‖R x‖² = ‖x‖²`` either way.

    Linear, so that gradients reach x through it. R depends on d and the seed alone; it is drawn at
    the first use and kept.

        >>> import torch, mige_ext as mige
        >>> mige.RandomProjection(k=16)(torch.randn(32, 3072)).shape
        torch.Size([32, 16])

    Args:
        k: dimensions to project to.
        normalize: "columns", unit-length columns; "rows", unit-length rows times √(d/k).
        seed: of R.
    """

    k: int
    normalize: Literal["columns", "rows"] = "columns"
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks the arguments."""
        _checks.require_count("k", self.k)
        _checks.require_seed(self.seed)
        if self.normalize not in ("columns", "rows"):
            raise ValueError(f'normalize must be "columns" or "rows", got {self.normalize!r}')

    def matrix(
        self, d: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> Tensor:
        """R, (k, d): the same numbers on every device, rounded to the dtype."""
        _checks.require_count("d", d)
        if not dtype.is_floating_point:
            raise ValueError(f"dtype must be a floating-point dtype, got {dtype}")
        return _drawn(self.k, d, self.normalize, self.seed, dtype, device)

    def _matrix_for(self, x: Tensor) -> Tensor:
        d, dtype, device = x.shape[-1], x.dtype, x.device
        if torch.compiler.is_compiling():  # whose graph keeps it
            return _drawn(self.k, d, self.normalize, self.seed, dtype, device)
        if type(x) is not Tensor or torch.is_inference_mode_enabled() or is_transforming():
            # What is made of these is good for this call only: nothing to keep, or to reuse.
            return self.matrix(d, dtype, device)
        key = (self, d, dtype, device)
        r = _matrices.get(key)
        if r is None:
            r = self.matrix(d, dtype, device)
            if len(_matrices) >= _KEPT:
                # Not those of a GPU: a captured CUDA graph reads R where it lies, unowned.
                for old in [key for key, kept in _matrices.items() if kept.device.type == "cpu"]:
                    del _matrices[old]
            _matrices[key] = r
        return r

    def __call__(self, x: Tensor) -> Tensor:
        """Projects samples: (..., M, d) -> (..., M, k), in float32 at least, under autocast too.

        Raises:
            ValueError, TypeError: x is not such a tensor.

        Cost:
            2Mdk flop; R takes kd values.
        """
        _checks.require_samples("x", x, 0)
        if _checks.looking_is_free(x):
            _checks.require_finite(x=x)
        x = at_least_float32(x)
        with no_autocast(x):
            return x @ self._matrix_for(x).mT


@constant_when_compiled  # because NumPy's generator cannot be traced
def _drawn(
    k: int, d: int, normalize: str, seed: int, dtype: torch.dtype, device: torch.device | str
) -> Tensor:
    numbers = torch.from_numpy(_numbers(k, d, normalize, seed))
    return numbers.to(device=device, dtype=dtype, copy=True)


@lru_cache(maxsize=16)
def _numbers(k: int, d: int, normalize: str, seed: int) -> NDArray[np.float64]:
    r = np.random.default_rng(seed).standard_normal((k, d))
    if normalize == "columns":
        return r / np.linalg.norm(r, axis=0, keepdims=True)
    return math.sqrt(d / k) * r / np.linalg.norm(r, axis=1, keepdims=True)
