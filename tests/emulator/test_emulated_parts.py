"""The division of long sums into parts: the number of blocks, and the bits of the results.

A single group has few tiles, so every part of its sums has its own block. In a batch of many groups
one block computes all parts of a tile. Both divisions must give the same bits.
"""

import pytest
import torch

from tests.support.accuracy import same_bits
from tests.support.backends import Emulated, map_tensors
from tests.support.cases import Case, for_each_case
from tests.support.inputs import for_each_dtype, normal

BACKEND = Emulated()
# A device is full with 264 blocks. A group of M samples has 2 or 3 tiles of 64 rows, and 3 parts
# of 64 samples.
GROUPS, M, D = 72, 130, 3


def blocks(parameter: str) -> list[int]:
    """The numbers of blocks of launches since the last call, for kernels with this parameter."""
    return [count for types, count in BACKEND.read("take_launches") if parameter in types]


def test_a_gradient_sum_of_1024_samples_occupies_the_device() -> None:
    x = normal(1024, 64, dtype=torch.float32)
    blocks("")
    BACKEND.rbf_gradient_sum(x, bandwidth=x.new_tensor(11.0))
    assert blocks(", mige::cuda::Parts") == [256]  # 16 tiles of 64 rows, 16 parts of 64 samples


@pytest.mark.thorough
def test_the_sums_of_a_large_score_are_divided() -> None:
    x = normal(161, 5, dtype=torch.float32)
    BACKEND.settings("set_device", 99 * 1024)
    try:
        blocks("")
        BACKEND.ssge(x, rank=3)
    finally:
        BACKEND.settings("set_device")
    launches = BACKEND.read("take_launches")
    finishes = ("GradientSum<", "StoreScaled<", "ScaleScore<")
    of_finish = [[n for types, n in launches if finish in types] for finish in finishes]
    assert [counts[0] for counts in of_finish] == [9, 9, 9]  # 3 tiles of 64 rows, 3 parts


@pytest.mark.parametrize(("queries", "samples", "expected"), [(256, 1024, 64), (4096, 320, 320)])
def test_a_kernel_product_occupies_the_device(queries: int, samples: int, expected: int) -> None:
    q, x = normal(queries, 4, dtype=torch.float32), normal(samples, 4, dtype=torch.float32)
    blocks("")
    BACKEND.rbf_product(q, x, x, bandwidth=x.new_tensor(3.0))
    assert blocks("cuda::RbfProductParts") == [expected]


@for_each_case("rbf_gradient_sum", "rbf_product")
@for_each_dtype
def test_parts_in_one_block_give_the_bits_of_parts_in_many(case: Case, dtype: torch.dtype) -> None:
    args, kwargs = case.make(m=M, d=D, batch=(GROUPS,), dtype=dtype)
    one_args, one_kwargs = map_tensors(lambda t: t[7], (args, kwargs))
    blocks("")
    together = case.run(BACKEND, *args, **kwargs)
    in_batch = blocks("Parts")
    alone = case.run(BACKEND, *one_args, **one_kwargs)
    of_one = blocks("Parts")
    assert [count * GROUPS for count in of_one] > in_batch
    assert same_bits(tuple(t[7] for t in together), alone)


@pytest.mark.parametrize("samples", [0, 1, 64, 65, 4096 + 1])
def test_a_kernel_product_takes_any_number_of_samples(samples: int) -> None:
    q, x, w = normal(3, 2, seed=1), normal(samples, 2, seed=2), normal(samples, 5, seed=3)
    sigma = torch.tensor(1.5, dtype=q.dtype)
    got = BACKEND.rbf_product(q, x, w, bandwidth=sigma)
    expected = torch.exp(-torch.cdist(q, x).square() / (2 * sigma**2)) @ w
    torch.testing.assert_close(got, expected)
