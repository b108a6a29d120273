"""``python -m benchmarks operators``: tables, files, comparisons and refusals."""

import dataclasses
import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from benchmarks.__main__ import app
from benchmarks.operators import records, roofline, run
from tests.benchmarks.operators.inputs import CEILINGS, record
from tests.support.backends import OPERATORS


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["operators", *arguments])


def quick(*arguments: str, status: int = 0) -> Result:
    """Run the benchmark of rbf_gram with as few calls as possible."""
    result = call("rbf_gram", "--no-compile", "--seconds", "0", *arguments)
    assert result.exit_code == status, result.output
    return result


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the benchmark of rbf_gram tiny sizes, and ceilings that need no measurement."""
    module = importlib.import_module("benchmarks.operators.problems.rbf_gram")
    small = dataclasses.replace(module.BENCHMARK, sizes={"cpu": ((2, 33, 5), (1, 17, 3))})
    monkeypatch.setattr(module, "BENCHMARK", small)
    monkeypatch.setattr(roofline, "measure_ceilings", lambda device, dtype: CEILINGS)


@pytest.mark.usefixtures("tiny")
def test_a_table_has_a_row_for_each_size() -> None:
    out = quick().stdout
    assert "rbf_gram\n" in out
    assert "groups=2 M=33 d=5" in out and "M=17 d=3" in out
    assert "torch.compile was left out" in out
    lines = quick("--markdown").stdout.splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 4
    assert len({line.count("|") for line in table}) == 1
    assert table[0].startswith("| size | ms | GFLOP/s | GB/s | % of roofline | × published |")
    assert table[3].startswith("| M=17 d=3 | ")


@pytest.mark.usefixtures("tiny")
def test_a_slowdown_against_a_stored_file_fails(tmp_path: Path) -> None:
    path = tmp_path / "stored.csv"
    quick("--csv", str(path))
    kept = records.read(path)
    assert [row.size for row in kept] == ["groups=2 M=33 d=5", "M=17 d=3"]

    def store(*times: float) -> None:
        path.unlink()
        rows = zip(kept, times, strict=True)
        records.merge(path, [dataclasses.replace(row, ms=ms) for row, ms in rows])

    store(1e6, 1e6)  # no call takes 1e6 ms
    assert "SLOWER" not in quick("--compare", str(path)).stdout

    store(1e6, 1e-9)
    # --compare reads the file before --csv writes it.
    result = quick("--compare", str(path), "--csv", str(path), status=1)
    assert result.stdout.count("SLOWER") == 1
    assert "slower by more than 25 %: rbf_gram M=17 d=3" in result.stderr
    assert records.read(path)[1].ms > 1e-6


@pytest.mark.usefixtures("tiny")
def test_compare_refuses_a_file_without_rows_of_this_machine(tmp_path: Path) -> None:
    path = tmp_path / "stored.csv"
    records.merge(path, [record(size="M=17 d=3")])
    assert "Nothing was compared" in quick("--compare", str(path), status=2).stderr


@pytest.mark.usefixtures("tiny")
def test_save_names_its_files_after_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(run, "RESULTS", tmp_path)
    quick("--save", "--figure", str(tmp_path / "mine.png"))
    [table] = tmp_path.glob("operators-*-1-thread.csv")
    assert len(records.read(table)) == 2
    figure = tmp_path / table.name.replace("operators-", "roofline-").replace(".csv", ".png")
    assert figure.is_file() and (tmp_path / "mine.png").is_file()


def test_an_operator_without_a_kernel_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("no kernel here")

    module = importlib.import_module("benchmarks.operators.problems.rbf_gram")
    refused = dataclasses.replace(module.BENCHMARK, operator=refuse, sizes={"cpu": ((1, 3, 2),)})
    monkeypatch.setattr(module, "BENCHMARK", refused)
    monkeypatch.setattr(roofline, "measure_ceilings", lambda device, dtype: CEILINGS)
    result = quick(status=1)
    assert "rbf_gram: not measured, no kernel here" in result.output
    assert "nothing was measured" in result.output


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["rbf_grim"], "there is no operator rbf_grim"),
        (["--device", "cpu"], "name operators or give --all"),
        (["rbf_gram", "--all"], "name operators or give --all"),
        (["rbf_gram", "--compare", "/nowhere.csv"], "there is no file /nowhere.csv"),
    ],
)
def test_an_invalid_call_says_what_is_valid(arguments: list[str], expected: str) -> None:
    result = call(*arguments)
    assert result.exit_code == 2
    assert expected in result.stderr
    assert "--compare" in arguments or all(name in result.stderr for name in OPERATORS)


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_cuda_without_a_gpu_gives_the_reason() -> None:
    result = call("rbf_gram", "--device", "cuda")
    assert result.exit_code == 2
    assert "--device cuda: no: " in result.stderr


def test_help_lists_the_operators() -> None:
    result = call("--help")
    assert result.exit_code == 0
    assert all(name in result.stdout for name in OPERATORS)
    assert "--compare" in result.stdout
