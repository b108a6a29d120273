"""Behavior that only a GPU shows: streams, graph capture, synchronization, several devices."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

import mige_ext as mige
from mige_ext import _C, SSGE, AdaptiveScore, Landmarks, Tikhonov, ops, reference
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


def set_sync_debug_mode(mode: str) -> None:
    """Sets the mode without torch's warning that the mode is a prototype."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.cuda.set_sync_debug_mode(mode)


@contextmanager
def no_synchronization() -> Iterator[None]:
    """Raises an error if the host waits for the GPU."""
    torch.cuda.synchronize()
    try:
        set_sync_debug_mode("error")
        yield
    finally:
        set_sync_debug_mode("default")


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
    with torch.cuda.stream(side):  # capture needs a warm-up
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
        torch.cuda._sleep(50_000_000)  # work that does not wait reads the zeros
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
    "adaptive fit": lambda x, z: AdaptiveScore().fit(z).score(z),
    "tikhonov": lambda x, z: Tikhonov().score(z),
    "landmarks": lambda x, z: Landmarks(m=32).fit(z).score(z),
    "diagnose": lambda x, z: SSGE().diagnose(z),
    "entropy": lambda x, z: mige.entropy(z).backward(),
    "mutual_information": information_and_gradients,
}


@pytest.mark.parametrize("call", CALLS)
def test_the_host_never_waits_for_the_gpu(call: str) -> None:
    x, z = leaves()
    CALLS[call](x, z)  # the first use copies the projection's matrix to the GPU
    with no_synchronization():
        CALLS[call](x, z)


@for_each_case()
@for_each_dtype
def test_operators_do_not_wait_and_give_the_same_bits_again(case: Case, dtype: torch.dtype) -> None:
    args, kwargs = map_tensors(lambda t: t.cuda(), case.make(m=130, batch=(3,), dtype=dtype))

    def run() -> tuple[Tensor, ...]:
        result = getattr(ops, case.operator)(*args, **kwargs)
        return result if isinstance(result, tuple) else (result,)

    expected = run()
    with no_synchronization():
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


# Larger than in the conformance suite. The time of the emulator grows with M³.
@pytest.mark.parametrize("m", [513, 1024, 2048])
@for_each_dtype
def test_scores_of_many_samples_are_those_of_the_cpu(dtype: torch.dtype, m: int) -> None:
    x = normal(m, 16, dtype=dtype)
    # In float32 the rank of SSGE may differ by one, which changes 1 % of the score.
    for estimator, loss in ((SSGE(), 2e-2), (AdaptiveScore(), 2e-5), (Tikhonov(), 2e-5)):
        exact = estimator.score(x.double())
        error = (estimator.score(x.cuda()).cpu().double() - exact).norm() / exact.norm()
        assert error <= (1e-6 if dtype == torch.float64 else loss)


def matrix(kind: str, n: int, dtype: torch.dtype) -> Tensor:
    x, g = normal(n, 64, dtype=dtype), normal(n, n, dtype=dtype, seed=1)
    if kind == "gram":
        return reference.rbf_gram(x, bandwidth=x.new_tensor(11.0))
    return g + g.mT if kind == "indefinite" else x[:, :1] @ x[:, :1].mT


@pytest.mark.parametrize("kind", ["gram", "indefinite", "rank one"])
@pytest.mark.parametrize("n", [239, 240, 241, 256, 257, 320, 513, 1024])
@for_each_dtype
def test_a_large_matrix_is_decomposed_accurately(
    dtype: torch.dtype, n: int, kind: str, record_property: Callable[[str, object], None]
) -> None:
    # With 227 KiB of shared memory, one block takes up to 240 rows in float32.
    k = matrix(kind, n, dtype).cuda()
    ops.eigh(k)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    values, vectors = ops.eigh(k)
    end.record()
    torch.cuda.synchronize()
    exact = torch.linalg.eigvalsh(k.double())
    norm = float(exact.abs().max())
    residual = (vectors.double() * values) @ vectors.mT.double() - k
    overlap = vectors.mT.double() @ vectors.double() - torch.eye(n, device="cuda")
    numbers = {
        "ms": start.elapsed_time(end),
        "eigenvalues": float((values - exact).abs().max()) / norm,
        "residual": float(residual.abs().max()) / norm,
        "orthogonality": float(overlap.abs().max()),
    }
    print(f"eigh {kind} n = {n} {dtype}:", numbers)
    for name, number in numbers.items():
        record_property(name, number)
    assert (values.diff() >= 0).all()
    assert numbers["eigenvalues"] <= rounding(dtype, n)
    assert numbers["residual"] <= 2 * rounding(dtype, n)
    assert numbers["orthogonality"] <= 2 * rounding(dtype, n)
    if dtype == torch.float32:  # eigh refines its results with sums in double
        assert numbers["eigenvalues"] <= 1e-7
        assert numbers["orthogonality"] <= 2e-7


def test_a_matrix_for_torchs_solver_is_read_from_its_lower_triangle() -> None:
    n = 2049
    k = normal(n, n, dtype=torch.float32).cuda()
    values, vectors = ops.eigh(k)  # the upper triangle is another matrix
    exact = torch.linalg.eigvalsh(k, UPLO="L")
    assert (values - exact).abs().max() <= rounding(torch.float32, n) * exact.abs().max()
    assert vectors.mT.is_contiguous()
