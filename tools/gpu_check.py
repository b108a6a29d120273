"""Build the CUDA kernels for the GPU of this machine, test them, and measure them.

    make gpu-check                     # or: python tools/gpu_check.py [--plan 1|2] [--out FOLDER]

Requirements are a CUDA build of torch, nvcc, cmake and pytest, but no network. A step that fails or
exceeds its time does not stop the other steps. ``tools/gpu_runner.py`` describes the files with the
results. The exit status is 0 if every step passed, otherwise 1.

Without ``--plan`` the command runs all steps in at most eight minutes. A plan is a selection of
steps that takes at most 340 seconds. Plan 1 is for the first run on a GPU. Plan 2 is for a later
run, and compares the library with an older library.
"""

import argparse
import importlib.util
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # because this file is also a script

from tools.gpu_runner import Files, Step, run_all, slug  # noqa: E402

BUILD = ROOT / "build" / "gpu-check"
SECONDS = {0: 480.0, 1: 340.0, 2: 340.0}  # longest time of all steps of a plan
SANITIZERS = ("memcheck", "racecheck", "synccheck", "initcheck")
DTYPES = ("float32", "float64")
OPERATORS = tuple(
    sorted(p.stem for p in (ROOT / "benchmarks/operators/problems").glob("[a-z]*.py"))
)
# Items of `gpu_measure profile`, with a regular expression for the kernels that ncu profiles.
PROFILED = {
    "eigh of small matrices": "eigh_block_kernel",
    "eigh of large matrices": "pair_rotate_kernel|sweep_kernel",
    "products": "contraction_kernel",
    "distances": "pairwise_kernel",
}
# The operators that plan 1 measures.
FIRST_OPERATORS = ("ssge", "adaptive_score", "rbf_product", "rbf_gram", "rbf_gradient_sum")

EIGH_SIZES = (32, 64, 100, 128, 200, 256, 512, 1024)  # n, for one matrix and for a batch
BETWEEN = (257, 320, 513)  # further n, for one matrix
MOST_WORK = 7e10  # largest batch × n³, to limit the time
EIGH_ITEMS = tuple(f"1x{n}" for n in sorted({*EIGH_SIZES, *BETWEEN})) + tuple(
    f"{batch}x{n}" for batch in (16, 128, 500) for n in EIGH_SIZES if batch * n**3 <= MOST_WORK
)
LIBRARY_ITEMS = ("1x256", "16x256", "1x1024")  # with MIGE_CUSOLVER=on
SMOKE_ITEMS = tuple(f"{operator}-{dtype}" for operator in OPERATORS for dtype in DTYPES)

VERSIONS = """
import platform, torch
from mige_ext import _C
print("Python", platform.python_version(), "torch", torch.__version__, "CUDA", torch.version.cuda)
print("kernels for", _C.cuda_architectures or "no architecture", "by nvcc", _C.cuda_version)
assert _C.cuda_architectures, "mige_ext was built without CUDA kernels"
print(torch.cuda.get_device_name(), torch.zeros(1, device="cuda").item())
"""


@dataclass(frozen=True)
class Options:
    """Options of a run.

    Attributes:
        plan: 1 or 2; 0 for all steps.
        architecture: Compute capability of the GPU, such as "90" for 9.0.
        csv: File of the microbenchmarks.
        build: Whether to compile the kernels. If False, the library in mige_ext/ is checked.
        old: An older library for plan 2, or None.
    """

    plan: int
    architecture: str
    csv: Path
    build: bool = True
    old: Path | None = None


# --- this machine ---------------------------------------------------------------------------------


def search_path() -> str:
    """PATH, the folder of this Python and the usual folder of CUDA."""
    folders = [os.environ.get("PATH", ""), str(Path(sys.executable).parent), "/usr/local/cuda/bin"]
    return os.pathsep.join(folders)


def find(program: str) -> str | None:
    """Path of a program in one of the folders of :func:`search_path`."""
    return shutil.which(program, path=search_path())


def missing(build: bool = True) -> list[str]:
    """A sentence for each missing requirement, which says what to do."""
    found = []
    if importlib.util.find_spec("torch") is None:
        found.append(f"torch is missing in {sys.executable}: make gpu-check PYTHON=...")
    else:
        import torch

        if torch.version.cuda is None:
            found.append(f"torch {torch.__version__} is a build without CUDA")
        if not torch.cuda.is_available():
            found.append("no GPU: torch.cuda.is_available() is False")
    if build and find("nvcc") is None and not os.environ.get("CUDACXX"):
        found.append("nvcc is missing: put nvcc on PATH, or set CUDACXX to its path")
    if build and find("cmake") is None:
        found.append(f"cmake is missing: {sys.executable} -m pip install cmake")
    if build and find("ninja") is None and find("make") is None:
        found.append("ninja and make are missing: install one of the two")
    if not build and not (ROOT / "mige_ext" / "_C.abi3.so").exists():
        found.append("mige_ext/_C.abi3.so is missing: give a library by --library")
    return found


