"""What only a GPU can show: streams, graph capture, synchronisation, several devices."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

import mige_ext as mige
from mige_ext import _C, SSGE, ops
from tests.support.accuracy import rounding, same_bits
from tests.support.backends import map_tensors
from tests.support.cases import Case, for_each_case
from tests.support.inputs import for_each_dtype, normal

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU: torch sees none"),
    pytest.mark.skipif(not _C.cuda_architectures, reason="needs kernels: built without nvcc"),
]

PROJECTION = mige.RandomProjection(k=8)


def leaves(seed: int = 0, device: str = "cuda") -> tuple[Tensor, Tensor]:
    x, z = (normal(2, 65, d, dtype=torch.float32, seed=seed + d) for d in (20, 4))
    return x.to(device).requires_grad_(), z.to(device).requires_grad_()


def information_and_gradients(x: Tensor, z: Tensor) -> tuple[Tensor, ...]:
    value = mige.mutual_information(x, z, projection=PROJECTION)
    return value.detach(), *torch.autograd.grad(value, (x, z))


@contextmanager
def no_synchronisation() -> Iterator[None]:
    """A host that waits for the GPU is an error."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_mutual_information_agrees_with_the_cpu() -> None:
    x, z = (t.detach().double().requires_grad_() for t in leaves())
    got = information_and_gradients(x, z)
    on_cpu = [t.detach().cpu().requires_grad_() for t in (x, z)]
    torch.testing.assert_close(
        tuple(t.cpu() for t in got), information_and_gradients(*on_cpu), rtol=1e-8, atol=1e-10
    )


def test_a_captured_training_step_replays_with_new_data() -> None:
    x, z = leaves()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # warm-up, as capture wants it
        for _ in range(3):
            information_and_gradients(x, z)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = information_and_gradients(x, z)
    for seed in (10, 20):
        new_x, new_z = leaves(seed)
        with torch.no_grad():
            x.copy_(new_x)
            z.copy_(new_z)
        graph.replay()
        torch.cuda.synchronize()
        assert same_bits(captured, information_and_gradients(new_x, new_z))


def test_work_goes_to_the_current_stream() -> None:
    x, z = leaves()
    expected = information_and_gradients(x, z)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # what does not wait for it, reads the zeros
        late_x, late_z = (torch.zeros_like(t) for t in (x, z))
        late_x.copy_(x.detach())
        late_z.copy_(z.detach())
        got = information_and_gradients(late_x.requires_grad_(), late_z.requires_grad_())
    stream.synchronize()
    assert same_bits(got, expected)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs a second CUDA GPU")
def test_the_device_of_the_samples_is_used_not_the_current_one() -> None:
    expected = information_and_gradients(*leaves(device="cuda:0"))
    with torch.cuda.device(0):
        got = information_and_gradients(*leaves(device="cuda:1"))
        assert torch.cuda.current_device() == 0
    assert all(t.device.index == 1 for t in got)
    torch.testing.assert_close([t.cpu() for t in got], [t.cpu() for t in expected])


CALLS: dict[str, Callable[[Tensor, Tensor], object]] = {
    "score": lambda x, z: SSGE().score(z),
    "score-calibrated": lambda x, z: SSGE(calibrate="stein").score(z),
    "fit": lambda x, z: SSGE().fit(z).score(z),
    "diagnose": lambda x, z: SSGE().diagnose(z),
    "entropy": lambda x, z: mige.entropy(z).backward(),
    "mutual_information": information_and_gradients,
}


@pytest.mark.parametrize("call", CALLS)
def test_the_host_never_waits_for_the_gpu(call: str) -> None:
    x, z = leaves()
    CALLS[call](x, z)  # the projection's matrix comes to the GPU at the first use
    with no_synchronisation():
        CALLS[call](x, z)


@for_each_case()
@for_each_dtype
def test_operators_do_not_wait_and_give_the_same_bits_again(case: Case, dtype: torch.dtype) -> None:
    args, kwargs = map_tensors(lambda t: t.cuda(), case.make(m=130, batch=(3,), dtype=dtype))

    def run() -> tuple[Tensor, ...]:
        result = getattr(ops, case.operator)(*args, **kwargs)
        return result if isinstance(result, tuple) else (result,)

    expected = run()
    with no_synchronisation():
        again = [run() for _ in range(5)]
    assert all(same_bits(results, expected) for results in again)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@for_each_dtype
def test_a_group_with_nan_is_nan_and_does_not_disturb_the_others(
    dtype: torch.dtype, value: float
) -> None:
    x = normal(3, 65, 5, dtype=dtype).cuda()
    expected = SSGE().score(x)
    x[1, 7, 2] = value
    scores = SSGE().score(x)
    torch.cuda.synchronize()
    assert not scores[1].isfinite().all()
    assert torch.equal(scores[0], expected[0]) and torch.equal(scores[2], expected[2])


def test_a_matrix_for_torchs_solver_is_read_from_its_lower_triangle() -> None:
    n = 2049
    k = normal(n, n, dtype=torch.float32).cuda()
    values, vectors = ops.eigh(k)  # the upper triangle is another matrix
    exact = torch.linalg.eigvalsh(k, UPLO="L")
    assert (values - exact).abs().max() <= rounding(torch.float32, n) * exact.abs().max()
    assert vectors.mT.is_contiguous()
