"""The state of the library's warnings, which are given once in a process."""

from mige_ext import _misuse, _warnings


def forget_warnings() -> None:
    """Forget which warnings were given, as in a fresh process.

    After several calls with the same shape, the library looks at the values of arguments only from
    time to time. The next call looks at them again.
    """
    _warnings._given.clear()
    _misuse._reads.clear()