def gpu() -> tuple[str, str]:
    """Name and compute capability of the GPU, without a CUDA context in this process."""
    query = ["nvidia-smi", "--query-gpu=name,compute_cap", "--format=csv,noheader"]
    try:
        line = subprocess.check_output(query, text=True, timeout=20).splitlines()[0]
        name, capability = line.rsplit(",", 1)
        return name.strip(), capability.strip().replace(".", "")
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        import torch

        major, minor = torch.cuda.get_device_capability()
        return torch.cuda.get_device_name(), f"{major}{minor}"


# --- steps ----------------------------------------------------------------------------------------


def environment(package: Path = ROOT) -> dict[str, str]:
    """Environment variables with which Python finds the package in a folder, and this tree."""
    paths = dict.fromkeys([str(package), str(ROOT), os.environ.get("PYTHONPATH", "")])
    return {"PYTHONPATH": os.pathsep.join(p for p in paths if p), "PYTHONUNBUFFERED": "1"}


def build_steps(architecture: str) -> list[Step]:
    """Steps that compile the kernels. Warnings of the compilers do not stop the build."""
    generator = "Ninja" if find("ninja") else "Unix Makefiles"
    cmake, folder = find("cmake") or "cmake", BUILD / slug(generator)
    configure = [
        cmake, "-S", str(ROOT), "-B", str(folder), "-G", generator,
        f"-DPython_EXECUTABLE={sys.executable}", f"-DMIGE_OUTPUT_DIRECTORY={ROOT / 'mige_ext'}",
        "-DMIGE_CUDA=on", f"-DMIGE_CUDA_ARCHITECTURES={architecture}", "-DMIGE_STRICT=off",
    ]  # fmt: skip
    build = [cmake, "--build", str(folder), "--parallel", str(os.cpu_count() or 1)]
    path = {"PATH": search_path()}  # so that CMake finds the same programs
    return [
        Step("configure", configure, 40, path, required=True),
        Step("build", build, 150, path, required=True),
        Step("resources", [sys.executable, "tools/resources.py"], 30, environment()),
    ]


def tests(name: str, limit: float, *selection: str) -> Step:
    """A step of pytest. With pytest-xdist, the tests continue after a crash of one process."""
    parallel = ["-n", "8"] if importlib.util.find_spec("xdist") else []
    report = BUILD / "logs" / f"{slug(name)}.xml"
    command = [
        sys.executable, "-m", "pytest", *parallel, "-p", "no:benchmark", "-p", "no:cacheprovider",
        "-W", "default", "--maxfail=30", "-rfEs", f"--junitxml={report}", *selection,
        # The log gets a line for every test, and the tracebacks of a test that hangs.
        "-vv", "-o", "faulthandler_timeout=20",
    ]  # fmt: skip
    return Step(name, command, limit, environment())


def measurement(
    task: str,
    items: Sequence[str],
    limit: float,
    variables: Mapping[str, str],
    *,
    name: str = "",
    item_limit: float = 30,
) -> Step:
    """A step of ``tools/gpu_measure.py``."""
    command = [sys.executable, "-m", "tools.gpu_measure", task]
    return Step(name or task, command, limit, variables, items=tuple(items), item_limit=item_limit)


def sanitizer(tool: str, limit: float, *sizes: str) -> Step:
    """A step of compute-sanitizer. It ignores errors of the CUDA API, which torch handles."""
    command = [
        find("compute-sanitizer") or "compute-sanitizer", "--tool", tool,
        "--report-api-errors", "no", "--error-exitcode", "9",
        sys.executable, "tests/support/sanitize.py", *sizes,
    ]  # fmt: skip
    alone = {**environment(), "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    return Step(f"compute-sanitizer {tool}", command, limit, alone)


def profiles(limit: float) -> list[Step]:
    """A step of ncu for each item, which writes all counters of the second launch to the log."""
    return [
        Step(
            f"ncu {name}",
            [
                find("ncu") or "ncu", "--clock-control", "none", "--set", "full",
                "--kernel-name", f"regex:{kernels}", "--launch-skip", "1", "--launch-count", "1",
                sys.executable, "-m", "tools.gpu_measure", "profile", name,
            ],
            limit, environment(),
        )
        for name, kernels in PROFILED.items()
    ]  # fmt: skip


def old_package(library: Path) -> Path:
    """A folder with a copy of the package that has another library."""
    folder = BUILD / "old"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "mige_ext", folder / "mige_ext")
    shutil.copy(library, folder / "mige_ext" / "_C.abi3.so")
    return folder


