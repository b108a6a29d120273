"""Break the library in ten places, one after another, and report which tier of tests fails.

    python tools/mutations.py [--all] [NAME ...]

Each mutation removes a barrier, swaps an index or drops a term in a copy of the tree, and names the
tests that should fail. The script compiles the library if necessary, and runs these tests in the
first tier (`make test`). With ``--all``, it also runs them in the second tier (`make check`) if the
first tier passes. The exit status is 1 if all tests pass with a mutation.

The copy starts with the compiled libraries of this tree, so run `make test` first.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Mutation:
    """A change of a source file.

    Attributes:
        path: the source file.
        old: a text that occurs once in the file.
        new: the text that replaces ``old``.
        tests: the tests that should fail, as arguments of pytest.
    """

    path: str
    old: str
    new: str
    tests: tuple[str, ...]


#: The compiled libraries that contain the code of csrc.
LIBRARIES = {
    "package": "mige_ext/_C.abi3.so",
    "emulator": "build/emulator/plain/mige_emulator.so",
}
EMULATED = ("-k", "emulated")


MUTATIONS = {
    "cuda: a barrier of the Cholesky factorization": Mutation(
        "csrc/cuda/linalg/cholesky.cuh",
        "    Team::sync();\n    for (int j = k + 1 + warp; j < n; j += warps) {",
        "    for (int j = k + 1 + warp; j < n; j += warps) {",
        ("tests/ops/test_adaptive_score.py", *EMULATED),
    ),
    "cuda: an index of the products": Mutation(
        "csrc/cuda/linalg/tile.cuh",
        "static_cast<Sum>(a[i]) * static_cast<Sum>(b[j])",
        "static_cast<Sum>(a[j]) * static_cast<Sum>(b[j])",
        ("tests/ops/test_rbf_product.py", "tests/ops/test_rbf_gram.py", *EMULATED),
    ),
    "cuda: a term of the adaptive score's risk": Mutation(
        "csrc/cuda/adaptive/risk.cuh",
        "spread += (b - b_l) * cube * (3 - d - 3 * k * k);",
        "spread += b * cube * (3 - d - 3 * k * k);",
        ("tests/ops/test_adaptive_score.py", *EMULATED),
    ),
    "cpu: the diagonal term of the kernel's gradient sum": Mutation(
        "csrc/cpu/rbf.h",
        "inverse_variance * (sum * point[c] - out[c])",
        "inverse_variance * (point[c] - out[c])",
        ("tests/ops/test_rbf_gradient_sum.py",),
    ),
    "common: the half decade of the search over lambda": Mutation(
        "csrc/common/lambda_search.h",
        "return (at + (to_smaller ? smaller : larger)) / 2;",
        "return (at + (to_smaller ? larger : smaller)) / 2;",
        ("tests/emulator/test_emulated_paths.py", "-k", "lambda"),
    ),
    "common: the number of samples in the rule of SSGE's rank": Mutation(
        "csrc/common/ssge.h",
        "rank.target_ = threshold * count;",
        "rank.target_ = threshold;",
        ("tests/ops/test_ssge.py",),
    ),
    "python: the joint term of the mutual information": Mutation(
        "mige_ext/_gradients.py",
        "    value, gradient_x, gradient_z = (-part for part in _joint_and_gradients"
        "(estimator, x, z, u, v))\n    if needs_x:",
        "    value, gradient_x, gradient_z = (0 * part for part in _joint_and_gradients"
        "(estimator, x, z, u, v))\n    if needs_x:",
        ("tests/information/test_information.py",),
    ),
    "python: the mean in Stein's sum": Mutation(
        "mige_ext/scores/base.py",
        "(samples / 2 - half_mean)",
        "(samples / 2)",
        ("tests/scores/test_base.py",),
    ),
    "python: the weight of a rank": Mutation(
        "mige_ext/distributed.py",
        "return scores * batch.weight",
        "return scores",
        ("tests/information/test_distributed.py",),
    ),
    "python: the scale of a projection": Mutation(
        "mige_ext/projection.py",
        "math.sqrt(d / k) * r",
        "math.sqrt(k / d) * r",
        ("tests/information/test_projection.py",),
    ),
}


def run(command: list[str], tree: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in the tree."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "MIGE_CUDA": "off"}
    return subprocess.run(
        command, cwd=tree, env=environment, capture_output=True, text=True, check=False
    )


def copy(tree: Path) -> None:
    """Copy the files that git tracks, and the compiled libraries, into an empty folder."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    names = listed.stdout.decode().rstrip("\0").split("\0")
    for name in [*names, *LIBRARIES.values()]:
        if not (ROOT / name).exists():
            sys.exit(f"{name} is missing; run `make test` first")
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tree / name)


