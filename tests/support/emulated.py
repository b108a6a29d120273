"""The CUDA emulator from Python. It runs in a separate process, with NumPy arrays.

A sanitizer must be loaded first in a process, and it ends the process if it finds an error. The
separate process also runs this file, so this file must not import torch, and no file of this folder
may have the name of a module of the standard library.
"""

import contextlib
import os
import pickle
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "emulator"
VARIANTS = ("plain", "asan", "tsan")
SCHEDULES = ("ascending", "descending", "shuffled")


class CrashError(RuntimeError):
    """The emulator's process ended. The message is the last output, or the sanitizer's report."""


class Emulator:
    """A module of the emulator, in a separate process.

    Args:
        variant: ``plain``, or ``asan`` or ``tsan`` for a sanitizer.
        module: the module's name.
        schedule: the order in which the threads of a block run, one of ``SCHEDULES``; "" keeps the
            order that the environment sets.
    """

    def __init__(self, variant: str, module: str = "mige_emulator", schedule: str = "") -> None:
        path = BUILD / variant / f"{module}.so"
        if not path.exists():
            raise FileNotFoundError(f"{path} is not built; build it with `make emulator-{variant}`")
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        if schedule:
            environment["MIGE_EMULATOR_SCHEDULE"] = schedule
        command = [sys.executable, str(Path(__file__).resolve()), str(path.parent), module]
        if variant != "plain":
            # Without libstdc++, the sanitizer does not find the function that throws exceptions.
            preloaded = (_library(f"lib{variant}.so"), _library("libstdc++.so"))
            environment["LD_PRELOAD"] = " ".join(preloaded)
            # Python itself leaks memory, so leaks are not reported. A race must end the process for
            # the test to notice it.
            environment["ASAN_OPTIONS"] = "detect_leaks=0"
            environment["TSAN_OPTIONS"] = "halt_on_error=1:ignore_noninstrumented_modules=1"
            environment["UBSAN_OPTIONS"] = "print_stacktrace=1"
        if variant == "tsan":
            command = ["setarch", "-R", *command]  # tsan's shadow memory needs fixed addresses
        self._report = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._report,
            env=environment,
        )
        self.functions: tuple[str, ...] = self._receive()

    def call(self, name: str, *args: Any) -> Any:
        """Call a function of the module with NumPy arrays and plain values."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # _receive() reports the reason
            pickle.dump((name, args), self._process.stdin)
            self._process.stdin.flush()
        return self._receive()

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        # If the process died before it read its input, closing the pipe raises BrokenPipeError.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()
        self._report.close()

    def __enter__(self) -> "Emulator":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _receive(self) -> Any:
        assert self._process.stdout is not None
        try:
            kind, value = pickle.load(self._process.stdout)
        except EOFError:
            status = self._process.wait()
            self._report.seek(0)
            report = self._report.read().decode(errors="replace")
            raise CrashError(f"exit status {status}\n{report}") from None
        if kind == "error":
            raise RuntimeError(value)
        return value


@cache
def _library(name: str) -> str:
    return subprocess.check_output(["g++", f"-print-file-name={name}"], text=True).strip()


def _serve(requests: IO[bytes], replies: IO[bytes], module: Any) -> None:
    def reply(kind: str, value: Any) -> None:
        pickle.dump((kind, value), replies)
        replies.flush()

    reply("result", tuple(name for name in vars(module) if not name.startswith("_")))
    while True:
        try:
            name, args = pickle.load(requests)
        except EOFError:
            return
        try:
            reply("result", getattr(module, name)(*args))
        except Exception as error:
            reply("error", f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    import importlib

    # Output that a kernel prints must not mix with the replies.
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    sys.path.insert(0, sys.argv[1])
    _serve(sys.stdin.buffer, replies, importlib.import_module(sys.argv[2]))
