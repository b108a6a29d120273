"""Microbenchmark of ssge: python benchmarks/ssge.py --help."""

import sys
from pathlib import Path

if __package__ in (None, ""):  # run as a script
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import baselines, command
from benchmarks.harness import Benchmark, Problem, Samples
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
        # 1.5 M²d for K, 2 M²d for H, about 9 M³ for the eigendecomposition; U_Jᵀ H and U_J times
        # the result, 2 MJd each.
        flop=groups * (3.5 * m * m * d + 9 * m**3) + 4 * m * d * rank,
        values=groups * (2 * m * d + m + 2),  # x read; scores, λ, σ and J written
        published=baselines.published_each,
        published_values=m * m * d,  # group after group
    )


BENCHMARK = Benchmark(
    "ssge",
    ("groups", "M", "d"),
    SIZES,
    problem,
    ops.ssge,
    (baselines.eager, baselines.eager_pdist),
)

if __name__ == "__main__":
    command.main(["ssge", *sys.argv[1:]])
