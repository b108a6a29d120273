"""The measurements of ``tools/gpu_check.py``. Each command takes one or more items.

    python -m tools.gpu_measure smoke eigh-float32 ...       # an operator and a dtype
    python -m tools.gpu_measure eigh 128x64 1x1024 ...       # batch x n
    python -m tools.gpu_measure operators ssge ...           # the microbenchmarks
    python -m tools.gpu_measure profile products ...         # calls for a profiler

Every item prints rows, and appends the rows to the file that ``MIGE_ROWS`` names. Only torch and
NumPy are needed.
"""

import functools
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.timing import time_call
from mige_ext import ops, reference
from tests.support.calls import calls
from tools.gpu_rows import emit, run_items

DEVICE = os.environ.get("MIGE_CHECK_DEVICE", "cuda")  # "cpu" runs this file without a GPU
DTYPES = {"float32": torch.float32, "float64": torch.float64}
SMOKE_SIZES = (33, 65, 130, 257)
KINDS = ("gram", "indefinite", "rank one")
SECONDS = 0.15  # a function is called again and again for this time
SLOW = 0.5  # a function that takes more seconds is called once


def synchronize() -> None:
    """Raise an error of the GPU that is still pending."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


# --- smoke ----------------------------------------------------------------------------------------

# Index of the result (λ or ν) that the operator chooses from a grid. If rounding changes the
# choice, all results differ, and only values that are not finite count as wrong.
CHOICES = {"adaptive_score": 1, "adaptive_student_score": 1, "student_score": 2}


def smoke(item: str) -> str | None:
    """Find gross errors of an operator, relative to the reference in float64.

    An error is gross if it exceeds ten times the error of the CPU kernel in the same dtype, plus √ε
    times the largest element of the result.
    """
    operator, dtype_name = item.rsplit("-", 1)
    dtype = DTYPES[dtype_name]
    wrong = []
    for n in SMOKE_SIZES:
        for number, (name, args, kwargs) in enumerate(calls(n, n // 2 + 1, 5, dtype)):
            if name != operator:
                continue
            if name == "ssge":  # rounding may change the rank
                kwargs = {"rank": 2, **kwargs}
            exact = _results(getattr(reference, name), args, kwargs, lambda t: t.double())
            on_cpu = _results(getattr(ops, name), args, kwargs, lambda t: t)
            got = _results(getattr(ops, name), args, kwargs, lambda t: t.to(DEVICE))
            size = float(exact[0].abs().max())
            error, of_cpu = (float((t[0] - exact[0]).abs().max()) for t in (got, on_cpu))
            good = error <= 10 * of_cpu + torch.finfo(dtype).eps ** 0.5 * size
            chosen = CHOICES.get(name)
            same = chosen is None or torch.allclose(got[chosen], exact[chosen], rtol=1e-3)
            good = good or (not same and bool(got[0].isfinite().all()))
            emit(
                item, n=n, call=number, error=error / size, cpu_error=of_cpu / size,
                same_choice=same, passed=good,
            )  # fmt: skip
            if not good:
                wrong.append(f"call {number} at n = {n}")
    return "gross errors: " + ", ".join(wrong) if wrong else None


def _results(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    move: Callable[[Tensor], Tensor],
) -> tuple[Tensor, ...]:
    """The results of a function, in float64 on the CPU; ``move`` converts the tensor arguments."""

    def moved(value: Any) -> Any:
        return move(value) if isinstance(value, Tensor) else value

    result = function(*map(moved, args), **{k: moved(v) for k, v in kwargs.items()})
    results = result if isinstance(result, tuple) else (result,)
    return tuple(t.detach().cpu().double() for t in results)


# --- eigh -----------------------------------------------------------------------------------------


def matrices(kind: str, batch: int, n: int) -> Tensor:
    """Symmetric matrices, (batch, n, n) in float32."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, n, 64, generator=generator).to(DEVICE)
    if kind == "gram":
        return torch.exp(-torch.cdist(x, x).square() / 128)
    if kind == "rank one":
        return x[..., :1] @ x[..., :1].mT
    g = torch.randn(batch, n, n, generator=generator).to(DEVICE)
    return g + g.mT