def libraries(path: str) -> list[str]:
    """The libraries that contain a source file."""
    of_cpu, of_cuda, of_both = "csrc/cpu", "csrc/cuda", "csrc/common"
    chosen = {"package": (of_cpu, of_both), "emulator": (of_cuda, of_both)}
    return [name for name, folders in chosen.items() if path.startswith(folders)]


def build(tree: Path, library: str) -> None:
    """Build a library in the tree, in a folder that is kept, so that only changed files compile."""
    python = sys.executable
    commands = [[python, "setup.py", "--quiet", "build_ext", "--inplace"]]
    if library == "emulator":
        cmake, folder = str(Path(python).with_name("cmake")), str(tree / "build" / "emulator")
        commands = [
            [cmake, "-S", str(tree / "tests" / "emulator"), "-B", folder, "-G", "Ninja",
             f"-DPython_EXECUTABLE={python}"],
            [cmake, "--build", folder, "--target", "plain"],
        ]  # fmt: skip
    for command in commands:
        if (done := run(command, tree)).returncode:
            sys.exit(f"failed: {' '.join(command)}\n{done.stdout}{done.stderr}")


def first_failure(tree: Path, *options: str) -> str:
    """The first test that fails, or "" if all pass."""
    done = run([sys.executable, "-m", "pytest", "-x", *options], tree)
    if done.returncode not in (0, 1):
        sys.exit(f"pytest did not run the tests\n{done.stdout}{done.stderr}")
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return failed[0].partition("::")[2].partition(" - ")[0] if done.returncode else ""


def verdict(tree: Path, mutation: Mutation, thorough: bool) -> tuple[str, str]:
    """The tier that detects a mutation ("make test", "make check" or "none"), and its test."""
    file = tree / mutation.path
    text = file.read_text()
    if text.count(mutation.old) != 1:
        sys.exit(f"{mutation.path} must contain once: {mutation.old}")
    file.write_text(text.replace(mutation.old, mutation.new))
    try:
        for library in libraries(mutation.path):
            build(tree, library)
        for tier, options in {"make test": (), "make check": ("--all",)}.items():
            if (tier == "make test" or thorough) and (
                failed := first_failure(tree, *mutation.tests, *options)
            ):
                return tier, failed
        return "none", ""
    finally:
        file.write_text(text)
        for library in libraries(mutation.path):
            shutil.copy(ROOT / LIBRARIES[library], tree / LIBRARIES[library])


def main() -> None:
    """Run the mutations that the command line names, by default all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="Beginnings of mutations' names.")
    parser.add_argument("--all", action="store_true", help="Run the second tier too.")
    options = parser.parse_args()
    chosen = {
        name: mutation
        for name, mutation in MUTATIONS.items()
        if not options.names or name.startswith(tuple(options.names))
    }
    survivors = 0
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        copy(tree)
        for name, mutation in chosen.items():
            started = time.monotonic()
            found, test = verdict(tree, mutation, options.all)
            survivors += found == "none"
            print(f"{name:60} {found:10} {time.monotonic() - started:5.0f} s  {test}", flush=True)
    print(f"{len(chosen) - survivors} of {len(chosen)} mutations were detected.")
    sys.exit(1 if survivors else 0)


if __name__ == "__main__":
    main()
