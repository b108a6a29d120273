"""The build by pip, which calls CMake. Metadata is in pyproject.toml."""

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import setuptools
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
BUILD = ROOT / "build" / "cmake"

#: Environment variables that become options of the build, with their defaults.
VARIABLES = {"MIGE_CUDA": "auto", "MIGE_CUDA_ARCHITECTURES": "auto", "MIGE_STRICT": "off"}

INSTALL = """
    pip install torch numpy cmake ninja 'setuptools>=77'
    pip install --no-build-isolation .
"""


def check_environment() -> None:
    """Exit with a message if the build cannot work."""
    if sys.platform != "linux":
        sys.exit(f"mige_ext builds on Linux only, and this is {sys.platform}.")
    if int(setuptools.__version__.split(".")[0]) < 77:
        sys.exit(f"mige_ext needs setuptools 77 or newer, got {setuptools.__version__}.")
    if find_spec("torch") is None:
        sys.exit(
            "mige_ext is compiled against your torch, but this build environment has no torch. "
            "(Without --no-build-isolation, pip builds in a separate environment.) "
            f"Install mige_ext with\n{INSTALL}"
        )


class CMakeBuild(build_ext):
    """The build in build/cmake. CONTRIBUTING.md lists the variables."""

    def build_extension(self, ext: Extension) -> None:
        """Configure and build the extension."""
        # pip installs cmake and ninja beside Python, in a folder that may not be on PATH.
        path = [os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)]
        os.environ["PATH"] = os.pathsep.join(path)
        programs = {"cmake": ("cmake",), "ninja": ("ninja", "ninja-build", "samu")}  # as for CMake
        missing = [name for name, of in programs.items() if not any(map(shutil.which, of))]
        if missing:
            sys.exit(
                f"mige_ext is built by cmake and ninja, and {' and '.join(missing)} "
                f"could not be found. Install mige_ext with\n{INSTALL}"
            )
        output = Path(self.get_ext_fullpath(ext.name)).resolve().parent
        command = ["cmake", "-S", str(ROOT), "-B", str(BUILD), "-G", "Ninja"]
        command += [f"-DPython_EXECUTABLE={sys.executable}", f"-DMIGE_OUTPUT_DIRECTORY={output}"]
        for variable, default in VARIABLES.items():
            command += [f"-D{variable}={os.environ.get(variable, default)}"]
        self._configure(command)
        jobs = os.environ.get("MAX_JOBS") or os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL")
        parallel = ["--parallel", jobs] if jobs else []
        if subprocess.run(["cmake", "--build", str(BUILD), *parallel], check=False).returncode:
            sys.exit("mige_ext could not be compiled. The compiler's message is above.")

    def _configure(self, command: list[str]) -> None:
        """Run CMake. On failure, print only the error messages of its output."""
        result = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        log = BUILD / "configure.log"
        BUILD.mkdir(parents=True, exist_ok=True)
        log.write_text(result.stdout)
        if result.returncode == 0:
            print("\n".join(re.findall(r"^-- (mige_ext: .*)$", result.stdout, re.MULTILINE)))
            return
        errors = re.findall(r"^CMake Error.*?:\n(.*?)\n\n", result.stdout, re.MULTILINE | re.DOTALL)
        text = "\n".join(" ".join(error.split()) for error in errors) or result.stdout
        sys.exit(f"mige_ext could not be configured.\n{text}\nThe output of CMake is in {log}.")


check_environment()
setup(
    ext_modules=[Extension("mige_ext._C", sources=[], py_limited_api=True)],
    cmdclass={"build_ext": CMakeBuild},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
