"""No operator keeps memory after its call."""

import ctypes
from collections.abc import Callable

import pytest
import torch

import mige_ext as mige
from mige_ext import ops
from tests.support.inputs import normal

FIELDS = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"


class HeapFigures(ctypes.Structure):
    """The result of glibc's mallinfo2."""

    _fields_ = [(name, ctypes.c_size_t) for name in FIELDS.split()]


LIBC = ctypes.CDLL(None)
if not hasattr(LIBC, "mallinfo2"):
    pytest.skip("the C library is no glibc from 2.33 on, which counts", allow_module_level=True)
LIBC.mallinfo2.restype = HeapFigures

X = normal(40, 12, 3)
ONE = torch.ones(40, dtype=X.dtype)
OPERATORS: dict[str, Callable[[], object]] = {
    "ssge": lambda: ops.ssge(X),
    "eigh": lambda: ops.eigh(X @ X.mT),
    "rbf_gram": lambda: ops.rbf_gram(X, bandwidth=ONE),
    "distance_quantile": lambda: ops.distance_quantile(X),
    "squared_distances": lambda: ops.squared_distances(X, X),
    "adaptive": lambda: mige.AdaptiveScore(gaussian="qis").score(X),
    "Tikhonov": lambda: mige.Tikhonov().score(X),
    "entropy": lambda: mige.entropy(X.clone().requires_grad_()).backward(),
}


def bytes_in_use() -> int:
    figures = LIBC.mallinfo2()
    return int(figures.uordblks + figures.hblkhd)


@pytest.mark.parametrize("name", OPERATORS)
def test_calls_keep_no_memory(name: str) -> None:
    call, calls = OPERATORS[name], 50
    for _ in range(5):
        call()
    before = bytes_in_use()
    for _ in range(calls):
        call()
    # For comparison: a string that torch leaked in each of 40 eigendecompositions took 96,000
    # bytes.
    assert bytes_in_use() - before < 20_000
