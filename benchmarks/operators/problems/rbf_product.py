"""Sizes and work of the microbenchmark of rbf_product."""

from benchmarks.operators import baselines
from benchmarks.operators.harness import Benchmark, Problem, Samples
from mige_ext import ops

SIZES = {  # groups, Q, M, d, p
    "cpu": ((1, 256, 256, 64, 64), (1, 4096, 256, 64, 64), (1, 4096, 1024, 64, 64)),
    "cuda": ((1, 4096, 1024, 64, 64), (1, 65536, 1024, 64, 64), (128, 64, 64, 64, 64)),
}


def problem(samples: Samples, groups: int, q: int, m: int, d: int, p: int) -> Problem:
    x = samples(groups, m, d)
    return Problem(
        arguments={
            "q": samples(groups, q, d),
            "x": x,
            "w": samples(groups, m, p),
            "bandwidth": samples.bandwidth(x),
        },
        # Each pair takes 3d for the distance and 2p for the product.
        flop=groups * q * m * (3 * d + 2 * p),
        # four arguments read, k(q, X) W written
        values=groups * (q * d + m * d + m * p + 1 + q * p),
    )


BENCHMARK = Benchmark(
    "rbf_product",
    SIZES,
    problem,
    ops.rbf_product,
    (baselines.rbf_product,),
    fields=("groups", "Q", "M", "d", "p"),
)
