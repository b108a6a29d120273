"""Inputs of the microbenchmarks' tests: tiny sizes, an imagined machine and its records."""

import dataclasses
from typing import Any

import pytest

from benchmarks.operators.records import Record
from benchmarks.operators.roofline import Ceilings
from tests.support.backends import OPERATORS

TINY = {
    "squared_distances": (2, 33, 5),
    "distance_quantile": (2, 33, 5),
    "rbf_gram": (2, 33, 5),
    "rbf_gradient_sum": (2, 33, 5),
    "rbf_product": (2, 7, 33, 5, 3),
    "eigh": (2, 33),
    "ssge": (2, 33, 5),
    "ridge_whitening": (2, 33, 5),
    "student_score": (2, 33, 5),
    "adaptive_score": (2, 33, 5),
    "adaptive_student_score": (2, 33, 5),
}
CEILINGS = Ceilings(gflops=100.0, gbs=10.0)

for_each_operator = pytest.mark.parametrize("name", OPERATORS)


def record(**changes: Any) -> Record:
    """A record of an imagined machine."""
    return dataclasses.replace(
        Record(
            machine="A (R) Chip", device="cpu", threads="2", torch="2.13.0", operator="rbf_gram",
            size="M=64 d=8", dtype="float32", ms=2.0, gflops=20.0, gbs=4.0, roofline_percent=50.0,
            x_published=None, x_eager=1.5, x_compiled=None, x_library=None, library="",
            peak_gflops=100.0, peak_gbs=10.0,
        ),
        **changes,
    )  # fmt: skip
