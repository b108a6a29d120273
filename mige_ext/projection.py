"""Random projection, which keeps distances and makes scores affordable in high dimension."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from mige_ext import _checks


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
        if not isinstance(self.k, int) or self.k < 1:
            raise ValueError(f"k must be a positive integer, got {self.k!r}")
        if self.normalize not in ("columns", "rows"):
            raise ValueError(f'normalize must be "columns" or "rows", got {self.normalize!r}')

    def matrix(
        self, d: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> Tensor:
        """R, (k, d): the same numbers on every device, rounded to the dtype."""
        return _matrix(self.k, d, self.normalize, self.seed, dtype, torch.device(device))

    def __call__(self, x: Tensor) -> Tensor:
        """Projects samples: (..., M, d) -> (..., M, k), in float32 at least, under autocast too.

        Raises:
            ValueError, TypeError: x is not such a tensor.

        Cost:
            2Mdk flop; R takes kd values.
        """
        _checks.require_samples("x", x, 0)
        with torch.autocast(x.device.type, enabled=False):
            x = x if x.dtype == torch.float64 else x.float()
            return x @ self.matrix(x.shape[-1], x.dtype, x.device).mT


@lru_cache(maxsize=16)
def _matrix(
    k: int, d: int, normalize: str, seed: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    r = torch.randn(k, d, generator=generator, dtype=torch.float64)
    if normalize == "columns":
        r = r / r.norm(dim=0, keepdim=True)
    else:
        r = math.sqrt(d / k) * r / r.norm(dim=1, keepdim=True)
    return r.to(device=device, dtype=dtype)
