"""Warnings about calls that are valid but are probably not what the caller meant."""

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from mige_ext._torch_compat import is_transforming


class MigeWarning(UserWarning):
    """A call is valid, but is probably not what was meant; the message says what to do.

    Each kind of warning is given once in a process, and warnings about the values of an argument
    once for each name of an argument. ``warnings.filterwarnings("ignore",
    category=mige_ext.MigeWarning)`` turns all of them off.
    """


_LIBRARIES = tuple(os.path.dirname(file) + os.sep for file in (__file__, torch.__file__))
_given: set[str] = set()


def may_warn(kind: str) -> bool:
    """Whether no warning of this kind was given yet, and tensors have values to read.

    Tensors have no values under ``torch.compile`` and ``torch.func``.
    """
    return not torch.compiler.is_compiling() and kind not in _given and not is_transforming()


@contextmanager
def without_warning(kind: str) -> Iterator[None]:
    """Give no warning of this kind within the block."""
    silent = {kind} - _given
    _given.update(silent)
    try:
        yield
    finally:
        _given.difference_update(silent)


def warn_once(kind: str, message: str) -> None:
    """Give the first warning of its kind, at the line that called the library."""
    if kind in _given:
        return
    level, frame = 1, sys._getframe()
    while frame.f_code.co_filename.startswith(_LIBRARIES) and frame.f_back is not None:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, MigeWarning, stacklevel=level)
    # A filter that turns warnings into errors skips this line, so every call raises the error.
    _given.add(kind)
