"""What the tests share: back ends, inputs, and the one definition of "accurate enough"."""

import atexit
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from emulated import CrashError, Emulator
from torch import Tensor

from mige_ext import ops, reference
from mige_ext.experiments.runs import cpu_threads
from mige_ext.ops import OPERATORS as OPERATORS

try:
    from hypothesis import settings
except ImportError:  # `make gpu-check` runs on a machine as it is; these tests are not about GPUs
    collect_ignore = ["test_data.py", "test_properties.py", "test_runs.py"]
else:
    settings.register_profile(
        "mige", deadline=None, derandomize=True, max_examples=25, database=None
    )
    settings.load_profile("mige")

ROOT = Path(__file__).resolve().parent.parent
DTYPES = (torch.float32, torch.float64)

for_each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64"])


# --- back ends ------------------------------------------------------------------------------------


class Backend:
    """Operators by name, as callables on CPU tensors with the signatures of ``mige_ext.ops``.

    Another back end says which operators it has and, in ``operator``, takes the tensors to where
    it computes and the results back; added to ``BACKENDS``, it runs the whole conformance suite.
    """

    name = "cpu"
    operators: tuple[str, ...] = OPERATORS

    def operator(self, name: str) -> Callable[..., Any]:
        return getattr(ops, name)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name not in self.operators:
            raise AttributeError(name)
        return self.operator(name)


class Emulated(Backend):
    """The CUDA kernels on the CPU, in the emulator that ``MIGE_EMULATOR`` names."""

    name = "emulated"

    def __init__(self) -> None:
        self._emulator: Emulator | None = None  # started when first needed

    def settings(self, name: str, *args: Any) -> None:
        """Calls a function of the emulator that is about the device."""
        self._call(name, *args)

    def call(self, name: str, *args: Any) -> Any:
        """Calls a function of the emulator, tensors in and out."""
        arrays = (a.contiguous().numpy() if isinstance(a, Tensor) else a for a in args)
        result = self._call(name, *arrays)
        if isinstance(result, tuple):
            return tuple(torch.from_numpy(np.asarray(r)) for r in result)
        return torch.from_numpy(np.asarray(result))

    def _call(self, name: str, *args: Any) -> Any:
        if self._emulator is None:
            self._emulator = Emulator(os.environ.get("MIGE_EMULATOR", "plain"))
            atexit.register(self._emulator.close)
        try:
            return self._emulator.call(name, *args)
        except CrashError:
            self._emulator = None  # the report is of this call alone; the next gets a new process
            raise

    def operator(self, name: str) -> Callable[..., Any]:
        signature = inspect.signature(getattr(ops, name))

        def bind_and_call(*args: Any, **kwargs: Any) -> Any:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            return self.call(name, *bound.arguments.values())

        return bind_and_call


