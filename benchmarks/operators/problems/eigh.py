"""Sizes and work of the microbenchmark of eigh."""

from benchmarks.operators import baselines, cusolver
from benchmarks.operators.harness import Benchmark, Problem, Samples
from mige_ext import ops

SIZES = {  # batch, n
    "cpu": ((128, 32), (128, 64), (16, 128), (1, 256), (1, 1024)),
    "cuda": ((500, 100), (1024, 32), (128, 64), (128, 128), (16, 256), (1, 1024)),
}


def problem(samples: Samples, batch: int, n: int) -> Problem:
    x = samples(batch, n, 64)  # the operator is meant for RBF Gram matrices
    return Problem(
        arguments={"k": baselines.rbf_gram(x, samples.bandwidth(x))},
        # 9 n³ is the work of divide and conquer. It counts for every algorithm, so that a ratio of
        # GFLOP/s is a ratio of times.
        flop=batch * 9 * n**3,
        values=batch * (2 * n * n + n),  # K read, U and λ written
    )


BENCHMARK = Benchmark(
    "eigh",
    SIZES,
    problem,
    ops.eigh,
    (baselines.eigh,),
    cusolver.batched_eigh,
    decomposes=True,
    fields=("batch", "n"),
)
