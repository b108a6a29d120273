"""Builds mige_ext._C with CMake. Metadata is in pyproject.toml, the build in CMakeLists.txt."""

import os
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


class CMakeBuild(build_ext):
    """Configures and builds in build/cmake; MIGE_CUDA = auto | on | off."""

    def build_extension(self, ext: Extension) -> None:
        """Configures and builds the one target."""
        output = Path(self.get_ext_fullpath(ext.name)).resolve().parent
        build = ROOT / "build" / "cmake"
        configure = ["cmake", "-S", str(ROOT), "-B", str(build), "-G", "Ninja"]
        configure += [f"-DPython_EXECUTABLE={sys.executable}", f"-DMIGE_OUTPUT_DIRECTORY={output}"]
        configure += [f"-DMIGE_CUDA={os.environ.get('MIGE_CUDA', 'auto')}"]
        subprocess.run(configure, check=True)
        subprocess.run(["cmake", "--build", str(build)], check=True)


setup(
    ext_modules=[Extension("mige_ext._C", sources=[], py_limited_api=True)],
    cmdclass={"build_ext": CMakeBuild},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
