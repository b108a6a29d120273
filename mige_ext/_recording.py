"""Records of the choices that estimators make inside surrogates: :func:`mige_ext.recording`.

A surrogate is the result of an information function (:mod:`mige_ext.information`). An information
function begins a record (:func:`begin`). An estimator may report its choices
(:func:`report`). Then ``_gradients.py``, which computes the gradient from the scores, adds the
report to the record as a term (:func:`add`). These functions do nothing unless a recording is
active.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class TermRecord:
    """The choices of an estimator for one term of a surrogate, one value for each group, (...).

    A quantity that the estimator does not have is None.
    """

    #: ``−mean(s·(z − m)) / d`` before ``calibrate`` divides the scores, with m the mean of the
    #: samples; 1 for the true score
    calibration: Tensor | None = None
    lam: Tensor | None = None  #: :attr:`AdaptiveDiagnostics.lam`
    base: Tensor | None = None  #: :attr:`AdaptiveDiagnostics.base`
    nu: Tensor | None = None  #: :attr:`AdaptiveDiagnostics.nu`
    risk: Tensor | None = None  #: :attr:`AdaptiveDiagnostics.risk`


_QUANTITIES = tuple(each.name for each in fields(TermRecord))


@dataclass(frozen=True, eq=False)
class SurrogateRecord:
    """The choices of estimators in one call of an information function."""

    name: str  #: the function, such as "mutual_information"
    _terms: "dict[str, TermRecord | Calibration]" = field(default_factory=dict)

    @property
    def terms(self) -> dict[str, TermRecord]:
        """The terms by name.

        - "x" and "z": the entropies of the marginals;
        - "joint": the entropy of (x, z);
        - "product": the entropy of the permuted pairs of ``marginal="matched"``;
        - "z given x": the entropy of z given x, in ``encoder_information`` and for a category x.

        For a category x, ``marginal="paired"`` estimates no scores and has no terms. With a
        category x or ``given``, a term has one value for each of the largest classes, and no values
        for smaller classes.
        """
        for name, term in self._terms.items():
            if isinstance(term, Calibration):
                self._terms[name] = TermRecord(term.value())
        return self._terms  # type: ignore[return-value]

    def __repr__(self) -> str:
        """The name and the terms."""
        return f"SurrogateRecord(name={self.name!r}, terms={self.terms!r})"


class Calibration(NamedTuple):
    """The numbers from which a calibration is computed when the record is read."""

    sums: Tensor  #: the surrogate's value of each group, (...)
    varying: tuple[Tensor, ...]  #: the number of varying columns of each block of columns

    def value(self) -> Tensor:
        """``−mean(s·(z − m)) / d`` of each group, (...), where d counts the varying columns."""
        shape = self.sums.shape
        varying = torch.stack([count.reshape(shape) for count in self.varying]).sum(0)
        return self.sums * self.sums.numel() / varying.clamp(min=1)


@contextmanager
def recording() -> Iterator[list[SurrogateRecord]]:
    """Record the choices of estimators in every surrogate that is computed inside the block.

    A record has a few numbers for each group of samples, and not the samples. On a GPU no value is
    read, so the host does not wait.

        >>> import torch, mige_ext as mige
        >>> x, z = torch.randn(64, 3), torch.randn(64, 2, requires_grad=True)
        >>> with mige.recording() as log:
        ...     (-mige.mutual_information(x, z)).backward()
        >>> log[0].name, list(log[0].terms)
        ('mutual_information', ['joint', 'z'])
        >>> log[0].terms["joint"].lam.shape
        torch.Size([])

    Surrogates of other threads are not recorded. A surrogate that ``torch.utils.checkpoint``
    computes again in the backward pass is recorded twice if the backward pass runs on the same
    thread, as it does on the CPU.

    Returns:
        A context manager, which gives the list of the records, in the order of the calls.

    Raises:
        RuntimeError: ``torch.compile`` traces a surrogate or this function during a recording.

    Cost:
        O(Md) for a calibration that the estimator does not compute itself.
    """
    _refuse_tracing()
    started = _Recording()
    _active.append(started)
    try:
        yield started.records
    finally:
        _active.remove(started)


def begin(name: str) -> None:
    """Begin the record of a call of the information function ``name``."""
    if not _active:
        return
    _refuse_tracing()
    for each in _of_this_thread():
        each.reported.clear()
        each.records.append(SurrogateRecord(name))


def report(diagnostics: object, term: str = "") -> None:
    """Report the diagnostics of an estimate. Diagnostics without a calibration are ignored.

    Args:
        diagnostics: an object with some of the fields of :class:`TermRecord`.
        term: the name of the term, such as "joint"; by default the term that is added next.
    """
    for each in _of_this_thread():
        if getattr(diagnostics, "calibration", None) is None:
            return
        each.reported[term] = TermRecord(
            *(getattr(diagnostics, name, None) for name in _QUANTITIES)
        )


def report_nothing() -> None:
    """Report a term without values, unless the estimator has reported a term.

    A process of a distributed batch has only some of the scores, from which :func:`add` cannot
    compute the calibration.
    """
    for each in _of_this_thread():
        each.reported.setdefault("", TermRecord())


def add(name: str, calibration: Callable[[], Calibration]) -> None:
    """Add a term to the record. ``calibration`` is called if the estimator has reported nothing."""
    for each in _of_this_thread():
        term = None
        if each.reported:
            term = each.reported.pop(name, None) or each.reported.pop("", None)
        if each.records:
            each.records[-1]._terms[name] = term or calibration()


@dataclass(eq=False)
class _Recording:
    records: list[SurrogateRecord] = field(default_factory=list)
    reported: dict[str, TermRecord] = field(default_factory=dict)  # terms not yet in a record
    thread: int = field(default_factory=threading.get_ident)


_active: list[_Recording] = []


def _of_this_thread() -> list[_Recording]:
    if not _active:
        return []
    # A copy, because another thread may change the list.
    return [each for each in list(_active) if each.thread == threading.get_ident()]


def _refuse_tracing() -> None:
    if torch.compiler.is_compiling():
        raise RuntimeError(
            "mige_ext.recording does not work under torch.compile: call the surrogates outside the "
            "compiled function, or end the recording first"
        )
