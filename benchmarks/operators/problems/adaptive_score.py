"""Sizes and work of the microbenchmark of adaptive_score."""

from benchmarks.operators import adaptive_baselines as baselines
from benchmarks.operators.harness import Benchmark, Problem, Samples
from mige_ext import ops

SIZES = {  # groups, M, d
    "cpu": ((1, 256, 64), (1, 512, 64), (1, 1024, 64), (128, 64, 64)),
    "cuda": ((1, 256, 64), (1, 1024, 64), (128, 64, 64)),
}
TRIED = 4  # number of λ that are tried; usually 3 to 5, depending on the samples


def problem(samples: Samples, groups: int, m: int, d: int) -> Problem:
    r = min(m, d)
    each = m**3 + 10 * m * m * r
    return Problem(
        arguments={"x": samples(groups, m, d)},
        # For each λ: M³ for the inverse and 10 M²r for products. Once: 1.5 M²r for the distances,
        # 2 M²r for H, 4 Mdr + 9 r³ for the whitening, 2 Mdr for the scores.
        flop=groups * (TRIED * each + 3.5 * m * m * r + 6 * m * d * r + 9 * r**3),
        values=groups * (3 * m * d + m + 6),  # x read; scores and the other results written
    )


BENCHMARK = Benchmark(
    "adaptive_score",
    SIZES,
    problem,
    ops.adaptive_score,
    (baselines.adaptive_score, baselines.adaptive_score_pdist),
    decomposes=True,
)
