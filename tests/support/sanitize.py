"""Runs every operator on CUDA, on sizes near the sizes of tiles, for compute-sanitizer.

    PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool memcheck \\
        python tests/support/sanitize.py

Without torch's cache every tensor is a separate allocation. The sanitizer then detects an access
outside a tensor.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
SIZES = [(2, 3, 1), (33, 17, 5), (65, 130, 17), (97, 64, 40), (150, 3, 5), (257, 3, 5)]


def main() -> None:
    """Runs the operators; the sanitizer reports errors."""
    sys.path.insert(0, str(ROOT))
    from mige_ext import ops

    count = 0
    for dtype in (torch.float32, torch.float64):
        for m, n, d in SIZES:

            def made(*shape: int, seed: int, dtype: torch.dtype = dtype) -> Tensor:
                generator = torch.Generator().manual_seed(seed)
                return torch.randn(shape, dtype=dtype, generator=generator).cuda()

            x, y, w = made(2, m, d, seed=1), made(2, n, d, seed=2), made(2, m, 7, seed=3)
            sigma = 1 + made(2, seed=4).abs()
            on_cpu = x.cpu()  # The sanitizer should not see the kernels of a library.
            k = torch.exp(-torch.cdist(on_cpu, on_cpu).square() / 2).cuda()
            calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
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
                ("student_score", (made(2, d + 1, m, seed=5) ** 3,), {}),  # d > M
                ("adaptive_score", (x**3,), {}),  # several steps of the search over λ
                ("adaptive_score", (made(2, d + 1, m, seed=5),), {}),  # d > M
            ]
            for name, args, kwargs in calls:
                getattr(ops, name)(*args, **kwargs)
                count += 1
    torch.cuda.synchronize()
    print(f"{count} calls ran on {torch.cuda.get_device_name()}")


if __name__ == "__main__":
    main()
