"""Sizes and work of the microbenchmark of adaptive_student_score."""

from benchmarks.operators import adaptive_baselines as baselines
from benchmarks.operators.harness import Benchmark, Problem, Samples
from mige_ext import ops
from mige_ext.reference import STUDENT_STEPS

SIZES = {  # groups, M, d
    "cpu": ((1, 256, 64), (1, 1024, 64), (128, 64, 64)),
    "cuda": ((1, 256, 64), (1, 1024, 64), (128, 64, 64)),
}
TRIED = 4  # number of λ that are tried; usually 3 to 5, depending on the samples


def problem(samples: Samples, groups: int, m: int, d: int) -> Problem:
    r = min(m, d)
    x = samples(groups, m, d)
    each = m**3 + 14 * m * m * r
    return Problem(
        arguments={"x": x / (0.1 + x[..., :1].abs())},  # heavy tails
        # For each λ: M³ for the inverse and 14 M²r for products. For each EM step: 4 Mr² and r³.
        # Once: 1.5 M²r for the distances, 2 M²r for H, 4 Mdr + 9 r³ for the whitening, 4 Mdr for
        # the scores and their departure.
        flop=groups
        * (
            TRIED * each
            + STUDENT_STEPS * (4 * m * r * r + r**3)
            + 3.5 * m * m * r
            + 8 * m * d * r
            + 9 * r**3
        ),
        values=groups * (3 * m * d + 2 * m + 7),  # x read; scores and the other results written
    )


BENCHMARK = Benchmark(
    "adaptive_student_score",
    SIZES,
    problem,
    ops.adaptive_student_score,
    (baselines.adaptive_student_score,),
    decomposes=True,
)
