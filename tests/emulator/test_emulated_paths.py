"""Paths of the CUDA kernels that the conformance suite does not cover, in the emulator.

The size of a matrix and the device's shared memory choose between kernels. Input that is not finite
raises an error on the CPU. A CUDA kernel cannot raise an error, so it returns NaN.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import Tensor

from mige_ext import reference
from tests.support.accuracy import (
    assert_eigenpairs_rounded,
    assert_ssge_accurate,
    rounding,
    same_bits,
)
from tests.support.backends import Emulated
from tests.support.cases import CASES, Case, for_each_case
from tests.support.emulated import SCHEDULES
from tests.support.inputs import for_each_dtype, normal

BACKEND = Emulated()
SMALL_DEVICE = 99 * 1024  # bytes of shared memory for a block: compute capability 12.0
MEDIUM_DEVICE = 163 * 1024  # compute capability 8.0
# A group of so many samples is too large for the kernel that computes the whole SSGE score in one
# launch (ONE_BLOCK in float64: on the medium device). A block decomposes a Gram matrix of ONE_BLOCK
# samples alone. On the small device, many blocks decompose one of MANY_BLOCKS samples.
ONE_BLOCK = {torch.float32: 144, torch.float64: 128}
MANY_BLOCKS = {torch.float32: 161, torch.float64: 129}


@contextmanager
def shared_memory(size: int) -> Iterator[None]:
    """Emulates a device with this many bytes of shared memory for a block."""
    BACKEND.settings("set_device", size)
    try:
        yield
    finally:
        BACKEND.settings("set_device")


def matrices(n: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Symmetric matrices of several kinds. Some have elements far from 1."""
    x, g = normal(n, 3, dtype=dtype), normal(n, n, dtype=dtype, seed=1)
    return {
        "gram": reference.rbf_gram(x, bandwidth=torch.tensor(1.5, dtype=dtype)),
        "indefinite": 2.0**20 * (g + g.mT),
        "rank one": 2.0**-20 * x[:, :1] @ x[:, :1].mT,
        "identity": torch.eye(n, dtype=dtype),
        "zero": torch.zeros(n, n, dtype=dtype),
    }


@pytest.mark.parametrize("kind", matrices(2, torch.float64))
@for_each_dtype
def test_many_blocks_decompose_a_matrix_as_well_as_one(dtype: torch.dtype, kind: str) -> None:
    n = MANY_BLOCKS[dtype]
    k = matrices(n, dtype)[kind]
    with shared_memory(SMALL_DEVICE):
        values, vectors, info = BACKEND.call("eigh_with_info", k)
    norm = float(torch.linalg.matrix_norm(k.double(), 2))
    exact = torch.linalg.eigvalsh(k.double())
    assert (values.diff() >= 0).all()
    assert (values.double() - exact).abs().max() <= rounding(dtype, n) * norm
    rebuilt = (vectors * values) @ vectors.mT
    assert (rebuilt.double() - k.double()).abs().max() <= 2 * rounding(dtype, n) * norm
    overlap = vectors.mT @ vectors - torch.eye(n, dtype=dtype)
    assert overlap.abs().max() <= 2 * rounding(dtype)
    assert 1 <= int(info) < 15
    if dtype == torch.float32:
        assert_eigenpairs_rounded(k, values, vectors)


@pytest.mark.parametrize("sizes", [ONE_BLOCK, MANY_BLOCKS], ids=["one block", "many blocks"])
def test_a_large_shift_does_not_make_eigenvalues_inaccurate(
    sizes: dict[torch.dtype, int],
) -> None:
    n = sizes[torch.float32]
    k = matrices(n, torch.float32)["indefinite"]
    with shared_memory(SMALL_DEVICE):
        assert_eigenpairs_rounded(k, *BACKEND.eigh(k))


def test_close_eigenvalues_of_a_large_matrix_are_as_accurate_as_the_residual() -> None:
    n = MANY_BLOCKS[torch.float32]
    k = torch.eye(n) + 1e-7 * matrices(n, torch.float32)["indefinite"] / 2.0**20
    with shared_memory(SMALL_DEVICE):
        assert_eigenpairs_rounded(k, *BACKEND.eigh(k), close=True)


def test_few_launches_follow_the_last_sweep() -> None:
    n = MANY_BLOCKS[torch.float32]
    with shared_memory(SMALL_DEVICE):
        BACKEND.read("take_launches")
        BACKEND.eigh(torch.eye(n))
        launches = [types for types, _ in BACKEND.read("take_launches")]
    sweeps = [i for i, types in enumerate(launches) if "LargeArguments<float>, int)" in types]
    assert len(launches) - sweeps[-1] - 1 <= 8


