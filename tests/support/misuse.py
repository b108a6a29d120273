"""The state of the library's warnings, which are given once in a process."""

from mige_ext import _misuse, _warnings


def forget_warnings() -> None:
    """Let the next call look at its arguments, and give every warning, as in a fresh process."""
    _warnings._given.clear()
    _misuse._reads.clear()
