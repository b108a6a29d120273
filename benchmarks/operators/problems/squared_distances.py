"""Sizes and work of the microbenchmark of squared_distances."""

from benchmarks.operators import baselines
from benchmarks.operators.harness import Benchmark, Problem, Samples
from benchmarks.operators.problems import PAIRWISE_SIZES
from mige_ext import ops, reference


def problem(samples: Samples, groups: int, m: int, d: int) -> Problem:
    return Problem(
        arguments={"x": samples(groups, m, d)},
        # A difference, a product and a sum for each coordinate of half of the pairs.
        flop=groups * 1.5 * m * m * d,
        values=groups * (m * d + m * m),  # x read, the distances written
        published=(reference.squared_distances, groups * m * m * d),
    )


BENCHMARK = Benchmark(
    "squared_distances",
    PAIRWISE_SIZES,
    problem,
    ops.squared_distances,
    (baselines.squared_distances, baselines.squared_distances_cdist),
)
