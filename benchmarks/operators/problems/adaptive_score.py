"""Microbenchmark of adaptive_score: python benchmarks/adaptive_score.py --help."""

import sys
from pathlib import Path

if __package__ in (None, ""):  # run as a script
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import adaptive_baselines as baselines
from benchmarks import command
from benchmarks.harness import Benchmark, Problem, Samples
from mige_ext import ops

SIZES = {  # groups, M, d
    "cpu": ((1, 256, 64), (1, 512, 64), (1, 1024, 64), (128, 64, 64)),
    "cuda": ((1, 256, 64), (1, 1024, 64), (128, 64, 64)),
}
TRIED = 4  # values of λ: 3 to 5, which depends on the samples


def problem(samples: Samples, groups: int, m: int, d: int) -> Problem:
    r = min(m, d)
    each = m**3 + 10 * m * m * r
    return Problem(
        arguments={"x": samples(groups, m, d)},
        # For each λ, M³ for the inverse and 10 M²r for products; once, 1.5 M²r for the distances,
        # 2 M²r for H, 4 Mdr + 9 r³ for the whitening, and 2 Mdr for the scores.
        flop=groups * (TRIED * each + 3.5 * m * m * r + 6 * m * d * r + 9 * r**3),
        values=groups * (2 * m * d + 5),  # x read; scores and five numbers written
    )


BENCHMARK = Benchmark(
    "adaptive_score",
    ("groups", "M", "d"),
    SIZES,
    problem,
    ops.adaptive_score,
    (baselines.adaptive_score, baselines.adaptive_score_pdist),
)

if __name__ == "__main__":
    command.main(["adaptive_score", *sys.argv[1:]])
