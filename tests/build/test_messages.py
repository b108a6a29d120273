"""Messages of builds that cannot work: one clear sentence, without a traceback."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.process import ROOT

CMAKE = Path(sys.executable).parent / "cmake"
needs_cmake = pytest.mark.skipif(
    not CMAKE.exists(), reason="this Python has no cmake of its own beside it"
)
needs_nvcc = pytest.mark.skipif(
    shutil.which("nvcc") is None, reason="needs nvcc: there is none on PATH"
)

#: Runs setup.py after a line that imitates another environment.
SETUP = "import runpy, sys; sys.argv = ['setup.py', '--version']; {}; runpy.run_path('setup.py')"


def said_by_setup(imitation: str) -> str:
    """The last lines that setup.py prints when it fails."""
    result = subprocess.run(
        [sys.executable, "-c", SETUP.format(imitation)], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 1
    assert "Traceback" not in result.stderr, result.stderr
    return result.stderr


def configure(folder: Path, *options: str, **environment: str) -> str:
    """The output of CMake when it configures the build in an empty folder."""
    command = [str(CMAKE), "-S", str(ROOT), "-B", str(folder / "build"), "-G", "Ninja"]
    command += [f"-DPython_EXECUTABLE={sys.executable}", *options]
    variables = {k: v for k, v in os.environ.items() if k not in ("CUDACXX", "CXX")}
    result = subprocess.run(
        command, capture_output=True, text=True, env={**variables, **environment}
    )
    return f"rc {result.returncode}\n" + " ".join((result.stdout + result.stderr).split())


def folder_of_torch(folder: Path, version: str, cuda: str | None) -> str:
    """A folder with a package torch that has only its version."""
    package = folder / "packages" / "torch"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "version.py").write_text(f"__version__ = {version!r}\ncuda = {cuda!r}\n")
    return str(package.parent)


def program(path: Path, script: str) -> Path:
    """A shell script that replaces a program."""
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("imitation", "expected"),
    [
        (
            "import setuptools.command.build_ext; sys.platform = 'darwin'",
            "builds on Linux only, and this is darwin",
        ),
        ("import setuptools; setuptools.__version__ = '68.2'", "needs setuptools 77 or newer"),
        (
            "import importlib.util as u; found = u.find_spec; "
            "u.find_spec = lambda name: None if name == 'torch' else found(name)",
            "pip install --no-build-isolation .",
        ),
    ],
    ids=["macOS", "old setuptools", "no torch"],
)
def test_setup_stops_with_one_message(imitation: str, expected: str) -> None:
    assert expected in said_by_setup(imitation)


@needs_cmake
@pytest.mark.thorough
def test_cuda_is_left_out_where_torch_has_none_and_says_so(tmp_path: Path) -> None:
    said = configure(tmp_path, PYTHONPATH=folder_of_torch(tmp_path, "2.13.0+cpu", None))
    assert "without CUDA kernels (torch 2.13.0+cpu is a build without CUDA" in said


@needs_cmake
@pytest.mark.thorough
@pytest.mark.parametrize(
    ("options", "environment", "expected"),
    [
        (
            ["-DMIGE_CUDA=on"],
            {"CUDACXX": "/nowhere/nvcc"},
            "MIGE_CUDA=on, but no CUDA compiler works; put nvcc 12.8 or newer on PATH",
        ),
        (
            ["-DMIGE_CUDA=off"],
            {"CXX": "/nowhere/c++"},
            "No C++ compiler was found. On Debian and Ubuntu: apt-get install g++",
        ),
        (
            ["-DMIGE_CUDA=off", "-DPython_INCLUDE_DIR=/nowhere"],
            {},
            "The headers of Python (Python.h) were not found",
        ),
    ],
    ids=["nvcc", "C++", "Python.h"],
)
def test_what_the_build_lacks_is_named(
    tmp_path: Path, options: list[str], environment: dict[str, str], expected: str
) -> None:
    said = configure(tmp_path, *options, **environment)
    assert said.startswith("rc 1")
    assert expected in said


@needs_cmake
@pytest.mark.thorough
def test_a_torch_that_is_too_old_is_named(tmp_path: Path) -> None:
    old = folder_of_torch(tmp_path, "2.9.1", "13.0")
    said = configure(tmp_path, "-DMIGE_CUDA=off", PYTHONPATH=old)
    assert "mige_ext needs torch 2.11 or newer, got 2.9.1" in said


@needs_cmake
@needs_nvcc
@pytest.mark.thorough
@pytest.mark.parametrize(
    ("of_gpus", "expected"),
    [
        ("9.0\\n9.0\\n8.6\\n", "for compute capability 86, 90"),
        ("7.5\\n8.6\\n", "for compute capability 86"),
        ("99.0\\n", "for compute capability 80"),  # unknown to nvcc: the PTX
        ("7.5\\n", "of this machine have compute capability 7.5, and 8.0 or newer is needed"),
    ],
)
def test_the_kernels_are_compiled_for_the_gpus_of_the_machine(
    tmp_path: Path, of_gpus: str, expected: str
) -> None:
    program(tmp_path / "nvidia-smi", f"printf '{of_gpus}'")
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    assert expected in configure(tmp_path, "-DMIGE_CUDA=on", PATH=path)


@needs_cmake
@needs_nvcc
@pytest.mark.thorough
@pytest.mark.parametrize("architectures", ["75", "80;75", "9.0"])
def test_architectures_without_enough_shared_memory_are_refused(
    tmp_path: Path, architectures: str
) -> None:
    said = configure(tmp_path, "-DMIGE_CUDA=on", f"-DMIGE_CUDA_ARCHITECTURES={architectures}")
    assert f"capabilities of 80 or more such as 80;90, got {architectures}" in said


@needs_cmake
@needs_nvcc
@pytest.mark.thorough
def test_an_nvcc_newer_than_the_cuda_of_torch_gives_a_warning(tmp_path: Path) -> None:
    torch_of_cuda_11 = folder_of_torch(tmp_path, "2.13.0", "11.8")
    said = configure(tmp_path, "-DMIGE_CUDA=on", PYTHONPATH=torch_of_cuda_11)
    assert "is newer than the CUDA 11.8 of torch" in said


#: Runs setup.py so that it builds into a folder, after a line that imitates another environment.
BUILD = (
    "import runpy, sys; sys.argv = ['setup.py', '-q', 'build_ext', '--build-lib', {!r}]; {}; "
    "runpy.run_path('setup.py')"
)


def build(
    folder: Path, imitation: str = "pass", **variables: str
) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "MAX_JOBS"} | variables
    return subprocess.run(
        [sys.executable, "-c", BUILD.format(str(folder), imitation)],
        cwd=ROOT, env=environment, capture_output=True, text=True,
    )  # fmt: skip


@pytest.mark.parametrize("variable", ["MAX_JOBS", "CMAKE_BUILD_PARALLEL_LEVEL"])
def test_the_number_of_jobs_reaches_the_build(tmp_path: Path, variable: str) -> None:
    program(tmp_path / "cmake", f'echo "$@" >> {tmp_path}/calls')
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    result = build(tmp_path, PATH=path, **{variable: "7"})
    assert result.returncode == 0, result.stderr
    configured, built = (tmp_path / "calls").read_text().splitlines()
    assert "-DMIGE_CUDA=auto" in configured or "MIGE_CUDA" in os.environ
    assert built.endswith("--parallel 7")


def test_cmake_beside_python_is_found_where_the_environment_is_not_activated(
    tmp_path: Path,
) -> None:
    for name in ("cmake", "ninja"):
        program(tmp_path / name, f'echo "$@" >> {tmp_path}/calls')
    result = build(tmp_path, f"sys.executable = '{tmp_path}/python'", PATH="/nowhere")
    assert result.returncode == 0, result.stderr
    assert "--build" in (tmp_path / "calls").read_text()


def test_a_build_without_cmake_says_what_to_install(tmp_path: Path) -> None:
    result = build(tmp_path, f"sys.executable = '{tmp_path}/python'", PATH="/nowhere")
    assert result.returncode == 1
    assert "cmake and ninja could not be found" in result.stderr
    assert "pip install torch numpy cmake ninja" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_compilation_that_fails_ends_without_a_traceback(tmp_path: Path) -> None:
    program(tmp_path / "cmake", 'test "$1" != --build')
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    result = build(tmp_path, PATH=path)
    assert result.returncode == 1
    assert result.stderr.startswith("mige_ext could not be compiled. The compiler's message is")
    assert "Traceback" not in result.stderr
