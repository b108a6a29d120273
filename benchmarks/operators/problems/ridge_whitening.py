"""Sizes and work of the microbenchmark of ridge_whitening."""

from benchmarks.operators import adaptive_baselines as baselines
from benchmarks.operators.harness import Benchmark, Problem, Samples
from mige_ext import ops

SIZES = {  # groups, M, d
    "cpu": ((1, 256, 64), (1, 1024, 64), (1, 1024, 256), (128, 64, 32)),
    "cuda": ((1, 256, 64), (1, 1024, 64), (1, 1024, 256), (128, 64, 32)),
}


def problem(samples: Samples, groups: int, m: int, d: int) -> Problem:
    return Problem(
        arguments={"x": samples(groups, m, d)},
        # 2 Md² for the correlations, 2 Md² for the samples in the basis of the eigenvectors, 9 d³
        # for the eigenvectors, 2 d³ for W.
        flop=groups * (4 * m * d * d + 11 * d**3),
        values=groups * (m * d + d + d * d + 1),  # x read; mean, W and τ written
    )


BENCHMARK = Benchmark(
    "ridge_whitening",
    SIZES,
    problem,
    ops.ridge_whitening,
    (baselines.ridge_whitening,),
    decomposes=True,
)
