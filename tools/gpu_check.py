"""Builds the CUDA kernels for the GPU of this machine, tests them, and measures them.

    make gpu-check                        # or: python tools/gpu_check.py [--out FOLDER]

It needs nvcc, cmake, pytest and a CUDA build of torch in the Python that runs it. It needs no
network and creates no environment. The steps are the build for this GPU, the conformance suite, the
tests that need a GPU, the microbenchmarks, and compute-sanitizer. A step that fails or exceeds its
time does not stop the others. The results of the benchmarks are written to
``benchmarks/results/<gpu>.csv``, and the results of the steps to ``benchmarks/results/<gpu>.md``.
The exit status is 0 if every step passed, otherwise 1. A run takes at most eight minutes.
"""

import argparse
import importlib.util
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "gpu-check"
TOTAL = 480.0  # seconds for all steps
SANITIZERS = ("memcheck", "racecheck", "synccheck", "initcheck")
# `python -m benchmarks` is not used, because it needs typer.
BENCHMARKS = """
import pathlib, sys
from benchmarks.operators.run import OPERATORS, Options, run
csv = pathlib.Path(sys.argv[1])
sys.exit(run(OPERATORS, Options(device="cuda", seconds=0.3, compiled=False, csv=csv)))
"""


@dataclass(frozen=True)
class Step:
    """A command with its time limit.

    Attributes:
        name: Name in the summary.
        command: Program and arguments.
        limit: Longest time in seconds.
        environment: Additional environment variables.
        required: Whether the later steps are skipped if this one fails.
    """

    name: str
    command: Sequence[str]
    limit: float
    environment: Mapping[str, str] = field(default_factory=dict)
    required: bool = False


@dataclass(frozen=True)
class Result:
    """The result of a step.

    Attributes:
        name: Name of the step.
        status: "passed", "failed", "timed out" or "not run".
        seconds: Time that the step took.
        note: The last line of its output, or the reason of the failure.
    """

    name: str
    status: str
    seconds: float
    note: str


# --- running steps --------------------------------------------------------------------------------


def run(step: Step, limit: float, log: Path) -> Result:
    """Runs a step and writes its output to a file."""
    environment = {**os.environ, **step.environment}
    start = time.monotonic()
    try:
        with log.open("w") as output:
            process = subprocess.Popen(
                step.command,
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                cwd=ROOT, env=environment, start_new_session=True,
            )  # fmt: skip
            try:
                code = process.wait(limit)
                status = "passed" if code == 0 else "failed"
            except subprocess.TimeoutExpired:
                status = "timed out"
            finally:
                if process.poll() is None:  # kills its children too
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
    except OSError as error:
        return Result(step.name, "failed", time.monotonic() - start, str(error))
    seconds = time.monotonic() - start
    if status == "timed out":
        return Result(step.name, status, seconds, f"after {limit:.0f} s; see {log.name}")
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    note = lines[-1] if lines else ""
    return Result(
        step.name, status, seconds, note if status == "passed" else f"exit {code}: {note}"
    )


def run_all(steps: Sequence[Step], logs: Path, total: float = TOTAL) -> list[Result]:
    """Runs one step after another within the total time. A failed step does not stop the run."""
    logs.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + total
    results: list[Result] = []
    obstacle = ""
    for step in steps:
        remaining = end - time.monotonic()
        if obstacle or remaining <= 0:
            reason = obstacle or f"the {total:.0f} s for all steps are over"
            result = Result(step.name, "not run", 0.0, reason)
        else:
            log = logs / f"{slug(step.name)}.log"
            result = run(step, min(step.limit, remaining), log)
            if result.status != "passed":
                if log.exists():
                    print("\n".join(log.read_text(errors="replace").splitlines()[-40:]))
                if step.required:
                    obstacle = f"needs the step {step.name}"
        print(
            f"{result.status:<9} {result.seconds:6.1f} s  {result.name}  {result.note}", flush=True
        )
        results.append(result)
    return results


def summary(title: str, facts: Mapping[str, str], results: Sequence[Result]) -> str:
    """The steps as Markdown."""
    passed = sum(r.status == "passed" for r in results)
    lines = [f"# {title}", "", f"{passed} of {len(results)} steps passed.", ""]
    lines += ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in facts.items()), ""]
    lines += ["| step | result | seconds | last line |", "|---|---|---|---|"]
    for r in results:
        note = re.sub(r"\s+", " ", r.note).replace("|", "\\|").replace(str(ROOT), ".")[:160]
        lines.append(f"| {r.name} | {r.status} | {r.seconds:.1f} | {note} |")
    return "\n".join(lines) + "\n"


