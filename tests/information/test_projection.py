"""Random projection: its two normalizations, and the matrix R that is drawn once and kept."""

import copy
import math
import pickle
import random
import sys
import threading
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from mige_ext import RandomProjection
from tests.support.accuracy import rounding
from tests.support.inputs import for_each_dtype, normal

for_each_normalize = pytest.mark.parametrize("normalize", ["columns", "rows"])


@pytest.mark.parametrize(("k", "d"), [(1, 7), (5, 5), (16, 300), (9, 4)])
def test_columns_have_unit_length(k: int, d: int) -> None:
    r = RandomProjection(k, "columns").matrix(d, torch.float64)
    assert r.shape == (k, d)
    assert ((r.norm(dim=0) - 1).abs() <= rounding(r.dtype, k)).all()


@pytest.mark.parametrize(("k", "d"), [(1, 7), (5, 5), (16, 300), (9, 4)])
def test_rows_have_the_length_that_preserves_norms(k: int, d: int) -> None:
    r = RandomProjection(k, "rows").matrix(d, torch.float64)
    length = math.sqrt(d / k)
    assert ((r.norm(dim=1) - length).abs() <= rounding(r.dtype, d) * length).all()


@for_each_normalize
def test_squared_norms_are_preserved_in_expectation(normalize: Any) -> None:
    x, draws = normal(20, 50), 200
    ratio = torch.stack([
        RandomProjection(8, normalize, seed=s)(x).square().sum(-1) / x.square().sum(-1)
        for s in range(draws)
    ])  # fmt: skip
    standard_error = ratio.std(0) / math.sqrt(draws)
    # The 20 points are nearly orthogonal, so these are 20 independent tests at 4 standard errors.
    assert ((ratio.mean(0) - 1).abs() <= 4 * standard_error).all()


@for_each_normalize
def test_distances_are_preserved_better_with_more_dimensions(normalize: Any) -> None:
    x = normal(40, 400)
    spread = []
    for k in (4, 64):
        ratio = torch.pdist(RandomProjection(k, normalize)(x)) / torch.pdist(x)
        spread.append(ratio.std())
    # By the lemma of Johnson and Lindenstrauss the error falls as 1/√k.
    assert spread[1] < spread[0] / 2


@for_each_normalize
def test_the_matrix_depends_only_on_its_settings_and_d(normalize: Any) -> None:
    a = RandomProjection(4, normalize, seed=3).matrix(10)
    torch.manual_seed(123)
    torch.randn(7)
    assert torch.equal(RandomProjection(4, normalize, seed=3).matrix(10), a)
    assert not torch.equal(RandomProjection(4, normalize, seed=4).matrix(10), a)
    assert RandomProjection(4, normalize, seed=3).matrix(11).shape == (4, 11)


def test_drawing_the_matrix_does_not_change_the_global_generator() -> None:
    state = torch.get_rng_state()
    RandomProjection(4, seed=1234).matrix(10)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_matrix_is_the_same_numbers_rounded_to_the_dtype(dtype: torch.dtype) -> None:
    projection = RandomProjection(4)
    assert torch.equal(projection.matrix(10, dtype), projection.matrix(10, torch.float64).to(dtype))