def plan(options: Options) -> list[Step]:
    """The steps of a run. Sanitizers and profiles come last."""
    here = environment()
    conformance = ["tests/ops", "--ignore=tests/ops/test_cuda.py", "-k", "cuda and not fake"]
    on_gpu = "tests/ops/test_cuda.py"

    def operators(names: Sequence[str], limit: float, seconds: str) -> Step:
        variables = {**here, "MIGE_CSV": str(options.csv), "MIGE_SECONDS": seconds}
        return measurement("operators", names, limit, variables, item_limit=limit / 2)

    by_library = {**here, "MIGE_CUSOLVER": "on"}
    steps = build_steps(options.architecture) if options.build else []
    steps.append(Step("versions", [sys.executable, "-c", VERSIONS], 40, here, required=True))
    smoke = measurement("smoke", SMOKE_ITEMS, 60, here)
    if options.plan == 1:
        return [
            *steps,
            smoke,
            tests("conformance", 70, *conformance),
            tests("tests of the GPU", 50, on_gpu),
            measurement("eigh", EIGH_ITEMS, 95, here),
            measurement("eigh", LIBRARY_ITEMS, 25, by_library, name="eigh by the library"),
            operators(FIRST_OPERATORS, 80, "0.15"),
            sanitizer("memcheck", 45, "65", "257"),
            *profiles(20),
        ]
    if options.plan == 2:
        old = []
        if options.old is not None:
            there = environment(old_package(options.old))
            name = "eigh of the old library"
            old = [measurement("eigh", EIGH_ITEMS, 60, there, name=name)]
        return [
            *steps,
            measurement("eigh", EIGH_ITEMS, 60, here),
            *old,
            tests("conformance", 60, *conformance),
            tests("tests of the GPU", 40, on_gpu),
            operators(OPERATORS, 110, "0.2"),
            sanitizer("racecheck", 40, "33", "65"),
            sanitizer("synccheck", 40, "33", "65"),
        ]
    return [
        *steps,
        smoke,
        tests("conformance", 120, *conformance),
        tests("tests of the GPU", 60, on_gpu),
        measurement("eigh", EIGH_ITEMS, 100, here),
        operators(OPERATORS, 150, "0.3"),
        *(sanitizer(tool, 60) for tool in SANITIZERS),
        *profiles(20),
    ]


def facts(name: str, architecture: str) -> Mapping[str, str]:
    """Facts about the machine and the date, for the summary."""
    import torch

    return {
        "GPU": f"{name}, compute capability {architecture[:-1]}.{architecture[-1]}",
        "torch": f"{torch.__version__}, CUDA {torch.version.cuda}",
        "Python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }


def main() -> None:
    """Check the requirements, run the steps, and write the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--plan", type=int, choices=(1, 2), default=0, help="Plan; default: all.")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "benchmarks" / "results", help="Folder of the results."
    )
    parser.add_argument(
        "--no-build", action="store_true", help="Check the library that is in mige_ext/."
    )
    parser.add_argument(
        "--library", type=Path, help="Copy this library to mige_ext/ first; implies --no-build."
    )
    parser.add_argument("--old", type=Path, help="Compare with this library (plan 2).")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the current step ends too
    if given.library is not None:
        shutil.copy(given.library, ROOT / "mige_ext" / "_C.abi3.so")
    build = not given.no_build and given.library is None
    obstacles = missing(build)
    if obstacles:
        sys.exit("gpu-check cannot run here:\n" + "\n".join(f"  {o}" for o in obstacles))
    name, architecture = gpu()
    out = given.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    files = Files(out, slug(name), BUILD / "logs")
    steps = plan(Options(given.plan, architecture, files.csv, build, given.old))
    results = run_all(steps, files, facts(name, architecture), SECONDS[given.plan])
    print(f"\nWritten: {files.summary}")
    sys.exit(0 if all(r.status == "passed" for r in results) else 1)


if __name__ == "__main__":
    main()
