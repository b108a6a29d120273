"""Records of microbenchmarks: their files, their names and their comparison."""

from pathlib import Path

import pytest

from benchmarks.operators import records
from tests.benchmarks.operators.inputs import record
from tests.support.process import ROOT


def test_records_survive_a_file(tmp_path: Path) -> None:
    path = tmp_path / "made" / "results.csv"
    first = record(x_library=2.25, library="a, b")
    assert records.merge(path, [first]) == [first]
    assert records.read(path) == [first]
    # A record with the same key replaces the first one, even if its time and its version of torch
    # differ. A record with another machine, number of threads, size or dtype has another key.
    others = [record(machine="B"), record(threads="1"), record(size="M=1"), record(dtype="float64")]
    faster = record(ms=1.0, torch="2.14.1")
    assert records.merge(path, [faster, *others]) == [faster, *others]
    assert records.read(path) == [faster, *others]


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"end_to_end.csv must be a file of microbenchmarks, got"):
        records.read(ROOT / "benchmarks" / "results" / "end_to_end.csv")


def test_files_are_named_after_the_machine() -> None:
    assert records.slug(record()) == "a-r-chip-2-threads"
    assert records.slug(record(threads="1")) == "a-r-chip-1-thread"
    gpu = record(machine="NVIDIA H100 80GB HBM3", device="cuda", threads="-")
    assert records.slug(gpu) == "nvidia-h100-80gb-hbm3-cuda"


def test_slower_means_by_more_than_the_tolerance() -> None:
    stored = [record(ms=2.0)]
    for ms, tolerance, slower in ((2.49, 25, False), (2.51, 25, True), (2.51, 30, False)):
        [pair] = records.compare([record(ms=ms)], stored, tolerance)
        assert pair.ratio == pytest.approx(ms / 2)
        assert pair.slower == slower
    assert records.compare([record(machine="B")], stored, 25) == []
    assert records.compare([record(threads="1")], stored, 25) == []
