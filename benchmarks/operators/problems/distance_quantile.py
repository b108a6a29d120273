"""Sizes and work of the microbenchmark of distance_quantile."""

from benchmarks.operators import baselines
from benchmarks.operators.harness import Benchmark, Problem, Samples
from benchmarks.operators.problems import PAIRWISE_SIZES
from mige_ext import ops


def problem(samples: Samples, groups: int, m: int, d: int) -> Problem:
    return Problem(
        arguments={"x": samples(groups, m, d)},
        # Only the distances count. The selection reads M²/2 distances twice, without arithmetic.
        flop=groups * 1.5 * m * m * d,
        values=groups * (m * d + 1),  # x read, one distance written
    )


BENCHMARK = Benchmark(
    "distance_quantile",
    PAIRWISE_SIZES,
    problem,
    ops.distance_quantile,
    (baselines.distance_quantile, baselines.distance_quantile_pdist),
)
