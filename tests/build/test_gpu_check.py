"""The runner of ``make gpu-check``: steps, time limits and summary, with commands without a GPU."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.support.backends import OPERATORS
from tests.support.process import ROOT, environment
from tools import gpu_check
from tools.gpu_check import Result, Step


def python(name: str, code: str, limit: float = 30, required: bool = False) -> Step:
    return Step(name, [sys.executable, "-c", code], limit, {"GREETING": "hello"}, required)


def test_steps_run_in_their_environment_and_leave_a_log(tmp_path: Path) -> None:
    step = python("first step", "import os; print('noise'); print(os.environ['GREETING'])")
    (result,) = gpu_check.run_all([step], tmp_path / "logs")
    assert (result.name, result.status, result.note) == ("first step", "passed", "hello")
    assert (tmp_path / "logs" / "first-step.log").read_text() == "noise\nhello\n"


def test_a_failing_step_does_not_stop_the_others(tmp_path: Path) -> None:
    steps = [
        python("fails", "import sys; sys.exit('what went wrong')"),
        Step("no such program", ["/nonexistent/program"], 10),
        python("passes", "print('fine')"),
    ]
    results = gpu_check.run_all(steps, tmp_path)
    assert [r.status for r in results] == ["failed", "failed", "passed"]
    assert results[0].note == "exit 1: what went wrong"
    assert "/nonexistent/program" in results[1].note


def test_a_step_that_takes_too_long_is_ended_with_its_children(tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    child = f"import time; time.sleep(2); open({str(touched)!r}, 'w')"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    (result,) = gpu_check.run_all([python("slow", code, limit=0.5)], tmp_path)
    assert result.status == "timed out"
    assert result.seconds < 2
    time.sleep(max(0.0, 2.5 - result.seconds))
    assert not touched.exists()


def test_the_time_for_everything_is_kept(tmp_path: Path) -> None:
    steps = [python(name, "import time; time.sleep(30)") for name in ("first", "second")]
    results = gpu_check.run_all(steps, tmp_path, total=0.5)
    assert [r.status for r in results] == ["timed out", "not run"]
    assert "are over" in results[1].note


def test_nothing_runs_on_a_build_that_failed(tmp_path: Path) -> None:
    steps = [python("build", "raise SystemExit(2)", required=True), python("test", "print('ran')")]
    results = gpu_check.run_all(steps, tmp_path)
    assert [r.status for r in results] == ["failed", "not run"]
    assert results[1].note == "needs the step build"


def test_the_summary_names_every_step_once() -> None:
    results = [Result("a", "passed", 1.23, "10 passed"), Result("b", "failed", 4.0, "x | y\nz")]
    text = gpu_check.summary("Some GPU", {"torch": "2.13"}, results)
    assert "# Some GPU\n\n1 of 2 steps passed.\n" in text
    assert "| torch | 2.13 |" in text
    assert "| a | passed | 1.2 | 10 passed |" in text
    assert "| b | failed | 4.0 | x \\| y z |" in text


def test_the_plan_builds_for_one_architecture_and_ends_within_its_time(tmp_path: Path) -> None:
    steps = gpu_check.plan("90", tmp_path / "gpu.csv")
    assert [s.name for s in steps if s.required] == ["configure", "build"]
    assert "-DMIGE_CUDA_ARCHITECTURES=90" in steps[0].command
    benchmarks = next(s for s in steps if s.name == "benchmarks")
    assert str(tmp_path / "gpu.csv") in benchmarks.command
    assert len({gpu_check.slug(s.name) for s in steps}) == len(steps)
    assert {s.name.split()[-1] for s in steps} >= set(gpu_check.SANITIZERS)
    for step in steps:
        scripts = [a for a in step.command if a.startswith(("tests/", "benchmarks/", "tools/"))]
        assert all((ROOT / script).exists() for script in scripts)


def test_the_benchmarks_need_no_command_framework(tmp_path: Path) -> None:
    step = next(s for s in gpu_check.plan("90", tmp_path / "gpu.csv") if s.name == "benchmarks")
    absent = "import sys; sys.modules.update(typer=None, click=None, matplotlib=None)\n"
    # The run itself is replaced, because it needs a GPU.
    stub = (
        "import benchmarks.operators.run as r\nr.Options, r.run = dict, lambda o, k: print(*o, k)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", absent + stub + gpu_check.BENCHMARKS, *step.command[3:]],
        capture_output=True, text=True, cwd=ROOT, env=environment(),
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (0, "")
    assert all(name in result.stdout for name in OPERATORS)
    assert "'device': 'cuda'" in result.stdout and "gpu.csv" in result.stdout


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(gpu_check, "find", lambda program: None)
    monkeypatch.delenv("CUDACXX", raising=False)
    text = "\n".join(gpu_check.missing())
    for words in ("no GPU: torch.cuda.is_available() is False", "nvcc is missing",
                  "cmake is missing", "ninja and make are missing"):  # fmt: skip
        assert words in text


@pytest.mark.skipif(torch.cuda.is_available(), reason="would run for minutes: there is a GPU")
def test_without_a_gpu_it_ends_early_and_says_so(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "gpu_check.py"), "--out", str(tmp_path / "out")],
        capture_output=True, text=True, env=environment(),
    )  # fmt: skip
    assert result.returncode == 1
    assert "no GPU: torch.cuda.is_available() is False" in result.stderr
    assert not (tmp_path / "out").exists()
