"""Results have the same bits in every run, for any number of threads and in any thread."""

import subprocess
import sys
import threading

import pytest
import torch
from torch import Tensor

from mige_ext import SSGE, ops
from tests.support.accuracy import same_bits
from tests.support.backends import Backend
from tests.support.cases import Case, for_each_case, for_each_case_and_device
from tests.support.inputs import for_each_dtype, normal
from tests.support.process import ROOT, environment

# Sizes below and above those at which LAPACK and MKL change their blocking, and odd sizes.
SIZES = [64, 130, 256, 300]


@pytest.mark.parametrize("batch", [(), (3,)], ids=["one", "three"])
@pytest.mark.parametrize("m", SIZES)
@for_each_dtype
@for_each_case()
def test_results_do_not_depend_on_the_number_of_threads(
    dtype: torch.dtype, case: Case, m: int, batch: tuple[int, ...]
) -> None:
    backend = Backend()  # only the CPU uses torch's threads
    args, kwargs = case.make(m=m, d=9, batch=batch, dtype=dtype)
    expected = case.run(backend, *args, **kwargs)
    for threads in (2, 3, 4, 1):
        torch.set_num_threads(threads)
        assert same_bits(case.run(backend, *args, **kwargs), expected), f"{threads} threads"


@for_each_dtype
@for_each_case_and_device
def test_results_are_the_same_from_run_to_run(
    backend: Backend, dtype: torch.dtype, case: Case
) -> None:
    torch.set_num_threads(2)
    args, kwargs = case.make(m=130, d=9, batch=(2,), dtype=dtype)
    expected = case.run(backend, *args, **kwargs)
    for _ in range(5):
        assert same_bits(case.run(backend, *args, **kwargs), expected)


@for_each_dtype
def test_results_do_not_depend_on_where_the_memory_begins(dtype: torch.dtype) -> None:
    x = normal(130, 9, dtype=dtype)
    expected = ops.ssge(x)
    for offset in range(1, 5):
        moved = x.new_empty(x.numel() + offset)[offset:].view(x.shape).copy_(x)
        assert same_bits(ops.ssge(moved), expected)


@pytest.mark.parametrize("m", SIZES)
@for_each_dtype
def test_a_python_thread_gets_the_bits_of_the_main_thread(dtype: torch.dtype, m: int) -> None:
    x = normal(m, 9, dtype=dtype)
    expected = ops.ssge(x)
    results: list[tuple[Tensor, ...]] = []

    def work() -> None:
        results.append(ops.ssge(x))

    for _ in range(3):  # each round starts two threads at the same time
        pair = [threading.Thread(target=work) for _ in range(2)]
        for thread in pair:
            thread.start()
        for thread in pair:
            thread.join()
    assert len(results) == 6
    assert all(same_bits(r, expected) for r in results)


@for_each_dtype
def test_an_operator_does_not_change_the_bits_of_torch(dtype: torch.dtype) -> None:
    torch.set_num_threads(2)
    x = normal(130, 9, dtype=dtype)  # at this size torch's eigh has other bits with 2 threads
    k = ops.rbf_gram(x, bandwidth=torch.tensor(3.0, dtype=dtype))
    before = torch.linalg.eigh(k)
    ops.ssge(x)
    ops.eigh(k.expand(3, -1, -1))
    assert same_bits(torch.linalg.eigh(k), before)


FIRST_CALL = """
import hashlib, sys, torch
threads, batched = int(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(threads)
from mige_ext import ops
digest = hashlib.sha256()
for dtype in (torch.float32, torch.float64):
    for m in (64, 130, 256, 300):
        x = torch.randn(4, m, 9, generator=torch.Generator().manual_seed(m), dtype=torch.float64)
        x = x.to(dtype)
        results = [ops.ssge(x)] if batched else [ops.ssge(group) for group in x]
        for result in zip(*results):
            values = torch.stack(result) if not batched else result[0]
            digest.update(values.contiguous().numpy().tobytes())
print(digest.hexdigest())
"""


@pytest.mark.thorough
def test_the_first_call_of_a_process_gives_the_same_bits_batched_on_any_threads() -> None:
    # In a fresh process, the first operation of a worker thread would set MKL's number of threads.
    # The blocking of MKL's eigensolver depends on this number.
    digests = {
        (threads, batched): subprocess.run(
            [sys.executable, "-c", FIRST_CALL, str(threads), str(batched)],
            check=True,
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=environment(),
        ).stdout
        for threads, batched in [(2, 1), (1, 0), (4, 1)]
    }
    assert len(set(digests.values())) == 1, digests


@pytest.mark.parametrize("calibrate", [None, "stein"])
@for_each_dtype
def test_an_estimator_is_deterministic_through_its_whole_pipeline(
    dtype: torch.dtype, calibrate: None
) -> None:
    x, q = normal(3, 130, 9, dtype=dtype), normal(3, 40, 9, dtype=dtype, seed=1)
    estimator = SSGE(calibrate=calibrate)
    expected = estimator.score(x), estimator.fit(x).score(q)
    for threads in (2, 3, 4):
        torch.set_num_threads(threads)
        assert same_bits((estimator.score(x), estimator.fit(x).score(q)), expected)
