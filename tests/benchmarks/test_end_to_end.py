"""The end-to-end benchmark: its bounds, its exit status and its memory in fresh processes."""

import pytest
from typer.testing import CliRunner

from benchmarks import end_to_end
from benchmarks.__main__ import app
from benchmarks.machine import in_fresh_process
from benchmarks.tables import Bounds


@pytest.mark.parametrize(("limit", "word", "status"), [(2.0, "ok", 0), (0.5, "MISSED", 1)])
def test_a_missed_bound_is_named_and_fails(
    monkeypatch: pytest.MonkeyPatch, limit: float, word: str, status: int
) -> None:
    def step(bounds: Bounds) -> None:
        bounds.at_most("some ratio", 1.0, limit)

    for name in ("parity", "toy_accuracy", "score_time", "default_time", "group_time",
                 "peak_memory"):  # fmt: skip
        monkeypatch.setattr(end_to_end, name, step)
    result = CliRunner().invoke(app, ["end-to-end"])
    assert result.exit_code == status
    assert sum(line.endswith(f"  {word}") for line in result.stdout.splitlines()) == 6
    assert ("missed: some ratio" in result.output) == (status == 1)


@pytest.mark.thorough
def test_the_memory_of_a_score_is_measured_in_a_fresh_process() -> None:
    # The score of M = 1024 needs the Gram matrix, 4 MB, at least.
    assert 4 < in_fresh_process(end_to_end.memory_of, "mige") <= 64
