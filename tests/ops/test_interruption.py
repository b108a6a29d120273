"""Ctrl-C ends a long operator, and a signal handler that raises nothing does not disturb it."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

import pytest
import torch
from torch import Tensor

from mige_ext import ops
from tests.support.inputs import for_each_dtype, normal
from tests.support.process import environment

SECONDS = 2.0  # within which an interrupted operator must end
AFTER = 0.3  # seconds after its start, an operator is interrupted

# Calls that take several seconds, nearly all of them in one kind of loop.
LONG: dict[str, tuple[Callable[[Tensor], object], tuple[int, ...]]] = {
    "blocks of an inverse": (ops.adaptive_score, (3000, 3)),
    "groups": (ops.ssge, (1000, 128, 4)),
    "groups of eigh": (ops.eigh, (1000, 128, 128)),
    "rows": (ops.squared_distances, (12_000, 600)),
}


# One eigendecomposition takes 5 s or more. A process that ends does not wait for it.
ABANDONED = """
import os, signal, sys, threading, time
import torch
from mige_ext import ops

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background ignores it
torch.set_num_threads(2)
large = torch.randn(3000, 3000, dtype=torch.float64)
calls = {
    "eigh": lambda: ops.eigh(large),
    "groups": lambda: ops.eigh(large.expand(2, 3000, 3000)),
    "ssge": lambda: ops.ssge(large[:, :4]),
}
ops.ssge(torch.randn(2, 1000, 4))  # starts the threads of torch

def threads():
    return len(os.listdir("/proc/self/task"))

before = threads()

def new_threads(count):
    # A thread that was joined may still be listed for a moment.
    deadline = time.monotonic() + 1
    while threads() - before > count and time.monotonic() < deadline:
        time.sleep(0.01)
    return threads() - before

def interrupt(count):
    deadline = time.monotonic() + 60
    while threads() < before + 1 + count:  # with the thread of this loop
        if time.monotonic() > deadline:
            os._exit(3)  # no thread was started
        time.sleep(0.01)
    time.sleep(0.1)
    sent.append(time.monotonic())
    os.kill(os.getpid(), signal.SIGINT)

def call(name, count=1):
    interrupter.append(threading.Thread(target=interrupt, args=[count]))
    interrupter[0].start()
    calls[name]()

sent, interrupter = [], []
"""


class _InterruptedError(Exception):
    pass


def _raise(number: int, frame: FrameType | None) -> None:
    raise _InterruptedError


@pytest.fixture
def _handler() -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


def _interrupt_soon(after: float = AFTER) -> threading.Timer:
    timer = threading.Timer(after, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    return timer


@pytest.mark.usefixtures("_handler")
@pytest.mark.parametrize("name", LONG)
def test_a_long_operator_ends_with_the_exception_of_the_signal_handler(name: str) -> None:
    signal.signal(signal.SIGINT, _raise)
    f, shape = LONG[name]
    x = normal(*shape)
    start = time.monotonic()
    timer = _interrupt_soon()
    with pytest.raises(_InterruptedError):
        f(x)
    timer.join()
    assert time.monotonic() - start < AFTER + SECONDS


IMPORTED_BY_A_THREAD = """
import os, signal, threading, time
import torch

signal.signal(signal.SIGINT, signal.default_int_handler)
importer = threading.Thread(target=lambda: __import__("mige_ext.ops"))
importer.start()
importer.join()
from mige_ext import ops

x = torch.randn(12_000, 600, dtype=torch.float64)
start = time.monotonic()
threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    ops.squared_distances(x)
except KeyboardInterrupt:
    print("interrupted", time.monotonic() - start)
