"""Sizes and work of the microbenchmark of rbf_gram."""

from benchmarks.operators import baselines
from benchmarks.operators.harness import Benchmark, Problem, Samples
from benchmarks.operators.problems import PAIRWISE_SIZES
from mige_ext import ops, reference


def problem(samples: Samples, groups: int, m: int, d: int) -> Problem:
    x = samples(groups, m, d)
    return Problem(
        arguments={"x": x, "bandwidth": samples.bandwidth(x)},
        # A difference, a product and a sum for each coordinate of half of the pairs. On CUDA each
        # difference is also scaled against overflow, which does not count.
        flop=groups * 1.5 * m * m * d,
        values=groups * (m * d + m * m + 1),  # x and σ read, K written
        published=(reference.rbf_gram, groups * m * m * d),  # the array of all differences
    )


BENCHMARK = Benchmark(
    "rbf_gram",
    PAIRWISE_SIZES,
    problem,
    ops.rbf_gram,
    (baselines.rbf_gram, baselines.rbf_gram_cdist),
)