@pytest.mark.thorough
@pytest.mark.parametrize("sizes", [ONE_BLOCK, MANY_BLOCKS], ids=["one block", "many blocks"])
@for_each_dtype
def test_a_score_in_steps_is_the_score_in_one_launch(
    dtype: torch.dtype, sizes: dict[torch.dtype, int]
) -> None:
    m = sizes[dtype]
    x = torch.stack([normal(m, 17, dtype=dtype), 1e3 + normal(m, 17, dtype=dtype, seed=1)])
    large = BACKEND.ssge(x, threshold=0.9, power=2)  # in one launch for m <= 128
    one_block = sizes is ONE_BLOCK
    with shared_memory(MEDIUM_DEVICE if one_block else SMALL_DEVICE):
        BACKEND.read("take_launches")
        steps = BACKEND.ssge(x, threshold=0.9, power=2)
        launches = [types for types, _ in BACKEND.read("take_launches")]
        given = BACKEND.ssge(x, steps[2], threshold=0.9, power=2)
    assert len(launches) > 1
    assert any("LargeArguments" in types for types in launches) != one_block
    assert torch.equal(steps[2], large[2])  # the bandwidth is an order statistic
    assert torch.equal(steps[3], large[3])
    assert same_bits(given, steps)
    for g in range(2):
        assert_ssge_accurate(steps[0][g], x[g], steps[2][g], int(steps[3][g]), 2)


@pytest.mark.parametrize("m", [104, 128, 176, 240])
def test_the_largest_matrix_of_each_number_of_rows_in_registers(m: int) -> None:
    """Each m is the limit of one instance of the kernels. (The conformance tests have m = 64.)"""
    x = normal(m, 2, dtype=torch.float32)  # two columns, so the Gram matrix has a low rank
    out, values, sigma, rank = BACKEND.ssge(x, threshold=0.9)
    k = reference.rbf_gram(x.double(), bandwidth=sigma.double())
    exact = torch.linalg.eigvalsh(k)
    assert (values.double() - exact).abs().max() <= rounding(torch.float32, m) * exact[-1]
    assert_ssge_accurate(out, x, sigma, int(rank), 1)


def test_a_large_matrix_has_the_same_bits_alone_as_in_a_batch() -> None:
    kinds = matrices(MANY_BLOCKS[torch.float64], torch.float64)
    batch = torch.stack([kinds["zero"], kinds["gram"], kinds["identity"]])
    with shared_memory(SMALL_DEVICE):
        together = BACKEND.call("eigh_with_info", batch)
        alone = BACKEND.call("eigh_with_info", batch[1])
    assert together[2][0] == together[2][2] == 1  # the number of sweeps; `gram` takes more
    assert together[2][1] > 2
    assert same_bits(tuple(t[1] for t in together), alone)


@for_each_dtype
def test_equal_samples_have_a_score_of_zero_in_steps_too(dtype: torch.dtype) -> None:
    m = MANY_BLOCKS[dtype]
    x = torch.cat([normal(1, 1, 5, dtype=dtype).expand(1, m, 5), normal(1, m, 5, dtype=dtype)])
    with shared_memory(SMALL_DEVICE):
        out, values, sigma, rank = BACKEND.ssge(x)
    assert not out[0].any()
    assert not values[0].any()
    assert sigma[0] == 0 and rank[0] == 0
    assert out[1].any() and rank[1] > 0


@for_each_case()
@for_each_dtype
def test_results_do_not_depend_on_the_order_of_threads(case: Case, dtype: torch.dtype) -> None:
    args, kwargs = case.make(batch=(2,), dtype=dtype)
    expected = case.run(BACKEND, *args, **kwargs)
    try:
        for schedule in SCHEDULES:
            BACKEND.settings("set_schedule", schedule)
            assert same_bits(case.run(BACKEND, *args, **kwargs), expected), schedule
    finally:
        BACKEND.settings("set_schedule", BACKEND.schedule)


def poisoned(case: Case, m: int, dtype: torch.dtype, bad: float) -> None:
    """Checks that a value that is not finite makes the results of its group NaN, and no others."""
    args, kwargs = case.make(m=m, batch=(2,), dtype=dtype)
    name = case.operator
    points = args[1] if name == "rbf_product" else args[0]
    expected = case.run(BACKEND, *args, **kwargs)
    points[0, -1, 2] = bad  # in a matrix, below the diagonal: eigh reads the lower triangle
    results = case.run(BACKEND, *args, **kwargs)
    for got, right in zip(results, expected, strict=True):
        assert same_bits((got[1],), (right[1],))
    floating = [r for r in results if r.dtype.is_floating_point]
    checked = floating[:2] if case is CASES["ssge-bandwidth"] else floating  # σ is an argument
    assert all(r[0].isnan().all() for r in checked)
    integers = [r for r in results if not r.dtype.is_floating_point]
    assert all(r[0] == 0 for r in integers)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@for_each_case()
@for_each_dtype
def test_a_group_that_is_not_finite_is_nan_and_the_others_are_not(
    case: Case, dtype: torch.dtype, bad: float
) -> None:
    poisoned(case, 33, dtype, bad)