"""


def test_the_main_thread_is_interrupted_if_another_thread_imported_the_library() -> None:
    result = subprocess.run(
        [sys.executable, "-c", IMPORTED_BY_A_THREAD],
        capture_output=True, text=True, env=environment(),
    )  # fmt: skip
    said, seconds = result.stdout.split()
    assert said == "interrupted" and float(seconds) < 0.3 + SECONDS


@pytest.mark.usefixtures("_handler")
def test_control_c_is_a_keyboard_interrupt() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    f, shape = LONG["rows"]
    x = normal(*shape)
    timer = _interrupt_soon()
    with pytest.raises(KeyboardInterrupt):
        f(x)
    timer.join()
    ops.squared_distances(normal(4, 2))  # The next operator is not affected.


@pytest.mark.usefixtures("_handler")
def test_an_exception_that_nobody_took_replaces_no_later_error() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    x = normal(*LONG["rows"][1])
    timer = _interrupt_soon()
    with pytest.raises(RuntimeError):
        torch.ops.mige_ext.squared_distances(x, None)  # as compiled code calls an operator
    timer.join()
    with pytest.raises(RuntimeError, match="bandwidth must be positive"):
        ops.rbf_gram(normal(4, 2), bandwidth=torch.tensor(-1.0, dtype=torch.float64))


@pytest.mark.usefixtures("_handler")
def test_an_operator_continues_after_a_handler_that_raises_nothing() -> None:
    seen = []
    signal.signal(signal.SIGINT, lambda number, frame: seen.append(time.monotonic()))
    x = normal(500, 128, 4)  # about half a second, far longer than the time until the signal
    timer = _interrupt_soon(0.02)
    score = ops.ssge(x)[0]
    end = time.monotonic()
    timer.join()
    assert seen and seen[0] < end
    assert torch.equal(score, ops.ssge(x)[0])


def test_other_threads_are_not_interrupted() -> None:
    results = []
    x = normal(40, 64, 4)
    thread = threading.Thread(target=lambda: results.append(ops.ssge(x)[0]))
    thread.start()
    thread.join()
    assert torch.equal(results[0], ops.ssge(x)[0])


def _run(script: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", ABANDONED + script]
    return subprocess.run(
        command, env=environment(), capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.parametrize("name, count", [("eigh", 1), ("groups", 2), ("ssge", 1)])
def test_one_eigendecomposition_is_abandoned(name: str, count: int) -> None:
    done = _run(f"""
try:
    call("{name}", {count})
except KeyboardInterrupt:
    print(time.monotonic() - sent[0])
interrupter[0].join()
print(new_threads({count}))
k = torch.randn(1000, 1000)
values, vectors = ops.eigh(k)  # while the abandoned one is computed
print(new_threads({count}))
thread = threading.Thread(target=lambda: print(torch.equal(ops.eigh(k)[1], vectors)))
thread.start()
thread.join()
""")
    assert (done.returncode, done.stderr) == (0, "")
    seconds, abandoned, later, equal = done.stdout.split()
    assert float(seconds) < SECONDS
    assert int(abandoned) == int(later) == count
    assert equal == "True"


@pytest.mark.parametrize(
    "repetition", [0, *(pytest.param(n, marks=pytest.mark.thorough) for n in (1, 2))]
)
def test_a_process_ends_by_control_c_while_lapack_computes(repetition: int) -> None:
    done = _run('call("eigh")')
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1] == "KeyboardInterrupt"
    assert done.returncode == -signal.SIGINT  # which a shell shows as 130


def test_a_forked_process_decomposes_while_its_parent_has_an_abandoned_call() -> None:
    done = _run("""
try:
    call("eigh")
except KeyboardInterrupt:
    pass
interrupter[0].join()
k = torch.randn(1000, 1000)
vectors = ops.eigh(k)[1]
torch.set_num_threads(1)  # as in a worker of DataLoader: OpenMP's threads do not survive a fork
if os.fork() == 0:
    os._exit(0 if torch.equal(ops.eigh(k)[1], vectors) else 1)
print(os.waitstatus_to_exitcode(os.wait()[1]))
""")
    assert (done.stderr, done.stdout.strip(), done.returncode) == ("", "0", 0)


@for_each_dtype
def test_a_thread_that_cannot_be_interrupted_computes_the_same_bits(dtype: torch.dtype) -> None:
    # The main thread waits for a new thread. Any other thread calls LAPACK itself.
    results: dict[str, tuple[Tensor, Tensor]] = {}
    k = normal(1000, 1000, dtype=dtype)
    thread = threading.Thread(target=lambda: results.update(other=ops.eigh(k)))
    thread.start()
    thread.join()
    with torch.inference_mode():
        results["inference"] = ops.eigh(k.clone())
    for values, vectors in results.values():
        expected = ops.eigh(k)
        assert torch.equal(values, expected[0])
        assert torch.equal(vectors, expected[1])


@pytest.mark.usefixtures("_handler")
def test_a_large_eigendecomposition_continues_after_a_handler_that_raises_nothing() -> None:
    seen = []
    signal.signal(signal.SIGINT, lambda number, frame: seen.append(time.monotonic()))
    k = normal(1500, 1500)
    expected = ops.eigh(k)[1]
    timer = _interrupt_soon(0.05)
    vectors = ops.eigh(k)[1]
    end = time.monotonic()
    timer.join()
    assert seen and seen[0] < end
    assert torch.equal(vectors, expected)
