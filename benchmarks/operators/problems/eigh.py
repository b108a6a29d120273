"""Sizes and work of the microbenchmark of eigh."""

from benchmarks.operators import baselines, cusolver
from benchmarks.operators.harness import Benchmark, Problem, Samples
from mige_ext import ops

SIZES = {  # batch, n
    "cpu": ((128, 32), (128, 64), (16, 128), (1, 256), (1, 1024)),
    "cuda": ((500, 100), (1024, 32), (128, 64), (128, 128), (16, 256), (1, 1024)),
}


def problem(samples: Samples, batch: int, n: int) -> Problem:
    x = samples(batch, n, 64)  # RBF Gram matrices, which is what the operator is there for
    return Problem(
        arguments={"k": baselines.rbf_gram(x, samples.bandwidth(x))},
        # About 9 n³ by divide and conquer. Other algorithms do more, Jacobi some 8 n³ a sweep; they
        # count as 9 n³ too, so that GFLOP/s compare times.
        flop=batch * 9 * n**3,
        values=batch * (2 * n * n + n),  # K read, U and λ written
    )


BENCHMARK = Benchmark(
    "eigh",
    ("batch", "n"),
    SIZES,
    problem,
    ops.eigh,
    (baselines.eigh,),
    cusolver.batched_eigh,
)
