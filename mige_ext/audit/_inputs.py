"""The arguments of an audit: checks, classes or bins of s, and the division into parts."""

import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mige_ext import _checks
from mige_ext._warnings import warn_once

#: Fewest rows to train attackers on, and fewest test rows.
LEAST_TRAIN, LEAST_TEST = 50, 10
#: Least mean number of training rows in a class.
ROWS_PER_CLASS = 5


@dataclass(frozen=True)
class Rows:
    """Rows of z and s."""

    z: Tensor  # (N, d) float64
    label: Tensor  # (N,) int64, class or bin of s
    s: Tensor | None  # (N, k) float64, None if s is categorical

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.z)

    def __getitem__(self, rows: Tensor) -> "Rows":
        """Select rows."""
        return Rows(self.z[rows], self.label[rows], None if self.s is None else self.s[rows])


class Parts(NamedTuple):
    """The rows of an audit in three parts."""

    fit: Rows  # fit the attackers
    validation: Rows  # choose among the attackers
    test: Rows  # measure the attackers
    classes: int  # number of classes or bins


def divide(z: Any, s: Any, test: Any, bins: int, generator: torch.Generator) -> Parts:
    """Check the arguments, and divide the rows into three parts.

    Args:
        z: codes (N, d).
        s: (N,) or (N, k).
        test: a fraction of the rows, or a pair (z, s) of other rows.
        bins: largest number of bins of a continuous s.
        generator: generator of the random division.

    Raises:
        TypeError: an argument has another type.
        ValueError: an argument has another shape, or unusable values.
    """
    codes, nuisance = _codes("z", z), _nuisance("s", s)
    _require_rows("s", nuisance, "z", codes)
    if isinstance(test, Real) and not isinstance(test, bool):
        fraction = float(test)
        if not 0 < fraction < 1:
            raise ValueError(f"test must be a fraction between 0 and 1, or (z, s), got {test!r}")
        test_size = round(fraction * len(codes))
        order = torch.randperm(len(codes), generator=generator).to(codes.device)
        test_rows, train_rows = order[:test_size], order[test_size:]
        parts = [(codes[rows], nuisance[rows]) for rows in (train_rows, test_rows)]
    elif isinstance(test, Sequence) and len(test) == 2:
        other = _codes("test z", test[0]).to(codes.device)
        others = _nuisance("test s", test[1]).to(codes.device)
        _require_like_training(other, others, codes, nuisance)
        order = torch.randperm(len(codes), generator=generator).to(codes.device)
        parts = [(codes[order], nuisance[order]), (other, others)]
    else:
        raise TypeError(
            f"test must be a fraction between 0 and 1, or (z, s), got {reprlib.repr(test)}"
        )
    needed = (("training", LEAST_TRAIN), ("test", LEAST_TEST))
    for (rows, _), (part, least) in zip(parts, needed, strict=True):
        if len(rows) < least:
            raise ValueError(f"z must have at least {least} {part} rows, got {len(rows)} rows")
    labels, classes = _labels(parts[0][1], parts[1][1], bins)
    train, target = (
        Rows(z, label, s if s.is_floating_point() else None)
        for (z, s), label in zip(parts, labels, strict=True)
    )
    validation_size = len(train) // 5
    everything = torch.arange(len(train), device=codes.device)
    fit, validation = train[everything[validation_size:]], train[everything[:validation_size]]
    return Parts(fit, validation, target, classes)


