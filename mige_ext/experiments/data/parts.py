"""The split of image sets and tables into parts, and a checksum of the parts."""

import zlib
from collections.abc import Iterable, Sequence

import numpy as np
from torch import Tensor


def checksum(tensors: Iterable[Tensor]) -> str:
    """CRC-32 of the values of all tensors, as eight hexadecimal digits."""
    value = 0
    for tensor in tensors:
        value = zlib.crc32(tensor.cpu().contiguous().numpy().data, value)
    return f"{value:08x}"


def stratified_split(labels: Sequence[int], sizes: Sequence[int], seed: int) -> list[list[int]]:
    """Divide rows into parts of exact sizes with nearly equal fractions of every class.

    The rows of each class are shuffled and placed evenly on [0, 1). All rows, sorted by position,
    are then divided into consecutive parts.

    Args:
        labels: class of each row.
        sizes: number of rows of each part. Their sum is the number of rows.
        seed: seed of the shuffle by NumPy's ``RandomState``, whose stream never changes (NEP 19).

    Returns:
        The shuffled row numbers of each part.

    Raises:
        ValueError: the sizes do not add up to the number of rows.
    """
    if sum(sizes) != len(labels):
        raise ValueError(
            f"sizes must add up to the {len(labels)} rows of labels, "
            f"got {list(sizes)} with sum {sum(sizes)}"
        )
    random = np.random.RandomState(seed)
    label = np.asarray(labels)
    position = np.empty(len(label))
    for value in np.unique(label):
        rows = np.flatnonzero(label == value)
        position[random.permutation(rows)] = (np.arange(len(rows)) + random.rand()) / len(rows)
    pieces = np.split(np.argsort(position, kind="stable"), np.cumsum(sizes)[:-1])
    return [random.permutation(piece).tolist() for piece in pieces]
