"""Sizes and work of the microbenchmark of student_score."""

from benchmarks.operators import adaptive_baselines as baselines
from benchmarks.operators.harness import Benchmark, Problem, Samples
from mige_ext import ops
from mige_ext.reference import STUDENT_STEPS

SIZES = {  # groups, M, d
    "cpu": ((1, 256, 64), (1, 1024, 64), (128, 64, 32)),
    "cuda": ((1, 256, 64), (1, 1024, 64), (128, 64, 32)),
}


def problem(samples: Samples, groups: int, m: int, d: int) -> Problem:
    r = min(m, d)
    x = samples(groups, m, d)
    return Problem(
        arguments={"x": x / (0.1 + x[..., :1].abs())},  # heavy tails
        # For each step: 2 Mr² for the scatter, r³ for its inverse, 2 Mr² for P u. Once:
        # 4 Mdr + 9 r³ for the whitening, 2 Mdr for the departure.
        flop=groups * (STUDENT_STEPS * (4 * m * r * r + r**3) + 6 * m * d * r + 9 * r**3),
        values=groups * (2 * m * d + 2 * m + 1),  # x read; departure and three results written
    )


BENCHMARK = Benchmark(
    "student_score",
    SIZES,
    problem,
    ops.student_score,
    (baselines.student_score,),
    decomposes=True,
)
