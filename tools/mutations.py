"""Breaks the library in ten places, one after another, and reports which tier of tests fails.

    python tools/mutations.py [--all] [NAME ...]

Each mutation removes a barrier, swaps an index or drops a term in a copy of the tree. If necessary,
the copy is built again. Its tests run until the first failure. With ``--all``, the second tier
(`make check`) runs for each mutation that the first tier (`make test`) does not detect. The exit
status is 1 if no tier that ran detected a mutation. All mutations take about half an hour on two
cores.
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
    """A text that occurs once in a source file, and the text that replaces it."""

    path: str
    old: str
    new: str


MUTATIONS = {
    "cuda: a barrier of the Cholesky factorization": Mutation(
        "csrc/cuda/linalg/cholesky.cuh",
        "    Team::sync();\n    for (int j = k + 1 + warp; j < n; j += warps) {",
        "    for (int j = k + 1 + warp; j < n; j += warps) {",
    ),
    "cuda: an index of the products": Mutation(
        "csrc/cuda/linalg/tile.cuh",
        "static_cast<Sum>(a[i]) * static_cast<Sum>(b[j])",
        "static_cast<Sum>(a[j]) * static_cast<Sum>(b[j])",
    ),
    "cuda: a term of the adaptive score's risk": Mutation(
        "csrc/cuda/adaptive/risk.cuh",
        "spread += (b - b_l) * cube * (3 - d - 3 * k * k);",
        "spread += b * cube * (3 - d - 3 * k * k);",
    ),
    "cpu: the diagonal term of the kernel's gradient sum": Mutation(
        "csrc/cpu/rbf.h",
        "inverse_variance * (sum * point[c] - out[c])",
        "inverse_variance * (point[c] - out[c])",
    ),
    "common: the half decade of the search over lambda": Mutation(
        "csrc/common/lambda_search.h",
        "return (at + (to_smaller ? smaller : larger)) / 2;",
        "return (at + (to_smaller ? larger : smaller)) / 2;",
    ),
    "common: the number of samples in the rule of SSGE's rank": Mutation(
        "csrc/common/ssge.h", "rank.target_ = threshold * count;", "rank.target_ = threshold;"
    ),
    "python: the joint term of the mutual information": Mutation(
        "mige_ext/information.py",
        "    value, gradient_x, gradient_z = (-part for part in _joint_and_gradients"
        "(estimator, x, z))\n    if needs_x:",
        "    value, gradient_x, gradient_z = (0 * part for part in _joint_and_gradients"
        "(estimator, x, z))\n    if needs_x:",
    ),
    "python: the mean in Stein's sum": Mutation(
        "mige_ext/scores/base.py", "(samples / 2 - half_mean)", "(samples / 2)"
    ),
    "python: the weight of a rank": Mutation(
        "mige_ext/distributed.py", "return scores * batch.weight", "return scores"
    ),
    "python: the scale of a projection": Mutation(
        "mige_ext/projection.py", "math.sqrt(d / k) * r", "math.sqrt(k / d) * r"
    ),
}


def run(command: list[str], tree: Path) -> bool:
    """Runs a command in the tree, and returns whether it succeeds."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "MIGE_CUDA": "off"}
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, check=False)
    return done.returncode == 0


def copy(tree: Path) -> None:
    """Copies the files that git tracks into an empty folder and builds them."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    for name in listed.stdout.decode().rstrip("\0").split("\0"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tree / name)
    build(tree, "csrc/common", "plain", "faults")


def build(tree: Path, path: str, *targets: str) -> None:
    """Builds the library or targets of the emulator, if the changed file belongs to one of them."""
    python = sys.executable
    emulator = str(tree / "build" / "emulator")
    commands: list[list[str]] = []
    if path.startswith(("csrc/cpu", "csrc/common", "csrc/bind")):
        commands.append([python, "setup.py", "--quiet", "build_ext", "--inplace"])
    if path.startswith(("csrc/cuda", "csrc/common")):
        cmake = str(Path(python).with_name("cmake"))
        commands.append([cmake, "-S", str(tree / "tests" / "emulator"), "-B", emulator])
        commands[-1] += ["-G", "Ninja", f"-DPython_EXECUTABLE={python}"]
        commands += [
            [cmake, "--build", emulator, "--target", target] for target in targets or ("plain",)
        ]
    for command in commands:
        if not run(command, tree):
            sys.exit(f"failed: {' '.join(command)}")


def tests(tree: Path, *options: str) -> bool:
    """Runs the tests of a tier, and returns whether all pass."""
    return run([sys.executable, "-m", "pytest", "-x", "-n", "2", *options], tree)


def verdict(tree: Path, mutation: Mutation, thorough: bool) -> str:
    """The tier that detects a mutation: "make test", "make check" or "none"."""
    file = tree / mutation.path
    text = file.read_text()
    if text.count(mutation.old) != 1:
        sys.exit(f"{mutation.path} must contain once: {mutation.old}")
    file.write_text(text.replace(mutation.old, mutation.new))
    try:
        build(tree, mutation.path)
        if not tests(tree):
            return "make test"
        return "make check" if thorough and not tests(tree, "--all") else "none"
    finally:
        file.write_text(text)


def main() -> None:
    """Runs the mutations that were named, by default all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="Beginnings of names to run.")
    parser.add_argument("--all", action="store_true", help="Try the second tier too.")
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
            found = verdict(tree, mutation, options.all)
            survivors += found == "none"
            print(f"{name:60} {found:10} {time.monotonic() - started:5.0f} s", flush=True)
            build(tree, mutation.path)  # builds the original again
    print(f"{len(chosen) - survivors} of {len(chosen)} mutations were noticed.")
    sys.exit(1 if survivors else 0)


if __name__ == "__main__":
    main()
