"""The symmetric eigendecomposition."""

import pytest
import torch
from torch import Tensor

from mige_ext import ops, reference
from tests.ops.sizes import bandwidth
from tests.support.accuracy import assert_accurate, assert_eigenpairs_rounded, same_bits
from tests.support.backends import Backend, for_each_backend, for_each_kernel
from tests.support.inputs import for_each_dtype, normal


@pytest.mark.parametrize("kind", ["gram", "indefinite", "identity", "rank one"])
@pytest.mark.parametrize("m", [1, 2, 31, 33, 65, 130])
@for_each_dtype
@for_each_backend("eigh")
def test_eigendecomposition_is_as_good_as_torchs(
    backend: Backend, dtype: torch.dtype, m: int, kind: str
) -> None:
    x = normal(m, 4, dtype=dtype)
    g = normal(m, m, dtype=dtype, seed=1)
    matrices = {
        "gram": reference.rbf_gram(x, bandwidth=bandwidth(x)),
        "indefinite": g + g.mT,
        "identity": torch.eye(m, dtype=dtype),
        "rank one": x[:, :1] @ x[:, :1].mT,
    }
    k = matrices[kind]
    values, vectors = backend.eigh(k)
    torch_values, torch_vectors = torch.linalg.eigh(k)
    norm = torch.linalg.matrix_norm(k.double(), 2)
    assert (values.diff() >= 0).all()
    # Weyl's inequality: eigenvalues change by at most the norm of the rounding errors of the
    # matrix.
    exact = torch.linalg.eigvalsh(k.double())
    assert_accurate(values, torch_values, exact, terms=m, magnitude=norm)

    def residual(values: Tensor, vectors: Tensor) -> Tensor:
        return (vectors * values.unsqueeze(-2)) @ vectors.mT - k

    def overlap(vectors: Tensor) -> Tensor:
        return vectors.mT @ vectors - torch.eye(m, dtype=dtype)

    zero = torch.zeros(m, m, dtype=torch.float64)
    rebuilt = residual(values, vectors), residual(torch_values, torch_vectors)
    assert_accurate(*rebuilt, zero, terms=m, magnitude=norm)
    unit = torch.ones(())
    assert_accurate(overlap(vectors), overlap(torch_vectors), zero, terms=m, magnitude=unit)


@pytest.mark.parametrize("varying", [0, 1, 5, 16])
@pytest.mark.parametrize("m", [40, 130])
@for_each_dtype
@for_each_backend("eigh")
def test_rows_of_constant_columns_are_eigenpairs(
    backend: Backend, dtype: torch.dtype, m: int, varying: int
) -> None:
    # LAPACK in MKL fails for many of these matrices in float32.
    for seed in range(4):
        x = normal(200, m, dtype=dtype, seed=seed)
        x[:, torch.randperm(m, generator=torch.Generator().manual_seed(seed))[varying:]] = 0
        k = x.mT @ x / 200
        values, vectors = backend.eigh(k)
        exact = torch.linalg.eigvalsh(k.double())
        limit = 1e2 * torch.finfo(dtype).eps * max(1.0, float(exact[-1]))
        assert (values.diff() >= 0).all()
        assert (values - exact).abs().max() < limit
        assert ((vectors * values) @ vectors.mT - k).abs().max() < limit
        assert (vectors.mT @ vectors - torch.eye(m)).abs().max() < limit


@for_each_dtype
@for_each_backend("eigh")
def test_eigendecomposition_reads_the_lower_triangle_alone(
    backend: Backend, dtype: torch.dtype
) -> None:
    x = normal(40, 4, dtype=dtype)
    k = reference.rbf_gram(x, bandwidth=bandwidth(x))
    spoiled = k.tril() + 100 * normal(40, 40, dtype=dtype).triu(1)
    assert same_bits(backend.eigh(spoiled), backend.eigh(k))


def graded(n: int) -> Tensor:
    return 10 ** -torch.linspace(0, 8, n, dtype=torch.float64)


def with_spectrum(values: Tensor) -> Tensor:
    """A float32 matrix with about these eigenvalues and random eigenvectors."""
    n = len(values)
    q = torch.linalg.qr(normal(n, n, seed=n))[0]
    return ((q * values) @ q.mT).float()


@pytest.mark.parametrize(
    "kind", ["gram, d = 2", "gram, d = 8", "gram, d = 64", "indefinite", "rank one", "graded"]
)
@pytest.mark.parametrize("n", [2, 8, 32, 33, 104])
@for_each_kernel("eigh")
def test_float32_eigenpairs_are_accurate_to_rounding(backend: Backend, n: int, kind: str) -> None:
    if kind.startswith("gram"):
        x = normal(n, int(kind.split()[-1]), dtype=torch.float32)
        k = reference.rbf_gram(x, bandwidth=bandwidth(x))
    elif kind == "indefinite":
        g = normal(n, n, dtype=torch.float32)
        k = g + g.mT
    elif kind == "rank one":
        v = normal(n, 1, dtype=torch.float32)
        k = v @ v.mT
    else:
        k = with_spectrum(graded(n))
    assert_eigenpairs_rounded(k, *backend.eigh(k))


@pytest.mark.parametrize("kind", ["cluster", "pairs", "graded with both signs"])
@pytest.mark.parametrize("n", [8, 32, 65])
@for_each_kernel("eigh")
def test_close_eigenvalues_are_as_accurate_as_the_residual(
    backend: Backend, n: int, kind: str
) -> None:
    """The solver mixes the vectors of eigenvalues that are closer than its rounding errors."""
    spectra = {
        "cluster": 1 + 1e-6 * normal(n),
        "pairs": torch.linspace(0.1, 1, n, dtype=torch.float64)[torch.arange(n) // 2],
        "graded with both signs": (-1.0) ** torch.arange(n) * graded(n),
    }
    k = with_spectrum(spectra[kind])
    assert_eigenpairs_rounded(k, *backend.eigh(k), close=True)


def test_an_eigenvalue_beyond_the_largest_number_is_saturated() -> None:
    for dtype, value in ((torch.float64, 1.7e308), (torch.float32, 3e38)):
        values, vectors = ops.eigh(torch.full((3, 3), value, dtype=dtype))
        assert values[-1] == torch.finfo(dtype).max
        assert vectors.isfinite().all()


def test_an_error_in_a_batch_keeps_its_type() -> None:
    # The matrices of squared distances do not fit into memory.
    with pytest.raises(MemoryError):
        ops.distance_quantile(torch.zeros(2, 2**24, 1))
