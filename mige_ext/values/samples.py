"""Samples before an estimate: without copies, in a fixed order, without dependent columns."""

from collections.abc import Sequence

import torch
from torch import Tensor

#: Columns are linearly dependent if a direction has less variance, relative to the largest. (The
#: columns have variance 1. In float32, rounding has a variance of 1e-15, and of 1e-11 after an
#: offset of a hundred standard deviations.)
DEPENDENT_VARIANCE = 1e-10
#: Values are rounded if the smallest gap, times this number, is at least the median gap.
ROUNDED_GAPS = 20


def without_copies(*columns: Tensor) -> Sequence[Tensor]:
    """The samples, (M, d) each, without copies of earlier rows, such as draws with replacement.

    Copies would look like a dependence, and narrow the density. The rows of data with few values,
    such as rounded data, may coincide by chance. Rows are therefore dropped only if no value of a
    continuous column occurs in two different rows. If there is only one continuous column, its
    values must also not be rounded.
    """
    rows = torch.cat([tensor.double() for tensor in columns], 1)
    _, owner, sizes = rows.unique(dim=0, return_inverse=True, return_counts=True)
    continuous = [tensor for tensor in columns if tensor.dtype.is_floating_point]
    if len(sizes) == len(rows) or len(sizes) < rows.shape[1] + 2:
        return columns
    values = [c.unique() for tensor in continuous for c in tensor.unbind(1)]
    if any(len(of_column) != len(sizes) for of_column in values):
        return columns
    if len(values) == 1 and _are_rounded(values[0]):
        return columns
    places = torch.arange(len(rows), device=rows.device)
    first = places.new_full((len(sizes),), len(rows)).scatter_reduce(0, owner, places, "amin")
    kept = first.sort().values
    return [tensor[kept] for tensor in columns]


def _are_rounded(values: Tensor) -> bool:
    """Whether distinct values, in ascending order, lie on a grid with few empty places.

    The smallest gap of n independent samples is about 1/n of the mean gap. The smallest gap of
    rounded samples is a step of the grid, and the median gap is a few steps.
    """
    gaps = values.double().diff()
    return bool(ROUNDED_GAPS * gaps.min() >= gaps.median())


def in_order(x: Tensor, z: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The samples, sorted by z and then by x, so that the given order does not matter."""
    both = x.double() if z is None else torch.cat((z.double(), x.double()), 1)
    order = torch.arange(len(both), device=both.device)
    for column in reversed(both.unbind(1)):  # by the first column, then the second, ...
        order = order[column[order].argsort(stable=True)]
    return x[order], None if z is None else z[order]


def independent_columns(x: Tensor) -> Tensor:
    """The columns that vary, without columns that depend linearly on the others.

    Normal scores would break a linear dependence, and add directions that only show the sampling
    errors of the ranks.
    """
    x = x[:, (x != x[:1]).any(0)]
    m, d = x.shape
    if d < 2:
        return x
    y = x.double() - x[:1].double()
    y = y / y.abs().amax(0)
    y = y - y.mean(0)
    y = y / y.square().mean(0).sqrt()
    correlations = y.mT @ y / m
    variances = torch.linalg.eigvalsh(correlations)
    rank = int((variances > DEPENDENT_VARIANCE * variances[-1]).sum())
    return x if rank >= min(d, m - 1) else x[:, _pivots(correlations, rank)]


def _pivots(correlations: Tensor, rank: int) -> Tensor:
    """Indices of ``rank`` linearly independent columns: the pivots of a Cholesky decomposition."""
    rest, factor = correlations.diagonal().clone(), correlations[:, :0]
    pivots = list[int]()
    for _ in range(rank):
        pivot = int(rest.argmax())
        column = correlations[:, pivot] - factor @ factor[pivot]
        factor = torch.cat([factor, (column / rest[pivot].sqrt()).unsqueeze(1)], 1)
        rest = rest - factor[:, -1].square()
        pivots.append(pivot)
    return torch.tensor(sorted(pivots), device=correlations.device)
