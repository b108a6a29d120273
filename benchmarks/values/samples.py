"""Write samples of the 40 tasks of the package benchmark-mi to a file.

    python benchmarks/values/samples.py SAMPLES.npz --seeds 2 --samples 256 --samples 1000

The package needs old versions of jax and NumPy. This script therefore needs neither torch nor
mige_ext, and runs in a separate environment:

    pip install benchmark-mi==0.1.3 jax==0.4.31 jaxlib==0.4.31 'chex<0.1.88' 'optax<0.2.4' \
      'jaxtyping<0.2.35' 'numpy<2' 'scipy<1.13'

Czyż et al., "Beyond normal: on the evaluation of mutual information estimators" (NeurIPS 2023).
"""

import argparse
from collections.abc import Sequence

import numpy as np

#: The first seed. Smaller seeds were used in the development of the estimator.
FIRST = 102


def key(name: str, n: int, seed: int, variable: str) -> str:
    """Name of an array in the file."""
    return f"{name}|{n}|{seed}|{variable}"


def draw(sizes: Sequence[int], seeds: int) -> dict[str, np.ndarray]:
    """Arrays by name: samples of x and z (:func:`key`), and ``task|truth``, I in nats."""
    from bmi.benchmark import BENCHMARK_TASKS

    arrays = {}
    for name, task in BENCHMARK_TASKS.items():
        arrays[f"{name}|truth"] = np.array(task.mutual_information)
        for n in sizes:
            for seed in range(seeds):
                for variable, values in zip("xz", task.sample(n, seed=FIRST + seed), strict=True):
                    arrays[key(name, n, seed, variable)] = np.asarray(values, np.float64)
    return arrays


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("file")
    parser.add_argument("--samples", type=int, action="append")
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    arrays = draw(options.samples or [256, 1000, 4000], options.seeds)
    np.savez_compressed(options.file, allow_pickle=False, **arrays)
