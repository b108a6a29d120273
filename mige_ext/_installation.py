"""The command ``info``, which prints versions, back ends and the state of CUDA."""

import platform
from pathlib import Path

import torch

import mige_ext
from mige_ext import _C

LEVELS = {1: "baseline", 3: "x86-64-v3 (AVX2)", 4: "x86-64-v4 (AVX-512)"}


def cuda_status() -> str:
    """Whether the operators run on CUDA, and the reason if they do not."""
    if torch.version.cuda is None or (_C.cuda_architectures and not _C.cuda_torch_found):
        return f"no: this torch, {torch.__version__}, is a build without CUDA"
    if not _C.cuda_architectures:
        return "no: built without nvcc (put it on PATH or set CUDACXX, and reinstall)"
    if not torch.cuda.is_available():
        return "no: torch finds no usable GPU or driver"
    return f"yes: {torch.cuda.get_device_name()}"


def info() -> None:
    """Print versions, back ends, architectures, threads, and whether CUDA is available."""
    lines = {
        "mige_ext": mige_ext.__version__,
        "installed in": str(Path(mige_ext.__file__).parent),
        "Python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "torch": f"{torch.__version__} (mige_ext built against {_C.torch_version})",
        "compiler": _C.compiler,
        "CPU kernels": f"{LEVELS[_C.cpu_level]}, {torch.get_num_threads()} threads",
        "CUDA compiled": f"nvcc {_C.cuda_version} for {_C.cuda_architectures}"
        if _C.cuda_architectures
        else "no",
        "CUDA available": cuda_status(),
    }
    width = max(map(len, lines))
    for name, value in lines.items():
        print(f"{name:<{width}}  {value}")
