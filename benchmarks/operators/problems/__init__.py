"""The measured problems, with one file for each operator: sizes, counted work, baselines."""

import importlib

from benchmarks.operators.harness import Benchmark, Size

#: Sizes (groups, M, d) of the operators on all pairs of samples, for each device.
PAIRWISE_SIZES: dict[str, tuple[Size, ...]] = {
    "cpu": ((1, 256, 64), (1, 1024, 64), (1, 1024, 1024), (128, 64, 64)),
    "cuda": ((1, 1024, 64), (1, 4096, 64), (1, 4096, 1024), (128, 64, 64)),
}


def load(operator: str) -> Benchmark:
    """The benchmark in the file with the operator's name."""
    module = importlib.import_module(f"benchmarks.operators.problems.{operator}")
    benchmark: Benchmark = module.BENCHMARK
    return benchmark
