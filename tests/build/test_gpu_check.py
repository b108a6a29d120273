"""``make gpu-check`` without a GPU: its runner with commands that crash, hang and fill the disk."""

import errno
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mige_ext import ops
from tests import conftest
from tests.support.backends import OPERATORS
from tests.support.process import ROOT, environment
from tools import gpu_check, gpu_runner
from tools.gpu_check import Options
from tools.gpu_runner import Files, Result, Row, Step, read_rows, run_all

# A stand-in for the process of a step with items. The name of an item says what happens.
STAND_IN = """
import os, sys, time
from tools.gpu_rows import emit, run_items
def work(item):
    if item == "crash": os.abort()
    if item == "hang": time.sleep(60)
    if item == "slow": time.sleep(0.3)
    if item == "raise": raise ValueError("what went wrong")
    if item == "poison": broken.append(item); raise RuntimeError("an illegal access")
    emit(item, ms=1.5)
    return "inaccurate" if item == "wrong" else None
def healthy():
    if broken: raise RuntimeError("an illegal access")
broken = []
if sys.argv[1] == "no start": sys.exit("cannot import")
run_items(sys.argv[2:], work, healthy)
"""


@pytest.fixture
def files(tmp_path: Path) -> Files:
    (tmp_path / "out").mkdir()
    return Files(tmp_path / "out", "some-gpu", tmp_path / "logs")


def run(files: Files, *steps: Step, total: float = 60) -> list[Result]:
    return run_all(steps, files, {"GPU": "some GPU"}, total)


def python(name: str, code: str, limit: float = 30, required: bool = False) -> Step:
    return Step(name, [sys.executable, "-c", code], limit, {"GREETING": "hello"}, required)


def items(*names: str, limit: float = 60, item_limit: float = 10, start: str = "start") -> Step:
    command = [sys.executable, "-c", STAND_IN, start]
    here = {"PYTHONPATH": environment()["PYTHONPATH"]}
    return Step("items", command, limit, here, items=names, item_limit=item_limit)


def measured(files: Files) -> list[str]:
    return [row["item"] for row in read_rows(files.rows) if "ms" in row]


def ends(files: Files) -> dict[str, Row]:
    return {r["item"]: r for r in read_rows(files.rows) if r.get("event") == "end"}


# --- steps ----------------------------------------------------------------------------------------


def test_steps_run_in_their_environment_and_leave_a_log(files: Files) -> None:
    step = python("first step", "import os; print('noise'); print(os.environ['GREETING'])")
    (result,) = run(files, step)
    assert (result.name, result.status, result.note) == ("first step", "passed", "hello")
    assert (files.logs / "first-step.log").read_text() == "noise\nhello\n"
    with tarfile.open(files.archive) as archive:
        assert "logs/first-step.log" in archive.getnames()


def test_a_failing_step_does_not_stop_the_others(files: Files) -> None:
    results = run(
        files,
        python("fails", "import sys; sys.exit('what went wrong')"),
        Step("no such program", ["/nonexistent/program"], 10),
        python("passes", "print('fine')"),
    )
    assert [r.status for r in results] == ["failed", "failed", "passed"]
    assert results[0].note == "exit 1: what went wrong"
    assert "/nonexistent/program" in results[1].note


def test_a_step_that_takes_too_long_is_ended_with_its_children(
    files: Files, tmp_path: Path
) -> None:
    touched = tmp_path / "touched"
    child = f"import time; time.sleep(2); open({str(touched)!r}, 'w')"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    (result,) = run(files, python("slow", code, limit=0.5))
    assert result.status == "timed out"
    assert result.seconds < 2
    time.sleep(max(0.0, 2.5 - result.seconds))
    assert not touched.exists()


def test_the_limit_of_the_total_time_is_kept(files: Files) -> None:
    steps = [python(name, "import time; time.sleep(30)") for name in ("first", "second")]
    results = run(files, *steps, total=0.5)
    assert [r.status for r in results] == ["timed out", "not run"]
    assert "are over" in results[1].note


def test_nothing_runs_on_a_build_that_failed(files: Files) -> None:
    build = python("build", "raise SystemExit(2)", required=True)
    results = run(files, build, python("test", "print('ran')"))
    assert [r.status for r in results] == ["failed", "not run"]
    assert results[1].note == "needs the step build"


