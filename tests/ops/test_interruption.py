"""Ctrl-C ends a long operator, and a signal handler that raises nothing does not disturb it."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

import pytest
import torch
from torch import Tensor

from mige_ext import ops
from tests.support.inputs import normal

SECONDS = 2.0  # within which an interrupted operator must end
AFTER = 0.3  # seconds after its start, an operator is interrupted

# Calls that take several seconds, nearly all of them in one kind of loop.
LONG: dict[str, tuple[Callable[[Tensor], object], tuple[int, ...]]] = {
    "blocks of an inverse": (ops.adaptive_score, (3000, 3)),
    "groups": (ops.ssge, (1000, 128, 4)),
    "groups of eigh": (ops.eigh, (1000, 128, 128)),
    "rows": (ops.squared_distances, (12_000, 600)),
}


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