def binned(s: Tensor, others: Tensor, count: int) -> tuple[Tensor, Tensor, int]:
    """Bins of nearly equal probability for a continuous s.

    Every bin is split at the median of its column of largest variance, until there are ``count``
    bins. For one column, the bins are intervals between quantiles.

    Args:
        s: (N, k) float64, whose medians split the bins.
        others: (N', k) float64, further rows.
        count: a power of two.

    Returns:
        The bin of each row of s (N,), the bin of each row of others (N',), the number of bins.
    """
    label, other_label = (x.new_zeros(len(x), dtype=torch.long) for x in (s, others))
    for _ in range(count.bit_length() - 1):
        right, other_right = torch.zeros_like(label), torch.zeros_like(other_label)
        for each in label.unique().tolist():
            rows, other_rows = label == each, other_label == each
            column = int(s[rows].var(0, unbiased=False).argmax())
            at = s[rows, column].kthvalue(int(rows.sum()) // 2 + 1).values
            right[rows] = (s[rows, column] >= at).long()
            other_right[other_rows] = (others[other_rows, column] >= at).long()
        label, other_label = 2 * label + right, 2 * other_label + other_right
    used = label.unique()
    return torch.searchsorted(used, label), torch.searchsorted(used, other_label), len(used)


def _labels(s: Tensor, others: Tensor, bins: int) -> tuple[tuple[Tensor, Tensor], int]:
    """The class or bin of each training row and test row, and the number of classes or bins."""
    distinct = s.unique(dim=0)
    if len(distinct) == 1:
        value = distinct[0].tolist()
        raise ValueError(f"s must have at least two values in the training rows, got only {value}")
    if len(others.unique(dim=0)) == 1:
        raise ValueError("s must have at least two values in the test rows, got one")
    if s.is_floating_point():
        if len(distinct) <= bins:
            raise ValueError(
                f"s must have more than {bins} values if s is continuous, got {len(distinct)} "
                "floating-point values: pass integers if s is a category, or fewer bins"
            )
        label, other_label, count = binned(s, others, bins)
        return (label, other_label), count
    classes = torch.cat([distinct, others]).unique()
    if len(classes) * ROWS_PER_CLASS > len(s):
        raise ValueError(
            f"s must have at least {ROWS_PER_CLASS} training rows per class on average, got "
            f"{len(classes)} classes in {len(s)} rows: pass floats if s is a quantity"
        )
    return (torch.searchsorted(classes, s), torch.searchsorted(classes, others)), len(classes)


def _require_like_training(z: Tensor, s: Tensor, codes: Tensor, nuisance: Tensor) -> None:
    _require_rows("test s", s, "test z", z)
    if z.shape[1] != codes.shape[1]:
        raise ValueError(
            f"test z must have the {codes.shape[1]} columns of z, got {z.shape[1]} columns"
        )
    kinds = ["continuous" if x.is_floating_point() else "categorical" for x in (s, nuisance)]
    if s.shape[1:] != nuisance.shape[1:] or kinds[0] != kinds[1]:
        raise ValueError(
            f"test s must be like s, {kinds[1]} with {_columns(nuisance)}, "
            f"got {kinds[0]} with {_columns(s)}"
        )
    if kinds[0] == "categorical":
        _warn_of_unknown_classes(s, nuisance)


def _warn_of_unknown_classes(s: Tensor, nuisance: Tensor) -> None:
    """Warn of classes without training rows. Training and test set may number classes differently.

    Raises:
        ValueError: no class of the test rows has training rows.
    """
    unknown = ~torch.isin(s, nuisance)
    count = int(unknown.sum())
    if not count:
        return
    found = (
        f"{reprlib.repr(s[unknown].unique().tolist())} in {count} of {len(s)} test rows: no "
        "attacker can predict a class without training rows. Number the classes of both sets alike"
    )
    if count == len(s):
        raise ValueError(f"test s must have the classes of s, got {found}")
    warn_once("classes", f"test s has classes that s does not have, {found}")


def _columns(s: Tensor) -> str:
    count = 1 if s.dim() == 1 else s.shape[1]
    return f"{count} column{'s' if count > 1 else ''}"


def _require_rows(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    if len(value) != len(other):
        raise ValueError(
            f"{name} must have the {len(other)} rows of {other_name}, got {len(value)} rows"
        )


def _tensor(name: str, value: Any, hint: str = "") -> Tensor:
    """Convert an array or a tensor of numbers. ``hint`` ends the error about another dtype."""
    if not isinstance(value, Tensor):
        try:
            array = np.asarray(value)
        except (ValueError, RuntimeError) as error:  # such as rows of different lengths
            raise ValueError(f"{name} must be an array or tensor of numbers: {error}") from None
        if array.dtype.kind not in "biuf":
            raise TypeError(
                f"{name} must be an array or tensor of numbers, got dtype {array.dtype}{hint}"
            )
        # A copy, because torch does not take every byte order, stride and precision.
        dtype = {"b": np.bool_, "f": np.float64}.get(array.dtype.kind, np.int64)
        value = torch.from_numpy(array.astype(dtype, order="C"))
    if value.is_complex() or value.layout != torch.strided:
        raise TypeError(f"{name} must be a dense tensor of real numbers, got {value.dtype}")
    _checks.require_values(name, value)
    value = value.detach()
    if value.is_floating_point() and not bool(value.isfinite().all()):
        bad = int((~value.isfinite()).sum())
        raise ValueError(f"{name} must be finite, got {bad} values that are NaN or infinite")
    return value


def _codes(name: str, value: Any) -> Tensor:
    tensor = _tensor(name, value)
    if tensor.dim() != 2 or tensor.shape[1] < 1:
        raise ValueError(f"{name} must have shape (N, d) with d >= 1, got {tuple(tensor.shape)}")
    return tensor.double()


def _nuisance(name: str, value: Any) -> Tensor:
    """A continuous s as (N, k) float64, or a categorical s as (N,) int64."""
    hint = "; np.unique(s, return_inverse=True)[1] turns names into integers"
    tensor = _tensor(name, value, hint)
    if tensor.is_floating_point():
        if tensor.dim() == 1:
            tensor = tensor[:, None]
        if tensor.dim() != 2 or tensor.shape[1] < 1:
            raise ValueError(f"{name} must have shape (N,) or (N, k), got {tuple(tensor.shape)}")
        return tensor.double()
    if tensor.dim() == 2 and tensor.shape[1] == 1:
        tensor = tensor[:, 0]
    if tensor.dim() != 1:
        raise ValueError(
            f"{name} must have shape (N,) if s is categorical (here {tensor.dtype}), "
            f"got {tuple(tensor.shape)}"
        )
    return tensor.long()