def test_the_summary_names_every_step_once() -> None:
    results = [Result("a", "passed", 1.23, "10 passed"), Result("b", "failed", 4.0, "x | y\nz")]
    text = gpu_runner.summary("Some GPU", {"torch": "2.13"}, results)
    assert "# Some GPU\n\n1 of 2 steps passed.\n" in text
    assert "| torch | 2.13 |" in text
    assert "| a | passed | 1.2 | 10 passed |" in text
    assert "| b | failed | 4.0 | x \\| y z |" in text


# --- items: what survives a crash, a hang, a full disk and a kill ---------------------------------


def test_a_crash_in_the_third_item_loses_no_other(files: Files) -> None:
    (result,) = run(files, items("a", "b", "crash", "d", "e"))
    assert measured(files) == ["a", "b", "d", "e"]
    assert ends(files)["crash"]["status"] == "crashed"
    assert "exit -6" in ends(files)["crash"]["note"]
    assert (result.status, result.note) == ("failed", "crash (crashed)")


def test_a_hang_takes_the_time_of_one_item(files: Files) -> None:
    (result,) = run(files, items("a", "hang", "c", item_limit=2))
    assert measured(files) == ["a", "c"]
    assert ends(files)["hang"]["note"] == "no row for 2 s"
    assert result.note == "hang (timed out)"
    assert result.seconds < 20


def test_a_broken_gpu_gets_a_new_process_for_the_other_items(files: Files) -> None:
    (result,) = run(files, items("a", "poison", "c", "raise", "wrong", "f"))
    assert measured(files) == ["a", "c", "wrong", "f"]
    assert ends(files)["poison"]["note"] == "RuntimeError: an illegal access"
    assert ends(files)["raise"]["note"] == "ValueError: what went wrong"
    assert ends(files)["wrong"]["note"] == "inaccurate"
    assert result.note == "poison (failed), raise (failed), wrong (failed)"


def test_items_that_all_pass_make_a_step_that_passed(files: Files) -> None:
    (result,) = run(files, items("a", "b"))
    assert (result.status, result.note) == ("passed", "2 items")


def test_a_process_that_cannot_start_is_not_started_again(files: Files) -> None:
    (result,) = run(files, items("a", "b", start="no start"))
    assert result.status == "failed"
    assert result.note == "not run: a, b (exit 1: cannot import)"


def test_a_gpu_that_always_crashes_does_not_take_all_the_time(files: Files) -> None:
    crash = "import sys; from tools.gpu_rows import emit; emit(sys.argv[1], event='begin'); 1 / 0"
    names = tuple(f"x{i}" for i in range(20))
    (result,) = run(
        files, Step("items", [sys.executable, "-c", crash], 60, items().environment, items=names)
    )
    assert len(ends(files)) == gpu_runner.MOST_RESTARTS + 1
    assert "not run: x6, x7" in result.note


