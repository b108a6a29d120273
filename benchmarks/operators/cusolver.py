"""cuSOLVER's batched eigensolver, the library baseline of ``ops.eigh`` on CUDA.

``cusolverDnXsyevBatched`` takes matrices of any size. This file calls it directly, in the version
that CUDA builds of torch load, because PyTorch 2.11 calls a batched routine only for n <= 32, and
CuPy calls the older routine ``syevjBatched``.
"""

import ctypes
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

SONAMES = ("libcusolver.so.12", "libcusolver.so.11")  # CUDA 13, CUDA 12
WITH_VECTORS, LOWER = 1, 0
TYPES = {torch.float32: 0, torch.float64: 1}  # CUDA_R_32F, CUDA_R_64F


def batched_eigh(device: str) -> tuple[str, Callable[[Tensor], tuple[Tensor, Tensor]] | None]:
    """The name and the function of the best batched routine; the reason and None if none works."""
    if device == "cpu":
        return "none on the CPU, where the eager baseline is LAPACK itself", None
    try:
        _check(syev_batched)
        return "cuSOLVER XsyevBatched, called directly", syev_batched
    except (OSError, AttributeError, RuntimeError) as error:
        direct = f"XsyevBatched cannot be called: {error}"
    try:
        _check(cupy_eigh)
        return f"cuSOLVER syevjBatched by CuPy ({direct})", cupy_eigh
    except (ImportError, RuntimeError) as error:
        return (
            f"torch.linalg.eigh with cuSOLVER preferred ({direct}; no CuPy: {error})",
            torch_cusolver_eigh,
        )


def _check(function: Callable[[Tensor], tuple[Tensor, Tensor]]) -> None:
    """Raise a RuntimeError unless the function decomposes a matrix."""
    k = torch.diag(torch.arange(1.0, 6.0, device="cuda")) + 0.5
    values, vectors = function(k.expand(3, 5, 5))
    if (k - vectors * values.unsqueeze(-2) @ vectors.mT).abs().max() > 1e-4:
        raise RuntimeError("the result is no eigendecomposition")


def syev_batched(k: Tensor) -> tuple[Tensor, Tensor]:
    """``cusolverDnXsyevBatched`` on (..., n, n), with its workspace and without a host sync."""
    library, handle, parameters = _solver()
    n = k.shape[-1]
    vectors = k.clone(memory_format=torch.contiguous_format)  # overwritten
    values = k.new_empty(k.shape[:-1])
    batch = values.numel() // n
    dtype = TYPES[k.dtype]
    matrices = (
        handle, parameters, WITH_VECTORS, LOWER, ctypes.c_int64(n),
        dtype, _pointer(vectors), ctypes.c_int64(n), dtype, _pointer(values), dtype,
    )  # fmt: skip
    on_device, on_host = ctypes.c_size_t(), ctypes.c_size_t()
    stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
    _succeed(library.cusolverDnSetStream(handle, stream))
    _succeed(
        library.cusolverDnXsyevBatched_bufferSize(
            *matrices, ctypes.byref(on_device), ctypes.byref(on_host), ctypes.c_int64(batch)
        )
    )
    work = torch.empty(on_device.value, dtype=torch.uint8, device=k.device)
    host_work = torch.empty(on_host.value, dtype=torch.uint8)
    info = torch.empty(batch, dtype=torch.int32, device=k.device)
    _succeed(
        library.cusolverDnXsyevBatched(
            *matrices, _pointer(work), on_device, _pointer(host_work), on_host, _pointer(info),
            ctypes.c_int64(batch),
        )
    )  # fmt: skip
    return values, vectors.mT  # column-major


@lru_cache(maxsize=1)
def _solver() -> tuple[ctypes.CDLL, ctypes.c_void_p, ctypes.c_void_p]:
    """The library, a handle and default parameters, which exist until the process ends."""
    torch.linalg.eigh(torch.eye(2, device="cuda"))  # makes torch load the library
    for name in SONAMES:
        try:
            library = ctypes.CDLL(name)
            break
        except OSError:
            continue
    else:
        raise OSError(f"none of {', '.join(SONAMES)} found")
    handle, parameters = ctypes.c_void_p(), ctypes.c_void_p()
    _succeed(library.cusolverDnCreate(ctypes.byref(handle)))
    _succeed(library.cusolverDnCreateParams(ctypes.byref(parameters)))
    return library, handle, parameters


def _pointer(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def _succeed(status: int) -> None:
    if status != 0:
        raise RuntimeError(f"cuSOLVER returned status {status}")


def cupy_eigh(k: Tensor) -> tuple[Tensor, Tensor]:
    """``cupy.linalg.eigh`` on torch's stream, without copies."""
    import cupy

    with cupy.cuda.ExternalStream(torch.cuda.current_stream().cuda_stream):
        values, vectors = cupy.linalg.eigh(cupy.from_dlpack(k))
    return from_dlpack(values), from_dlpack(vectors)


def torch_cusolver_eigh(k: Tensor) -> tuple[Tensor, Tensor]:
    """``torch.linalg.eigh`` with cuSOLVER as the preferred library."""
    before = torch.backends.cuda.preferred_linalg_library()
    torch.backends.cuda.preferred_linalg_library("cusolver")
    try:
        values, vectors = torch.linalg.eigh(k)
    finally:
        torch.backends.cuda.preferred_linalg_library(before)
    return values, vectors