class Cuda(Backend):
    """The same operators on the current GPU."""

    name = "cuda"

    def operator(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            args, kwargs = map_tensors(lambda t: t.cuda(), (args, kwargs))
            return map_tensors(lambda t: t.cpu(), getattr(ops, name)(*args, **kwargs))

        return call


BACKENDS = [Backend(), Emulated()]
if torch.cuda.is_available():
    BACKENDS.append(Cuda())


def for_each_backend(*operators: str) -> pytest.MarkDecorator:
    """Parametrises ``backend`` over the back ends that have the operators."""
    have_them = [b for b in BACKENDS if set(operators) <= set(b.operators)]
    return pytest.mark.parametrize("backend", have_them, ids=lambda backend: backend.name)


# --- inputs ---------------------------------------------------------------------------------------


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Networks of the experiments' tests are fastest with one."""
    with cpu_threads(1):
        yield


@pytest.fixture(autouse=True)
def _reproducible() -> Iterator[None]:
    """One seed and one thread for every test; test_determinism.py is about more of them."""
    threads = torch.get_num_threads()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def normal(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    """Standard normal numbers, the same in every dtype but for rounding."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype)


@dataclass(frozen=True)
class Case:
    """An operator, and how its arguments come from x, y, w and bandwidths σ."""

    operator: str
    arguments: Callable[[Tensor, Tensor, Tensor, Tensor], tuple[tuple[Any, ...], dict[str, Any]]]

    def make(
        self, m: int = 33, d: int = 5, batch: tuple[int, ...] = (), dtype: torch.dtype = DTYPES[1]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments and keyword arguments for m samples in d dimensions."""
        sigma = 1 + normal(*batch, dtype=dtype, seed=4).abs()
        return self.arguments(
            normal(*batch, m, d, dtype=dtype, seed=1),
            normal(*batch, m // 2 + 1, d, dtype=dtype, seed=2),
            normal(*batch, m, 7, dtype=dtype, seed=3),
            sigma,
        )

    def run(self, backend: Backend, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        """The results as a tuple, whether there is one or several."""
        result = backend.operator(self.operator)(*args, **kwargs)
        return result if isinstance(result, tuple) else (result,)


# Every operator in every way that takes another path through the code.
CASES = {
    "squared_distances": Case("squared_distances", lambda x, y, w, s: ((x, y), {})),
    "squared_distances-self": Case("squared_distances", lambda x, y, w, s: ((x,), {})),
    "distance_quantile": Case("distance_quantile", lambda x, y, w, s: ((x,), {"quantile": 0.3})),
    "rbf_gram": Case("rbf_gram", lambda x, y, w, s: ((x, y), {"bandwidth": s})),
    "rbf_gram-self": Case("rbf_gram", lambda x, y, w, s: ((x,), {"bandwidth": s})),
    "rbf_gradient_sum": Case("rbf_gradient_sum", lambda x, y, w, s: ((x,), {"bandwidth": s})),
    "rbf_product": Case("rbf_product", lambda x, y, w, s: ((y, x, w), {"bandwidth": s})),
    "eigh": Case("eigh", lambda x, y, w, s: ((reference.rbf_gram(x, bandwidth=s),), {})),
    "ssge": Case("ssge", lambda x, y, w, s: ((x,), {})),
    "ssge-bandwidth": Case("ssge", lambda x, y, w, s: ((x, s), {"rank": 3, "power": 2})),
    "ridge_whitening": Case("ridge_whitening", lambda x, y, w, s: ((x,), {"factor": 0.5})),
    "adaptive_score": Case("adaptive_score", lambda x, y, w, s: ((x * x * x,), {})),
    "adaptive_score-wide": Case("adaptive_score", lambda x, y, w, s: ((x.mT.contiguous(),), {})),
}


def for_each_case(*operators: str) -> pytest.MarkDecorator:
    """Parametrises ``case`` over the cases of the named operators, of all if none is named."""
    chosen = {k: c for k, c in CASES.items() if not operators or c.operator in operators}
    return pytest.mark.parametrize("case", chosen.values(), ids=chosen.keys())


# Every case on every back end that has its operator.
for_each_case_and_backend = pytest.mark.parametrize(
    ("case", "backend"),
    [
        pytest.param(case, backend, id=f"{name}-{backend.name}")
        for name, case in CASES.items()
        for backend in BACKENDS
        if case.operator in backend.operators
    ],
)


def map_tensors(f: Callable[[Tensor], Tensor], value: Any) -> Any:
    """``value``, a nest of tuples and dicts, with f applied to every tensor."""
    if isinstance(value, Tensor):
        return f(value)
    if isinstance(value, tuple):
        return tuple(map_tensors(f, v) for v in value)
    if isinstance(value, dict):
        return {k: map_tensors(f, v) for k, v in value.items()}
    return value


def same_bits(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> bool:
    """Equal shapes, dtypes and values; -0.0 equals 0.0, NaN equals nothing."""
    return len(a) == len(b) and all(
        s.dtype == t.dtype and torch.equal(s, t) for s, t in zip(a, b, strict=True)
    )


# --- accuracy -------------------------------------------------------------------------------------

FLOOR = 4  # rounding errors of one unit in the last place that any order of operations may make


def rounding(dtype: torch.dtype, terms: int = 1) -> float:
    """The relative error that rounding may leave in a sum of so many terms.

    ``FLOOR`` ε for the operations on a term, times √terms: errors of a sum add like a random walk.
    """
    return FLOOR * torch.finfo(dtype).eps * float(max(terms, 1)) ** 0.5


def assert_accurate(
    got: Tensor,
    eager: Tensor,
    exact: Tensor,
    *,
    terms: int = 1,
    magnitude: Tensor | None = None,
) -> None:
    """The error of ``got`` is at most twice that of torch itself, plus rounding.

    Args:
        got: what is tested.
        eager: the same in plain torch, in the same dtype and on the same input.
        exact: the same in float64 from the same (rounded) input.
        terms: length of the sums behind an element.
        magnitude: size of the numbers that are added up; of the result itself if not given.
    """
    assert got.dtype == eager.dtype
    assert got.shape == eager.shape == exact.shape
    if got.numel() == 0:
        return
    error = (got.double() - exact).abs().max().item()
    loss = (eager.double() - exact).abs().max().item()
    size = (exact if magnitude is None else magnitude).abs().max().item()
    assert error <= 2 * loss + rounding(got.dtype, terms) * size, (error, loss, size)


def assert_ssge_accurate(got: Tensor, x: Tensor, sigma: Tensor, rank: int, power: int) -> None:
    """``−U_J Λ_J^{−p} U_Jᵀ H`` within what rounding errors of K may do to it.

    A perturbation of size ‖E‖ of K turns the space of the leading J eigenvectors by
    ‖E‖ / (λ_J − λ_{J+1}) (Davis and Kahan) and changes 1/λ_J by ‖E‖ / λ_J relatively. With ‖E‖ of
    the order of ε √M λ_1, that bounds the error by the norm of H / λ_J^p times the sum of the two.

    Args:
        got: (M, d), of x (M, d) and the bandwidth sigma, in any dtype.
        x: samples, in the dtype of the operator.
        sigma: the bandwidth that the operator used.
        rank: J that the operator used.
        power: p.
    """
    m = x.shape[0]
    exact, values, _, j = reference.ssge(x.double(), sigma.double(), rank=rank, power=power)
    assert j == rank, (j, rank)
    smallest = values[m - rank]
    gap = smallest - values[m - rank - 1] if rank < m else smallest
    h = reference.rbf_gradient_sum(x.double(), bandwidth=sigma.double()).norm()
    turned = values[-1] / gap + power * values[-1] / smallest
    bound = rounding(x.dtype, m) * turned * h / smallest**power
    assert (got.double() - exact).norm() <= bound


# --- fresh interpreters ---------------------------------------------------------------------------


def environment(**extra: str) -> dict[str, str]:
    """Environment variables for a Python that finds the package under test."""
    import mige_ext

    path = str(Path(mige_ext.__file__).parent.parent)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([path, *sys.path[1:]]), **extra}
