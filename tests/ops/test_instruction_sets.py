"""The CPU kernels with the instructions of older processors."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mige_ext import _C
from tests.support.process import ROOT, environment

KERNEL_TESTS = [
    Path(__file__).with_name(f"test_{name}.py")
    for name in ("squared_distances", "distance_quantile", "rbf_gram", "rbf_gradient_sum",
                 "rbf_product", "eigh")
]  # fmt: skip


@pytest.mark.thorough
@pytest.mark.skipif("MIGE_CPU_LEVEL" in os.environ, reason="already one instruction set's run")
@pytest.mark.parametrize("level", [level for level in (1, 3) if level < _C.cpu_level])
def test_kernels_for_older_processors_pass_the_same_tests(level: int) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "pytest", *map(str, KERNEL_TESTS), "-q", "-x",
         "-p", "no:cacheprovider",
         "-k", "reference or diagonal or cancel or last_place or every_rank"],
        capture_output=True, text=True, cwd=ROOT, env=environment(MIGE_CPU_LEVEL=str(level)),
    )  # fmt: skip
    assert result.returncode == 0, result.stdout[-3000:]
