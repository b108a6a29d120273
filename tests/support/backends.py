"""The back ends of the conformance suite: the CPU, the emulated CUDA kernels, a GPU."""

import atexit
import inspect
import os
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mige_ext import ops
from mige_ext.ops import OPERATORS as OPERATORS
from tests.support.emulated import CrashError, Emulator


def map_tensors(f: Callable[[Tensor], Tensor], value: Any) -> Any:
    """``value``, which has nested tuples and dicts, with f applied to every tensor."""
    if isinstance(value, Tensor):
        return f(value)
    if isinstance(value, tuple):
        return tuple(map_tensors(f, v) for v in value)
    if isinstance(value, dict):
        return {k: map_tensors(f, v) for k, v in value.items()}
    return value


class Backend:
    """The CPU. A back end has the operators of ``mige_ext.ops`` as methods on CPU tensors.

    A subclass lists its operators. Its method ``operator`` returns a function that moves the
    tensors to the device and the results back. The conformance suite runs on all ``BACKENDS``.
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
    """The CUDA kernels on the CPU, in the emulator that ``MIGE_EMULATOR`` names.

    The threads of a block run in the order ``schedule``. The default, "shuffled", finds most
    missing barriers.
    """

    name = "emulated"

    def __init__(self) -> None:
        self.schedule = os.environ.get("MIGE_EMULATOR_SCHEDULE", "shuffled")
        self._emulator: Emulator | None = None  # started when first needed

    def settings(self, name: str, *args: Any) -> None:
        """Calls a function of the emulator that changes a setting of the device."""
        self._call(name, *args)

    def read(self, name: str) -> Any:
        """Calls a function of the emulator that returns plain values."""
        return self._call(name)

    def call(self, name: str, *args: Any) -> Any:
        """Calls a function of the emulator; arguments and results are tensors."""
        arrays = (a.contiguous().numpy() if isinstance(a, Tensor) else a for a in args)
        result = self._call(name, *arrays)
        if isinstance(result, tuple):
            return tuple(torch.from_numpy(np.asarray(r)) for r in result)
        return torch.from_numpy(np.asarray(result))

    def _call(self, name: str, *args: Any) -> Any:
        if self._emulator is None:
            self._emulator = Emulator(
                os.environ.get("MIGE_EMULATOR", "plain"), schedule=self.schedule
            )
            atexit.register(self._emulator.close)
        try:
            return self._emulator.call(name, *args)
        except CrashError:
            self._emulator = None  # the next call starts a new process
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


def _for_each(backends: Iterable[Backend], operators: tuple[str, ...]) -> pytest.MarkDecorator:
    have_them = [b for b in backends if set(operators) <= set(b.operators)]
    return pytest.mark.parametrize("backend", have_them, ids=lambda backend: backend.name)


def for_each_backend(*operators: str) -> pytest.MarkDecorator:
    """Parametrizes ``backend`` over the back ends that have the operators."""
    return _for_each(BACKENDS, operators)


def for_each_kernel(*operators: str) -> pytest.MarkDecorator:
    """Parametrizes ``backend`` over the back ends that run the CUDA kernels of the operators."""
    return _for_each([b for b in BACKENDS if b.name != "cpu"], operators)