def accuracy(k: Tensor, values: Tensor, vectors: Tensor) -> tuple[float, float]:
    """Largest residual over the largest eigenvalue, and largest deviation from orthogonality."""
    residual = (vectors * values.unsqueeze(-2)) @ vectors.mT - k
    overlap = vectors.mT @ vectors - torch.eye(k.shape[-1], device=k.device)
    scale = values.abs().amax()
    return float(residual.abs().max() / scale), float(overlap.abs().max())


def milliseconds(function: Callable[[], object]) -> float:
    """The median time of a call. A slow function is timed once."""
    times: list[float] = []
    start = time.perf_counter()
    while not times or (times[0] < SLOW and time.perf_counter() - start < SECONDS):
        times.append(time_call(function, DEVICE))
    return 1e3 * statistics.median(times)


def eigh(item: str) -> str | None:
    """Time ops.eigh, ops.eigh in a CUDA graph, cuSOLVER's XsyevBatched and torch.linalg.eigh."""
    batch, n = (int(number) for number in item.split("x"))
    wrong = []
    torch.backends.cuda.matmul.allow_tf32 = False
    for kind in KINDS if batch == 1 else KINDS[:1]:
        k = matrices(kind, batch, n)
        functions = {"own": ops.eigh, **library()}
        # torch 2.11 decomposes one matrix after another if n > 32, which takes too long.
        if batch * n <= 16384 or n <= 32:
            functions["torch"] = torch.linalg.eigh
        row: dict[str, Any] = {}
        for name, function in functions.items():
            result = function(k)
            row[f"{name}_residual"], row[f"{name}_orthogonality"] = accuracy(k, *result)
            row[f"{name}_ms"] = milliseconds(functools.partial(function, k))
        if DEVICE == "cuda" and not os.environ.get(
            "MIGE_CUSOLVER"
        ):  # may allocate memory, which a graph forbids
            row["graph_ms"], same = in_graph(k)
            if not same:
                wrong.append(f"{kind}: the graph gives other bits")
        emit(item, kind=kind, **row)
        bound = 40 * n**0.5 * torch.finfo(k.dtype).eps  # ten times the rounding errors
        if not max(row["own_residual"], row["own_orthogonality"]) <= bound:
            wrong.append(f"{kind}: residual or orthogonality above {bound:.1e}")
    return "; ".join(wrong) or None


def library() -> dict[str, Callable[[Tensor], Any]]:
    """The batched routine of cuSOLVER by its name, or nothing if it cannot be called."""
    if DEVICE != "cuda":
        return {}
    from benchmarks.operators import cusolver

    name, function = cusolver.batched_eigh("cuda")
    return {} if function is None else {"xsyev" if "Xsyev" in name else "library": function}


def in_graph(k: Tensor) -> tuple[float, bool]:
    """The time of ``ops.eigh`` in a CUDA graph, and whether the graph gives the same bits."""
    expected = ops.eigh(k)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        ops.eigh(k)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = ops.eigh(k)
    time_ = milliseconds(graph.replay)
    return time_, all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))


# --- microbenchmarks and profiles -----------------------------------------------------------------


def operators(item: str) -> str | None:
    """Measure an operator and its baselines, and add the rows to the file that MIGE_CSV names."""
    from benchmarks.operators.run import Options, run

    csv = Path(os.environ["MIGE_CSV"])
    seconds = float(os.environ.get("MIGE_SECONDS", "0.3"))
    found = run((item,), Options(device=DEVICE, seconds=seconds, compiled=False, csv=csv))
    return None if found == 0 else f"exit status {found}"


def samples(m: int) -> dict[str, Tensor]:
    """Samples (m, 64) and a bandwidth."""
    x = torch.randn(m, 64, device=DEVICE)
    return {"x": x, "bandwidth": x.new_tensor(11.0)}


PROFILES: dict[str, Callable[[], object]] = {
    "eigh of small matrices": lambda: ops.eigh(matrices("gram", 500, 100)),
    "eigh of large matrices": lambda: ops.eigh(matrices("gram", 16, 256)),
    "products": lambda: ops.rbf_gradient_sum(**samples(1024)),
    "distances": lambda: ops.rbf_gram(**samples(4096)),
}


def profile(item: str) -> str | None:
    """Call an operator three times, for the profiler ncu."""
    for _ in range(3):
        PROFILES[item]()
    return None


TASKS = {"smoke": smoke, "eigh": eigh, "operators": operators, "profile": profile}


if __name__ == "__main__":
    run_items(sys.argv[2:], TASKS[sys.argv[1]], synchronize)
