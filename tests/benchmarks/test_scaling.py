"""The scaling benchmark: fitted exponents, measurements, and the files that it writes."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from benchmarks.__main__ import app
from benchmarks.scaling import cost, landmarks
from benchmarks.scaling.cost import Work

ONE_SWEEP = [[Work("samples", 16, 3), Work("samples", 32, 3, m=8)]]


def run(*arguments: str) -> None:
    result = CliRunner().invoke(app, ["scaling", *arguments])
    assert result.exit_code == 0, result.output


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_the_exponent_is_that_of_a_power_law_at_large_sizes() -> None:
    sizes = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]
    values = [1 + 1e-3 * n**3 for n in sizes[:3]] + [n**3 for n in sizes[3:]]
    assert cost.exponent(sizes, values) == pytest.approx(3)


@pytest.mark.thorough
def test_cost_is_measured_in_a_process_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost, "sweeps", lambda quick: ONE_SWEEP)
    run("--only=cost", f"--out={tmp_path}", "--threads=1")
    table = rows(tmp_path / "scaling.csv")
    assert [(row["M"], row["m"]) for row in table] == [("16", "0"), ("32", "8")]
    assert all(float(row["seconds"]) > 0 and float(row["megabytes"]) >= 0 for row in table)
    assert (tmp_path / "scaling.png").stat().st_size > 1000


def test_a_sweep_ends_where_its_time_would_run_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost, "sweeps", lambda quick: [[Work("samples", n, 3) for n in (8, 80)]])
    monkeypatch.setattr(cost, "in_fresh_process", lambda *arguments: cost.Cost(1.0, 1.0))
    cost.cost(tmp_path, quick=True, seconds=999)  # 1 s and 1000 s
    assert [row["M"] for row in rows(tmp_path / "scaling.csv")] == ["8"]


def test_the_error_of_all_landmarks_is_that_of_all_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    normal = landmarks.DENSITIES["normal, d = 2"]
    monkeypatch.setattr(landmarks, "DENSITIES", {"normal": normal})
    monkeypatch.setattr(landmarks, "SAMPLES", {"quick": 64})
    run("--only=error", "--quick", f"--out={tmp_path}")
    last = [row for row in rows(tmp_path / "landmarks.csv") if row["m"] == "64"]
    assert len(last) == len(landmarks.METHODS)
    assert all(float(row["against full"]) < 1e-6 for row in last)
    assert (tmp_path / "landmarks.png").stat().st_size > 1000


@pytest.mark.parametrize("name", landmarks.DENSITIES)
def test_the_scores_of_the_densities_obey_steins_identity(name: str) -> None:
    # E s·z = −d; the mean of 20,000 may differ by four of its standard errors.
    z, score = landmarks.DENSITIES[name](20_000, torch.Generator().manual_seed(0))
    products = (z * score).sum(1).numpy()
    assert abs(products.mean() + z.shape[1]) < 4 * products.std() / np.sqrt(len(products))
