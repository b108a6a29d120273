"""Sizes and work of the microbenchmark of rbf_gradient_sum."""

from benchmarks.operators import baselines
from benchmarks.operators.harness import Benchmark, Problem, Samples
from mige_ext import ops, reference

SIZES = {  # groups, M, d
    "cpu": ((1, 256, 64), (1, 1024, 64), (1, 1024, 256), (128, 64, 64)),
    "cuda": ((1, 1024, 64), (1, 4096, 64), (1, 4096, 1024), (128, 64, 64)),
}


def problem(samples: Samples, groups: int, m: int, d: int) -> Problem:
    x = samples(groups, m, d)
    return Problem(
        arguments={"x": x, "bandwidth": samples.bandwidth(x)},
        # 1.5 M²d for K by symmetry, 2 M²d for the product K X.
        flop=groups * 3.5 * m * m * d,
        values=groups * (2 * m * d + 1),  # x and σ read, H written
        published=(reference.rbf_gradient_sum, groups * m * m * d),
    )


BENCHMARK = Benchmark(
    "rbf_gradient_sum",
    SIZES,
    problem,
    ops.rbf_gradient_sum,
    (baselines.rbf_gradient_sum,),
)
