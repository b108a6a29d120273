"""The problems that are measured, one file an operator: sizes, counted work, baselines."""

import importlib

from benchmarks.operators.harness import Benchmark


def load(operator: str) -> Benchmark:
    """The benchmark in the file that has the operator's name."""
    module = importlib.import_module(f"benchmarks.operators.problems.{operator}")
    benchmark: Benchmark = module.BENCHMARK
    return benchmark
