"""``python -m benchmarks`` as a user calls it."""

import subprocess
import sys

from tests.support.process import ROOT, environment


def test_help_lists_the_commands() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--help"],
        capture_output=True, text=True, cwd=ROOT, env=environment(),
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    for command in ("end-to-end", "operators", "accuracy", "scaling"):
        assert command in result.stdout