@pytest.mark.parametrize("batch", [(), (3,), (2, 0), (2, 3)], ids=str)
@for_each_dtype
def test_projection_is_the_product_with_the_matrix(
    dtype: torch.dtype, batch: tuple[int, ...]
) -> None:
    x = normal(*batch, 7, 10, dtype=dtype)
    projection = RandomProjection(4)
    got = projection(x)
    assert got.shape == (*batch, 7, 4) and got.dtype == dtype
    exact = x.double() @ projection.matrix(10, torch.float64).mT
    magnitude = x.abs().max().item() * 10**0.5 if x.numel() else 0.0
    assert ((got.double() - exact).abs() <= rounding(dtype, 10) * magnitude).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_low_precision_and_autocast_are_projected_in_float32(dtype: torch.dtype) -> None:
    x = normal(7, 10, dtype=dtype)
    projection = RandomProjection(4)
    expected = projection(x.float())
    assert torch.equal(projection(x), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(projection(x), expected)


def test_gradients_reach_the_samples() -> None:
    x = normal(5, 6).requires_grad_()
    assert torch.autograd.gradcheck(RandomProjection(3), (x,))


# --- the kept matrix ------------------------------------------------------------------------------


def test_a_first_use_in_inference_mode_does_not_spoil_training() -> None:
    projection, x = RandomProjection(3, seed=1001), normal(5, 6)
    with torch.inference_mode():
        projection(x)
    leaf = x.clone().requires_grad_()
    projection(leaf).sum().backward()
    assert leaf.grad is not None


def test_a_first_use_with_fake_tensors_does_not_spoil_real_ones() -> None:
    projection, x = RandomProjection(3, seed=1002), normal(5, 6)
    with FakeTensorMode():
        assert projection(torch.empty(5, 6, dtype=torch.float64)).shape == (5, 3)
    assert type(projection(x)) is torch.Tensor
    with FakeTensorMode():  # nor does a real use spoil fake tensors
        assert projection(torch.empty(5, 6, dtype=torch.float64)).shape == (5, 3)


def test_changing_a_returned_matrix_does_not_change_the_projection() -> None:
    projection, x = RandomProjection(3, seed=1003), normal(5, 6)
    expected = projection(x).clone()
    projection.matrix(6, torch.float64).zero_()
    assert torch.equal(projection(x), expected)


def test_the_default_device_and_dtype_do_not_matter() -> None:
    expected = RandomProjection(3, seed=1004).matrix(6)
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    try:
        got = RandomProjection(3, seed=1004).matrix(6, device="cpu")
        fresh = RandomProjection(3, seed=1005).matrix(6, device="cpu")
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
    assert torch.equal(got, expected)
    assert fresh.device.type == "cpu" and fresh.dtype == torch.float32


@pytest.mark.parametrize("device", ["meta", "cuda"])
def test_fake_and_meta_samples_are_projected(device: str) -> None:
    with FakeTensorMode():
        got = RandomProjection(3, seed=1006)(torch.empty(5, 6, device=device))
    assert got.shape == (5, 3) and got.device.type == device
    if device == "meta":
        assert RandomProjection(3)(torch.empty(5, 6, device="meta")).shape == (5, 3)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy,
                                       lambda p: pickle.loads(pickle.dumps(p))])  # fmt: skip
def test_projections_can_be_copied_and_pickled(duplicate: Any) -> None:
    projection, x = RandomProjection(3, "rows", seed=7), normal(5, 6)
    assert duplicate(projection) == projection
    assert torch.equal(duplicate(projection)(x), projection(x))


def test_a_projection_first_used_under_a_transform_works_after_it() -> None:
    projection, x = RandomProjection(k=3, seed=23), normal(8, 5)
    torch.func.grad(lambda x: projection(x).sum())(x)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(projection(x).sum(), x, create_graph=True)
    assert gradient.isfinite().all()


def test_threads_share_the_matrices() -> None:
    expected = [RandomProjection(k=2, seed=seed)(torch.ones(3, 30)) for seed in range(40)]
    failed: list[BaseException] = []

    def project(first: int) -> None:
        order = random.Random(first)
        try:
            for _ in range(200):
                seed = order.randrange(40)
                got = RandomProjection(k=2, seed=seed)(torch.ones(3, 30))
                assert torch.equal(got, expected[seed])
        except BaseException as error:
            failed.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=project, args=(first,)) for first in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not failed


def test_matrices_of_the_cpu_do_not_evict_each_other_while_few_are_used() -> None:
    x = torch.randn(8, 12)
    first, second = RandomProjection(k=2, seed=1001), RandomProjection(k=2, seed=1002)
    for k in range(1, 12):  # other projections, fewer than are kept
        RandomProjection(k=k, seed=1000)(x)
    assert first._matrix_for(x) is first._matrix_for(x)
    second(x)
    kept = first._matrix_for(x)
    second(x)
    assert first._matrix_for(x) is kept
    assert first._matrix_for(torch.nn.Parameter(x)) is kept
