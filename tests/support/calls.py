"""Calls of every operator on samples of one size, for checks that run without pytest."""

from typing import Any

import torch
from torch import Tensor

Call = tuple[str, tuple[Any, ...], dict[str, Any]]


def calls(m: int, n: int, d: int, dtype: torch.dtype) -> list[Call]:
    """Operators with CPU arguments: two groups of m samples and n points in d columns."""

    def made(*shape: int, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(shape, dtype=dtype, generator=generator)

    x, y, w = made(2, m, d, seed=1), made(2, n, d, seed=2), made(2, m, 7, seed=3)
    wide = made(2, d + 1, m, seed=5)  # d + 1 samples of m columns: more columns than samples
    sigma = 1 + made(2, seed=4).abs()
    k = torch.exp(-torch.cdist(x, x).square() / 2)
    return [
        ("squared_distances", (x,), {}),
        ("squared_distances", (x, y), {}),
        ("distance_quantile", (x, 0.3), {}),
        ("rbf_gram", (x,), {"bandwidth": sigma}),
        ("rbf_gram", (x, y), {"bandwidth": sigma}),
        ("rbf_gradient_sum", (x,), {"bandwidth": sigma}),
        ("rbf_product", (y, x, w), {"bandwidth": sigma}),
        ("eigh", (k,), {}),
        ("eigh", (k - 0.5,), {}),  # indefinite
        ("ssge", (x,), {}),
        ("ssge", (x, sigma), {"rank": 2, "power": 2}),
        ("ridge_whitening", (x,), {}),
        ("student_score", (x**3,), {}),
        ("student_score", (wide**3,), {}),
        ("adaptive_score", (x**3,), {}),  # several steps of the search over λ
        ("adaptive_score", (wide,), {}),
        ("adaptive_student_score", (x**3,), {}),
    ]