def slug(name: str) -> str:
    """A name in a form that is safe as a file name."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


# --- this machine ---------------------------------------------------------------------------------


def find(program: str) -> str | None:
    """Path of a program on PATH or beside the Python that runs."""
    places = [os.environ.get("PATH", ""), str(Path(sys.executable).parent)]
    return shutil.which(program, path=os.pathsep.join(places))


def missing() -> list[str]:
    """A sentence for each missing requirement, with the remedy."""
    found = []
    if importlib.util.find_spec("torch") is None:
        found.append(f"torch is missing in {sys.executable}: make gpu-check PYTHON=...")
    else:
        import torch

        if torch.version.cuda is None:
            found.append(f"torch {torch.__version__} is a build without CUDA")
        if not torch.cuda.is_available():
            found.append("no GPU: torch.cuda.is_available() is False")
    if find("nvcc") is None and not os.environ.get("CUDACXX"):
        found.append("nvcc is missing: put it on PATH, or its path in CUDACXX")
    if find("cmake") is None:
        found.append(f"cmake is missing: {sys.executable} -m pip install cmake")
    if find("ninja") is None and find("make") is None:
        found.append("ninja and make are missing: one of them is needed")
    if importlib.util.find_spec("pytest") is None:
        found.append(f"pytest is missing: {sys.executable} -m pip install pytest")
    return found


def plan(architecture: str, csv: Path) -> list[Step]:
    """The steps for a GPU of this architecture."""
    python = sys.executable
    paths = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH", "")) if p)
    here = {"PYTHONPATH": paths}
    generator = "Ninja" if find("ninja") else "Unix Makefiles"
    cmake, folder = find("cmake") or "cmake", BUILD / slug(generator)
    pytest = [python, "-m", "pytest", "-p", "no:cacheprovider"]
    steps = [
        Step(
            "configure",
            [
                cmake, "-S", str(ROOT), "-B", str(folder), "-G", generator,
                f"-DPython_EXECUTABLE={python}", f"-DMIGE_OUTPUT_DIRECTORY={ROOT / 'mige_ext'}",
                "-DMIGE_CUDA=on", f"-DMIGE_CUDA_ARCHITECTURES={architecture}",
            ],
            40,
            required=True,
        ),
        Step(
            "build",
            [cmake, "--build", str(folder), "--parallel", str(os.cpu_count() or 1)],
            120,
            required=True,
        ),
        Step("resources", [python, "tools/resources.py"], 30, here),
        Step(
            "conformance",
            [*pytest, "tests/ops", "--ignore=tests/ops/test_cuda.py",
             "-k", "cuda and not fake"],  # pytest fails if this selects no test
            120,
            here,
        ),
        Step("tests of the GPU", [*pytest, "tests/ops/test_cuda.py", "-rs"], 60, here),
        Step("benchmarks", [python, "-c", BENCHMARKS, str(csv)], 150, here),
    ]  # fmt: skip
    alone = {**here, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    sanitizer = find("compute-sanitizer") or "compute-sanitizer"
    for tool in SANITIZERS:
        script = "tests/support/sanitize.py"
        command = [sanitizer, "--tool", tool, "--error-exitcode", "9", python, script]
        steps.append(Step(f"compute-sanitizer {tool}", command, 60, alone))
    return steps


def main() -> None:
    """Checks the requirements, runs the steps and writes the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--out", type=Path, default=ROOT / "benchmarks" / "results",
        help="Write the results to this folder.",
    )  # fmt: skip
    out = parser.parse_args().out.resolve()
    obstacles = missing()
    if obstacles:
        sys.exit("gpu-check cannot run here:\n" + "\n".join(f"  {o}" for o in obstacles))
    import torch

    major, minor = torch.cuda.get_device_capability()
    gpu = torch.cuda.get_device_name()
    facts = {
        "GPU": f"{gpu}, compute capability {major}.{minor}",
        "torch": f"{torch.__version__}, CUDA {torch.version.cuda}",
        "Python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }
    out.mkdir(parents=True, exist_ok=True)
    results = run_all(plan(f"{major}{minor}", out / f"{slug(gpu)}.csv"), BUILD / "logs")
    path = out / f"{slug(gpu)}.md"
    path.write_text(summary(gpu, facts, results))
    print(f"\nWritten: {path}")
    sys.exit(0 if all(r.status == "passed" for r in results) else 1)


if __name__ == "__main__":
    main()
