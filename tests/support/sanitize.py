"""Runs every operator on CUDA, on sizes near the sizes of tiles, for compute-sanitizer.

    PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool memcheck \\
        python tests/support/sanitize.py [M ...]

The numbers M select some of the ``SIZES``. Without torch's cache every tensor is a separate
allocation, and the sanitizer detects an access outside a tensor. The inputs are made on the CPU, so
that the sanitizer sees only kernels of mige_ext.
"""

import sys
from pathlib import Path

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
SIZES = [(2, 3, 1), (33, 17, 5), (65, 130, 17), (97, 64, 40), (150, 3, 5), (257, 3, 5)]


def main() -> None:
    """Runs the operators; the sanitizer reports errors."""
    sys.path.insert(0, str(ROOT))
    from mige_ext import ops
    from tests.support.calls import calls

    chosen = {int(m) for m in sys.argv[1:]}

    def moved(value: object) -> object:
        return value.cuda() if isinstance(value, Tensor) else value

    count = 0
    for dtype in (torch.float32, torch.float64):
        for m, n, d in SIZES:
            if chosen and m not in chosen:
                continue
            for name, args, kwargs in calls(m, n, d, dtype):
                on_gpu = {key: moved(value) for key, value in kwargs.items()}
                getattr(ops, name)(*map(moved, args), **on_gpu)
                count += 1
    torch.cuda.synchronize()
    print(f"{count} calls ran on {torch.cuda.get_device_name()}")


if __name__ == "__main__":
    main()