def test_a_full_disk_loses_no_earlier_row(
    files: Files, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run(files, items("a", "b"))
    before = {path: path.read_bytes() for path in (files.rows, files.summary, files.archive)}
    write, write_text = os.write, Path.write_text

    def half(file: int, data: bytes) -> int:
        return write(file, data[: len(data) // 2])

    def full(path: Path, data: str) -> int:
        write_text(path, data[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", half)
    monkeypatch.setattr(Path, "write_text", full)
    monkeypatch.setattr(tarfile, "open", lambda path, mode: full(Path(path), "part of an archive"))
    gpu_runner.append(files.rows, {"step": "later", "ms": 2.5})
    gpu_runner.keep(files, {}, [Result("later", "passed", 1.0, "")])
    monkeypatch.undo()
    assert all(path.read_bytes() == content for path, content in before.items())
    assert {path.name for path in files.out.iterdir()} == {path.name for path in before}
    assert '{"step": "later", "ms": 2.5}' in capfd.readouterr().err  # the row is in the log
    gpu_runner.append(files.rows, {"step": "after", "ms": 3.5})
    assert read_rows(files.rows)[-1] == {"step": "after", "ms": 3.5}


def test_a_kill_after_any_step_keeps_what_was_there(files: Files, tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from tests.build.test_gpu_check import items, python
from tools.gpu_runner import Files, run_all
files = Files(Path({str(files.out)!r}), {files.name!r}, Path({str(files.logs)!r}))
run_all([python("one", "print(1)"), items("a", "b"), python("last", "import time; time.sleep(60)")],
        files, {{}}, 120)
"""
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment())
    end = time.monotonic() + 50
    while time.monotonic() < end and not (files.logs / "last.log").exists():
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    steps = [row["step"] for row in read_rows(files.rows) if "seconds" in row]
    assert steps == ["one", "items"]
    assert measured(files) == ["a", "b"]
    assert "| items | passed |" in files.summary.read_text()
    with tarfile.open(files.archive) as archive:
        assert {"logs/one.log", "logs/items.log"} <= set(archive.getnames())


def test_the_results_are_at_most_eight_files(files: Files) -> None:
    run(files, *(python(f"step {i}", "print(1)") for i in range(10)))
    files.csv.write_text("")
    names = sorted(path.name for path in files.out.iterdir())
    assert names == ["some-gpu-logs.tar.gz", "some-gpu.csv", "some-gpu.jsonl", "some-gpu.md"]
    for line in files.rows.read_text().splitlines():
        assert json.loads(line)["status"] == "passed"


# --- plans ----------------------------------------------------------------------------------------


def steps_of(plan: int, tmp_path: Path, build: bool = True) -> list[Step]:
    return gpu_check.plan(Options(plan, "90", tmp_path / "gpu.csv", build))


def test_without_a_plan_everything_is_built_for_one_architecture(tmp_path: Path) -> None:
    steps = steps_of(0, tmp_path)
    assert [s.name for s in steps if s.required] == ["configure", "build", "versions"]
    assert {"-DMIGE_CUDA_ARCHITECTURES=90", "-DMIGE_STRICT=off"} <= set(steps[0].command)
    assert {s.name.split()[-1] for s in steps} >= set(gpu_check.SANITIZERS)


def test_cmake_finds_the_programs_that_the_check_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin")
    path = steps_of(0, tmp_path)[0].environment["PATH"]
    beside_python = str(Path(sys.executable).parent)
    assert path.split(os.pathsep) == ["/usr/bin", beside_python, "/usr/local/cuda/bin"]


@pytest.mark.parametrize("plan", [0, 1, 2])
def test_the_steps_of_a_plan_name_what_exists(tmp_path: Path, plan: int) -> None:
    steps = steps_of(plan, tmp_path)
    assert len({gpu_runner.slug(s.name) for s in steps}) == len(steps)
    for step in steps:
        scripts = [a for a in step.command if a.startswith(("tests/", "benchmarks/", "tools/"))]
        assert all((ROOT / script).exists() for script in scripts)
        if "pytest" in step.command:
            assert {"no:benchmark", "--maxfail=30"} <= set(step.command)
            assert any(a.startswith("--junitxml=") for a in step.command)
        if step.name.startswith("compute-sanitizer"):
            at = step.command.index("--report-api-errors")
            assert step.command[at + 1] == "no"


@pytest.mark.parametrize("plan", [1, 2])
def test_sanitizer_and_profiler_run_last(tmp_path: Path, plan: int) -> None:
    names = [s.name for s in steps_of(plan, tmp_path, build=False)]
    last = [n for n in names if n.startswith(("compute-sanitizer", "ncu"))]
    assert names[0] == "versions" and last and names[-len(last) :] == last
    assert gpu_check.SECONDS[plan] <= 340


def test_the_profiled_kernels_exist() -> None:
    from tools.gpu_measure import PROFILES

    assert PROFILES.keys() == gpu_check.PROFILED.keys()
    source = "".join(path.read_text() for path in (ROOT / "csrc" / "cuda").rglob("*.cu*"))
    for kernels in gpu_check.PROFILED.values():
        assert any(f"{kernel}(" in source for kernel in kernels.split("|")), kernels


def test_an_older_library_is_measured_in_the_same_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_check, "BUILD", tmp_path / "build")
    old = tmp_path / "old.so"
    old.write_text("a library")
    steps = gpu_check.plan(Options(2, "90", tmp_path / "gpu.csv", build=False, old=old))
    names = [s.name for s in steps]
    assert names.index("eigh of the old library") == names.index("eigh") + 1
    first = steps[names.index("eigh of the old library")].environment["PYTHONPATH"].split(":")[0]
    assert (Path(first) / "mige_ext" / "_C.abi3.so").read_text() == "a library"
    assert (Path(first) / "mige_ext" / "__init__.py").exists()


def test_the_operators_of_a_plan_are_those_of_the_package(tmp_path: Path) -> None:
    assert set(gpu_check.OPERATORS) == set(OPERATORS)
    assert set(gpu_check.FIRST_OPERATORS) <= set(OPERATORS)
    assert {f"1x{n}" for n in (257, 320, 513, 1024)} <= set(gpu_check.EIGH_ITEMS)


# Runs the tasks of tools/gpu_measure.py on CPU tensors, one after another in one process.
ON_CPU = """
import dataclasses, os, runpy, sys
sys.modules.update(typer=None, click=None, matplotlib=None, pytest=None)
from benchmarks.operators import problems, roofline
roofline.measure_ceilings = lambda device, dtype: roofline.Ceilings(1.0, 1.0)
load = problems.load
tiny = {"cpu": ((2, 33, 5), (1, 17, 3))}
problems.load = lambda name: dataclasses.replace(load(name), sizes=tiny)
for line in sys.argv[1:]:
    sys.argv = ["gpu_measure", *line.split()]
    os.environ["MIGE_STEP"] = sys.argv[1]
    runpy.run_module("tools.gpu_measure", run_name="__main__")
"""


@pytest.mark.thorough  # because inductor compiles the baselines
def test_the_measurements_run_on_a_cpu_without_typer(tmp_path: Path) -> None:
    rows, csv = tmp_path / "rows.jsonl", tmp_path / "gpu.csv"
    variables = environment(
        MIGE_CHECK_DEVICE="cpu", MIGE_ROWS=str(rows), MIGE_CSV=str(csv), MIGE_SECONDS="0"
    )
    tasks = ("smoke rbf_product-float32 eigh-float64", "eigh 2x33 1x40", "operators rbf_gram ssge")
    done = subprocess.run(
        [sys.executable, "-c", ON_CPU, *tasks], capture_output=True, text=True, cwd=ROOT,
        env=variables,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = read_rows(rows)
    assert all(row["status"] == "passed" for row in found if row.get("event") == "end"), found
    sizes = {row["n"] for row in found if row["step"] == "smoke" and "n" in row}
    assert sizes == {33, 65, 130, 257}
    kinds = {row["kind"] for row in found if row["item"] == "1x40" and "kind" in row}
    assert kinds == {"gram", "indefinite", "rank one"}
    assert all("own_residual" in row for row in found if "own_ms" in row)
    assert [row.split(",")[4] for row in csv.read_text().splitlines()[1:]] == [
        "rbf_gram", "rbf_gram", "ssge", "ssge",
    ]  # fmt: skip


@pytest.mark.parametrize("value", [1.01, torch.nan])
def test_the_smoke_step_finds_a_gross_error(monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    from tools import gpu_measure

    right, count = ops.rbf_product, 0

    def wrong_on_the_device(*args: Tensor, **kwargs: Tensor) -> Tensor:
        nonlocal count
        count += 1  # the first call has CPU tensors, the second has tensors of the device
        return right(*args, **kwargs) * (value if count % 2 == 0 else 1.0)

    monkeypatch.setattr(gpu_measure, "DEVICE", "cpu")
    assert gpu_measure.smoke("rbf_product-float32") is None
    monkeypatch.setattr(ops, "rbf_product", wrong_on_the_device)
    found = gpu_measure.smoke("rbf_product-float32")
    assert found is not None and found.startswith(
        "gross errors: call 6 at n = 33, call 6 at n = 65"
    )


def test_a_test_process_ends_when_its_gpu_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw0")
    conftest.pytest_runtest_logfinish()
    assert not ended
    monkeypatch.setattr(torch.cuda, "synchronize", broken)
    conftest.pytest_runtest_logfinish()
    assert ended == [1]
    monkeypatch.delenv("PYTEST_XDIST_WORKER")  # without xdist no process would replace this one
    conftest.pytest_runtest_logfinish()
    assert ended == [1]
    monkeypatch.undo()


# --- requirements ---------------------------------------------------------------------------------


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(gpu_check, "find", lambda program: None)
    monkeypatch.delenv("CUDACXX", raising=False)
    text = "\n".join(gpu_check.missing())
    for words in ("no GPU: torch.cuda.is_available() is False", "nvcc is missing",
                  "cmake is missing", "ninja and make are missing"):  # fmt: skip
        assert words in text
    assert "nvcc" not in "\n".join(gpu_check.missing(build=False))


@pytest.mark.skipif(torch.cuda.is_available(), reason="would run for minutes: there is a GPU")
def test_without_a_gpu_it_ends_early_and_says_so(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "gpu_check.py"), "--out", str(tmp_path / "out")],
        capture_output=True, text=True, env=environment(),
    )  # fmt: skip
    assert result.returncode == 1
    assert "no GPU: torch.cuda.is_available() is False" in result.stderr
    assert not (tmp_path / "out").exists()
