"""The eigendecomposition by cuSOLVER, with a stand-in for the library (cusolver.cpp)."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support.accuracy import rounding, same_bits
from tests.support.emulated import Emulator
from tests.support.inputs import for_each_dtype, normal

N = 130  # more than 128: the library decomposes the matrix
Results = tuple[Tensor, Tensor, Tensor]


@pytest.fixture(scope="module")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cusolver") / "libcusolver.so"
    source = Path(__file__).with_name("cusolver.cpp")
    subprocess.run(
        ["g++", "-std=c++17", "-O2", "-Wall", "-Wextra", "-shared", "-fPIC", source, "-o", path],
        check=True,
    )
    return path


@pytest.fixture
def eigh(fake: Path) -> Iterator[Callable[..., Results]]:
    """Calls ``eigh_with_info`` in a new process with these environment variables."""
    with pytest.MonkeyPatch.context() as patch:

        def call(k: Tensor, library: str = str(fake), fails: str = "") -> Results:
            patch.setenv("MIGE_CUSOLVER", library)
            patch.setenv("MIGE_FAKE_CUSOLVER", fails)
            with Emulator(os.environ.get("MIGE_EMULATOR", "plain")) as emulator:
                values, vectors, info = emulator.call("eigh_with_info", k.numpy())
            return torch.from_numpy(values), torch.from_numpy(vectors), torch.from_numpy(info)

        yield call


def matrices(dtype: torch.dtype, n: int = N) -> Tensor:
    g = normal(2, n, n, dtype=dtype)
    return torch.stack([g[0] + g[0].mT, 1e-20 * g[1] @ g[1].mT])


@for_each_dtype
def test_the_library_decomposes_large_matrices(
    dtype: torch.dtype, eigh: Callable[..., Results]
) -> None:
    k = matrices(dtype)
    spoiled = k.tril() + 100 * normal(N, N, dtype=dtype).triu(1)  # the lower triangle is read
    values, vectors, info = eigh(spoiled)
    assert info.tolist() == [0, 0]  # the Jacobi kernels give at least one sweep
    exact = torch.linalg.eigvalsh(k.double())
    norm = exact.abs().amax(-1)[:, None, None]
    assert (((values.double() - exact).abs() / norm[..., 0]) <= rounding(dtype, N)).all()
    rebuilt = (vectors * values.unsqueeze(-2)) @ vectors.mT
    assert ((rebuilt - k).abs() <= 2 * rounding(dtype, N) * norm).all()
    overlap = vectors.mT @ vectors - torch.eye(N, dtype=dtype)
    assert overlap.abs().max() <= 2 * rounding(dtype, N)


@for_each_dtype
def test_a_matrix_that_is_not_finite_or_does_not_converge_is_nan(
    dtype: torch.dtype, eigh: Callable[..., Results]
) -> None:
    k = matrices(dtype)[[0, 1, 0]]
    expected = eigh(k)
    k[0, 7, 3] = np.nan
    values, vectors, info = eigh(k, fails="info")
    assert info.tolist() == [-1, -2, 0]
    assert values[:2].isnan().all() and vectors[:2].isnan().all()
    assert same_bits((values[2], vectors[2]), (expected[0][2], expected[1][2]))


def test_small_matrices_and_a_library_that_is_off_use_the_jacobi_kernels(
    eigh: Callable[..., Results],
) -> None:
    assert (eigh(matrices(torch.float32, n=33))[2] >= 1).all()
    diagonal = torch.diag(torch.arange(1.0, N + 1)).unsqueeze(0)  # takes one sweep
    assert eigh(diagonal)[2] == 0
    for library in ("off", ""):
        assert eigh(diagonal, library)[2] == 1


@pytest.mark.parametrize("library", ["/nonexistent/libcusolver.so", "libc.so.6"])
def test_a_library_without_the_functions_is_an_error(
    eigh: Callable[..., Results], library: str
) -> None:
    with pytest.raises(RuntimeError, match="shared object symbol not found"):
        eigh(matrices(torch.float64), library)


@pytest.mark.parametrize(
    ("fails", "message"), [("create", "operation not supported"), ("call", "unknown error")]
)
def test_a_call_that_fails_is_an_error(
    eigh: Callable[..., Results], fails: str, message: str
) -> None:
    with pytest.raises(RuntimeError, match=message):
        eigh(matrices(torch.float64), fails=fails)
