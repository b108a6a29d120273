"""Sizes and work of the microbenchmark of ssge."""

from benchmarks.operators import baselines
from benchmarks.operators.harness import Benchmark, Problem, Samples
from mige_ext import ops

SIZES = {  # groups, M, d
    "cpu": ((1, 256, 64), (1, 512, 64), (1, 1024, 64), (128, 64, 64)),
    "cuda": ((1, 256, 64), (1, 1024, 64), (128, 64, 64)),
}


def problem(samples: Samples, groups: int, m: int, d: int) -> Problem:
    x = samples(groups, m, d)
    rank = int(ops.ssge(x)[3].sum())  # Σ J over the groups, which depends on the samples
    return Problem(
        arguments={"x": x},
        # 1.5 M²d for K, 2 M²d for H, about 9 M³ for the eigendecomposition, 2 MJd for U_Jᵀ H and
        # 2 MJd for its product with U_J.
        flop=groups * (3.5 * m * m * d + 9 * m**3) + 4 * m * d * rank,
        values=groups * (2 * m * d + m + 2),  # x read; scores, eigenvalues of K, σ and J written
        published=(baselines.published_each, m * m * d),  # one group after another
    )


BENCHMARK = Benchmark(
    "ssge",
    SIZES,
    problem,
    ops.ssge,
    (baselines.eager, baselines.eager_pdist),
    decomposes=True,
)
