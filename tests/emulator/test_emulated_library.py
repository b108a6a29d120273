"""The eigendecomposition by cuSOLVER, with a stand-in for the library (cusolver.cpp)."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support.accuracy import assert_ssge_accurate, rounding, same_bits
from tests.support.emulated import Emulator
from tests.support.inputs import for_each_dtype, normal

N = 130  # more than 128: the library decomposes the matrix
Results = tuple[Tensor, ...]


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
def run(fake: Path) -> Iterator[Callable[..., Results]]:
    """Calls a function of the emulator in a new process with these environment variables."""
    with pytest.MonkeyPatch.context() as patch:

        def call(name: str, *args: Any, library: str = str(fake), fails: str = "") -> Results:
            patch.setenv("MIGE_CUSOLVER", library)
            patch.setenv("MIGE_FAKE_CUSOLVER", fails)
            arrays = [a.numpy() if isinstance(a, Tensor) else a for a in args]
            with Emulator(os.environ.get("MIGE_EMULATOR", "plain")) as emulator:
                return tuple(map(torch.from_numpy, emulator.call(name, *arrays)))

        yield call


@pytest.fixture
def eigh(run: Callable[..., Results]) -> Callable[..., Results]:
    """(values, vectors, info) of matrices."""

    def call(k: Tensor, library: str | None = None, fails: str = "") -> Results:
        chosen = {} if library is None else {"library": library}
        return run("eigh_with_info", k, fails=fails, **chosen)

    return call


@pytest.fixture
def ssge(run: Callable[..., Results]) -> Callable[..., Results]:
    """(score, eigenvalues, bandwidth, J) of samples, with the threshold .9."""

    def call(
        x: Tensor, bandwidth: Tensor | None = None, power: int = 1, **settings: str
    ) -> Results:
        return run("ssge", x, bandwidth, 0.5, 1.0, 0.9, None, power, **settings)

    return call


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


@pytest.mark.parametrize("power", [1, 2])
@for_each_dtype
def test_a_score_of_a_large_group_takes_the_library(
    dtype: torch.dtype, power: int, ssge: Callable[..., Results]
) -> None:
    x = torch.stack([normal(N, 17, dtype=dtype), 1e3 + normal(N, 17, dtype=dtype, seed=1)])
    scores, values, sigma, rank = ssge(x, power=power)
    by_jacobi = ssge(x[:1], power=power, library="off")  # takes seconds for each group
    assert torch.equal(sigma[:1], by_jacobi[2]) and torch.equal(rank[:1], by_jacobi[3])
    assert not torch.equal(values[:1], by_jacobi[1])
    for g in range(2):
        assert_ssge_accurate(scores[g], x[g], sigma[g], int(rank[g]), power)


def test_a_score_of_a_small_group_does_not_take_the_library(ssge: Callable[..., Results]) -> None:
    assert ssge(normal(128, 3), fails="call")[0].isfinite().all()
    with pytest.raises(RuntimeError, match="unknown error"):
        ssge(normal(129, 3), fails="call")


@for_each_dtype
def test_a_group_that_the_library_cannot_decompose_has_a_score_of_nan(
    dtype: torch.dtype, ssge: Callable[..., Results]
) -> None:
    x = normal(5, N, 3, dtype=dtype)
    x[3] = x[3, :1]  # equal samples have a score of 0
    sigma = torch.tensor([1.5, 1.5, 1.5, 0, np.nan], dtype=dtype)
    expected = ssge(x[:1]), ssge(x[:1], sigma[:1])
    x[2, 7, 1] = np.inf
    # The stand-in refuses matrices that are not finite, so the call fails if it gets one.
    for got, right in zip(
        (ssge(x, fails="info"), ssge(x, sigma, fails="info")), expected, strict=True
    ):
        assert same_bits(tuple(t[0] for t in got), tuple(t[0] for t in right))
        assert got[0][1:3].isnan().all() and got[1][1:3].isnan().all()
    assert not ssge(x)[0][3].any() and ssge(x)[3][3] == 0
    assert ssge(x, sigma)[0][3:].isnan().all()
