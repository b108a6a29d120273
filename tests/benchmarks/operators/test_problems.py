"""The problems of the microbenchmarks: every operator has one, and its work is correct."""

import pytest
import torch

from benchmarks.operators import problems, run
from benchmarks.operators.harness import Samples
from mige_ext import ops, reference
from tests.support.backends import OPERATORS


def test_every_operator_has_a_benchmark() -> None:
    assert run.OPERATORS == OPERATORS
    for name in OPERATORS:
        benchmark = problems.load(name)
        assert benchmark.name == name
        assert benchmark.operator is getattr(ops, name)
        for device in ("cpu", "cuda"):
            sizes = benchmark.sizes[device]
            assert len(set(sizes)) == len(sizes) > 0
            assert {len(size) for size in sizes} == {len(benchmark.fields)}


def test_the_sizes_that_are_targets_on_cuda_are_measured() -> None:
    eigh = {(500, 100), (1024, 32), (128, 64), (128, 128), (16, 256), (1, 1024)}
    assert eigh <= set(problems.load("eigh").sizes["cuda"])
    assert {(1, 4096, 64), (1, 4096, 1024)} <= set(problems.load("rbf_gram").sizes["cuda"])
    assert {(1, 256, 64), (128, 64, 64), (1, 1024, 64)} <= set(problems.load("ssge").sizes["cuda"])


@pytest.mark.parametrize(
    ("name", "size", "flop", "values"),
    [
        # 16 pairs, half of them, 3 flop for each of 3 coordinates; 12 read, 16 written; 2 groups
        ("squared_distances", (2, 4, 3), 2 * 8 * 9, 2 * (12 + 16)),
        ("distance_quantile", (2, 4, 3), 2 * 8 * 9, 2 * (12 + 1)),
        ("rbf_gram", (2, 4, 3), 2 * 8 * 9, 2 * (12 + 1 + 16)),
        # the distances as above, and 2 flop for 16 pairs and 3 coordinates; 12 and σ read, 12
        # written
        ("rbf_gradient_sum", (2, 4, 3), 2 * (8 * 9 + 2 * 16 * 3), 2 * (12 + 1 + 12)),
        # 10 pairs, 3 flop for each of 3 coordinates and 2 for each of 7 columns
        ("rbf_product", (2, 5, 2, 3, 7), 2 * 10 * (9 + 14), 2 * (15 + 6 + 14 + 1 + 35)),
        ("eigh", (2, 10), 2 * 9000, 2 * (100 + 100 + 10)),
        # 2 flop for 10 samples and 3² entries, twice; 9 + 2 flop for each of 3³
        ("ridge_whitening", (2, 10, 3), 2 * (4 * 90 + 11 * 27), 2 * (30 + 3 + 9 + 1)),
        # four steps: 4 flop for 10 samples and 3² entries, and 3³; once: 6 instead of 4, and 9 for
        # each of 3³. Results: the departure, two numbers for each sample, and ν
        (
            "student_score",
            (2, 10, 3),
            2 * (4 * (4 * 90 + 27) + 6 * 90 + 9 * 27),
            2 * (60 + 20 + 1),
        ),
        # four λ; for each of 3 coordinates, 1.5 + 2 flop for 10² pairs; 6 flop for 10 samples and
        # 3² entries; 9 flop for each of 3³
        (
            "adaptive_score",
            (2, 10, 3),
            2 * (4 * (1000 + 10 * 300) + 3.5 * 300 + 6 * 90 + 9 * 27),
            2 * (90 + 10 + 6),
        ),
        # the sum of both: 4 more for 10² pairs and each λ, 2 more for the departure
        (
            "adaptive_student_score",
            (2, 10, 3),
            2 * (4 * (1000 + 14 * 300) + 4 * (4 * 90 + 27) + 3.5 * 300 + 8 * 90 + 9 * 27),
            2 * (90 + 20 + 7),
        ),
    ],
)
def test_work_is_counted_as_by_hand(
    name: str, size: tuple[int, ...], flop: float, values: float
) -> None:
    problem = problems.load(name).problem(Samples("cpu", torch.float64), *size)
    assert problem.flop == flop
    assert problem.values == values


def test_work_of_the_score_depends_on_its_rank() -> None:
    problem = problems.load("ssge").problem(Samples("cpu", torch.float64), 2, 10, 3)
    ranks = reference.ssge(problem.arguments["x"])[3]
    expected = 2 * (3.5 * 100 * 3 + 9 * 1000) + sum(4 * 10 * 3 * int(j) for j in ranks)
    assert 0 < ranks.min() <= ranks.max() <= 10
    assert problem.flop == expected
    assert problem.values == 2 * (30 + 30 + 10 + 1 + 1)
