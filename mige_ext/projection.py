"""Random projection to fewer dimensions, which preserves distances and makes scores cheaper."""

import math
import threading
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mige_ext import _checks
from mige_ext._checks import require_choice, setting
from mige_ext._precision import at_least_float32, no_autocast
from mige_ext._torch_compat import constant_when_compiled, is_transforming

_KEPT = 16
_lock = threading.Lock()  # for changes of _matrices
_matrices: "dict[tuple[RandomProjection, int, torch.dtype, torch.device], Tensor]" = {}


@dataclass(frozen=True)
class RandomProjection:
    """Linear map ``x → R x`` to k dimensions, with a normalized Gaussian matrix R of shape (k, d).

    Both normalizations of R satisfy ``E‖R x‖² = ‖x‖²``. (Equations 18 and 19 of the MIGE paper mix
    them.) The map is differentiable with respect to x. R depends only on the arguments and on d,
    and is kept for later calls.

        >>> import torch, mige_ext as mige
        >>> mige.RandomProjection(k=16)(torch.randn(32, 3072)).shape
        torch.Size([32, 16])

    Args:
        k: number of dimensions after the projection.
        normalize: "columns" of unit length, or "rows" of unit length times √(d/k).
        seed: the seed of R.

    Raises:
        ValueError: an argument is not as described.
    """

    k: int
    normalize: Literal["columns", "rows"] = setting("columns", require_choice, "columns", "rows")
    seed: int = setting(0, _checks.require_seed)

    def __post_init__(self) -> None:
        """Check the settings."""
        _checks.require_count("k", self.k)
        _checks.require_settings(self)

    def matrix(
        self, d: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> Tensor:
        """R, (k, d), of this dtype, with the same numbers on every device."""
        _checks.require_count("d", d)
        if not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
            raise ValueError(f"dtype must be a floating-point dtype, got {dtype!r}")
        return _drawn(self.k, d, self.normalize, self.seed, dtype, device)

    def _matrix_for(self, x: Tensor) -> Tensor:
        key = self, x.shape[-1], x.dtype, x.device
        if (
            torch.compiler.is_compiling()  # the compiled graph keeps R as a constant
            # In the next three cases, other calls could not use this R.
            or is_transforming()
            or torch.is_inference_mode_enabled()
            or type(x) not in (Tensor, torch.nn.Parameter)
        ):
            return self.matrix(*key[1:])
        r = _matrices.get(key)
        if r is None:
            r = self.matrix(*key[1:])
            with _lock:
                # Matrices on a GPU are kept, because a CUDA graph reads R at its address.
                on_cpu = [old for old, kept in _matrices.items() if kept.device.type == "cpu"]
                if len(on_cpu) >= _KEPT:
                    del _matrices[on_cpu[0]]  # the oldest
                r = _matrices.setdefault(key, r)
        return r

    def __call__(self, x: Tensor) -> Tensor:
        """Project samples, (..., M, d) -> (..., M, k), in float32 or float64, also under autocast.

        Raises:
            ValueError, TypeError: x does not have this shape, or is not finite.

        Cost:
            2Mdk flop, and the memory of kd values for R.
        """
        _checks.require_samples("x", x, 0)
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