@pytest.mark.thorough
@for_each_case("eigh", "ssge")
@for_each_dtype
def test_a_large_group_that_is_not_finite_is_nan(case: Case, dtype: torch.dtype) -> None:
    with shared_memory(SMALL_DEVICE):
        poisoned(case, MANY_BLOCKS[dtype], dtype, np.nan)


@for_each_dtype
def test_large_groups_search_alone_as_in_a_batch(dtype: torch.dtype) -> None:
    x = normal(3, 66, 3, dtype=dtype)  # the matrix inverse takes 64 pivots at a time: two steps
    x[1] = x[1] ** 3  # this search continues to smaller λ after the others have stopped
    x[2] = 5
    together = BACKEND.adaptive_score(x)
    assert together[1][0] > together[1][1]
    assert not together[0][2].any()
    for g in range(3):
        assert same_bits(tuple(t[g] for t in together), BACKEND.adaptive_score(x[g]))


@pytest.mark.parametrize("start", range(0, len(reference.LAMBDA_GRID), 2))
def test_the_search_evaluates_the_same_lambdas_as_the_reference(
    monkeypatch: pytest.MonkeyPatch, start: int
) -> None:
    x, tried = normal(4, 1), list[int]()
    generator = torch.Generator().manual_seed(start)

    # Replaces the divergence by the numbers of λ and base, which tell `risk` its candidate.
    def candidate(z: Tensor, f: Tensor, sigma: Tensor, lam: float, base: int, _: int) -> Tensor:
        return z.new_tensor([reference.LAMBDA_GRID.index(lam), base])

    # Replaces the risk of λ number i by bounds[i] for base 0, and by a larger number for base 1.
    # The bound of this λ is therefore bounds[i].
    def risk(z: Tensor, residual: Tensor, candidate: Tensor) -> Tensor:
        i, base = candidate.int().tolist()
        if base == 0:
            tried.append(i)
        return z.new_full((4,), float(bounds[i]) + base)

    monkeypatch.setattr(reference.adaptive, "adaptive_start", lambda m: start)
    monkeypatch.setattr(reference.adaptive, "adaptive_divergence", candidate)
    monkeypatch.setattr(reference.adaptive, "adaptive_risk", risk)
    for _ in range(100):
        # There are only seven different bounds, so some are equal. Only scores with a bound below 0
        # are better than the Gaussian score.
        bounds = torch.randint(-4, 3, (len(reference.LAMBDA_GRID),), generator=generator).double()
        tried.clear()
        lam = float(reference.adaptive_score(x)[1])
        order, kept, rounds = BACKEND.call("lambda_search", bounds, start)
        assert sorted(order.tolist()) == sorted(tried)
        assert len(order) <= rounds
        assert lam == (np.inf if kept < 0 else reference.LAMBDA_GRID[int(kept)])


@pytest.mark.parametrize("sigma", [0.0, -1.0, np.nan, np.inf])
@for_each_case("rbf_gram", "rbf_gradient_sum", "rbf_product", "ssge")
def test_an_invalid_bandwidth_gives_nan(case: Case, sigma: float) -> None:
    """An invalid bandwidth makes the results of its group NaN."""
    args, kwargs = case.make(m=33, batch=(2,))
    if case.operator == "ssge" and len(args) == 1:
        return  # this case computes the bandwidth
    bandwidth = args[1] if case.operator == "ssge" else kwargs["bandwidth"]
    bandwidth[0] = sigma
    result = case.run(BACKEND, *args, **kwargs)[0]
    assert result[0].isnan().all()
    assert result[1].isfinite().all()


@pytest.mark.parametrize("n", [20, 40, 129])
def test_info_says_how_each_decomposition_ended(n: int) -> None:
    k = matrices(n, torch.float64)["gram"].repeat(2, 1, 1)
    k[1, 7, 3] = np.nan
    with shared_memory(SMALL_DEVICE):
        values, _, info = BACKEND.call("eigh_with_info", k)
    assert 2 <= info[0] <= 12  # the number of sweeps until convergence; the limit is 30
    assert info[1] == -1  # the matrix is not finite
    assert values[0].isfinite().all()
    assert values[1].isnan().all()


@for_each_dtype
def test_tiles_of_128_give_the_bits_of_tiles_of_64(dtype: torch.dtype) -> None:
    # In float32, `whole` has tiles of 128, because it has more than 1,024 rows and columns. `part`
    # has fewer rows, and therefore tiles of 64.
    x = normal(1027, 3, dtype=dtype)
    one = torch.ones((), dtype=dtype)
    whole = BACKEND.rbf_gram(x, bandwidth=one)
    assert torch.equal(whole, whole.mT)
    part = BACKEND.rbf_gram(x[:131], x, bandwidth=one)
    assert torch.equal(whole[:131], part)
