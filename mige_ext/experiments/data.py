"""Data sets of the experiments: uint8 images with a fixed train / validation / test split.

Images stay uint8 in memory, a quarter of float32, and become floats a batch at a time
(`ImageData.normalise`). A new set is one function decorated with `_register`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Split:
    """Images and their labels.

    Attributes:
        images: (N, C, H, W) uint8.
        labels: (N,) int64.
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        """Check shapes and dtypes."""
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            raise ValueError(
                "images must be uint8 of shape (N, C, H, W), "
                f"got {self.images.dtype} of shape {tuple(self.images.shape)}"
            )
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            raise ValueError(
                f"labels must be int64 of shape ({len(self.images)},), "
                f"got {self.labels.dtype} of shape {tuple(self.labels.shape)}"
            )

    def __len__(self) -> int:
        """Count the images."""
        return len(self.images)


@dataclass(frozen=True)
class ImageData:
    """A labelled image set in three parts, and how its pixels become network input.

    Attributes:
        name: the name it is loaded by.
        train: what gradients see.
        validation: what choices are made on.
        test: what is read once, at the end.
        classes: number of labels, 0 ... classes - 1.
        centre: pixel value that becomes 0, one for each channel or one for all.
        scale: pixel distance that becomes 1, likewise.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    classes: int
    centre: tuple[float, ...]
    scale: tuple[float, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    def normalise(self, images: Tensor) -> Tensor:
        """Turn uint8 images into float32 network input, `(images - centre) / scale`.

        Args:
            images: (N, C, H, W) uint8.

        Returns:
            (N, C, H, W) float32.
        """
        centre = torch.tensor(self.centre, device=images.device).view(-1, 1, 1)
        scale = torch.tensor(self.scale, device=images.device).view(-1, 1, 1)
        return (images.float() - centre) / scale


_LOADERS: dict[str, Callable[[Path | None], ImageData]] = {}


def _register(load_set: Callable[[Path | None], ImageData]) -> Callable[[Path | None], ImageData]:
    _LOADERS[load_set.__name__] = load_set
    return load_set


def names() -> list[str]:
    """Names that `load` knows."""
    return sorted(_LOADERS)


def load(name: str, data_dir: Path | None = None) -> ImageData:
    """Load a data set by name.

    Args:
        name: one of `names()`.
        data_dir: folder with the set's files; sets that are embedded in a package need none.

    Returns:
        The set, in its fixed split.

    Raises:
        ValueError: for a name that is not registered.
        ImportError: where the package that embeds the set is missing.
    """
    if name not in _LOADERS:
        raise ValueError(f"name must be one of {names()}, got {name!r}")
    return _LOADERS[name](data_dir)


def stratified_split(labels: Sequence[int], sizes: Sequence[int], seed: int) -> list[list[int]]:
    """Partition rows into parts of exact sizes in which every class keeps its share, almost.

    The rows of each class are shuffled and laid out evenly on [0, 1); the merged line, cut into
    consecutive pieces, then gives each piece its share of every class.

    Args:
        labels: class of each row.
        sizes: number of rows of each part; their sum is the number of rows.
        seed: of the shuffle, by NumPy's `RandomState`, whose stream is frozen for good (NEP 19).

    Returns:
        For each part, its row numbers, shuffled.

    Raises:
        ValueError: where the sizes do not add up to the number of rows.
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


@_register
def digits(data_dir: Path | None = None) -> ImageData:
    """1,797 real handwritten digits of 8×8 pixels with values 0 ... 16, embedded in scikit-learn.

    The test part of UCI's "Optical Recognition of Handwritten Digits". It has no official split, so
    a stratified one is part of this definition: 500 training, 500 validation and 797 test images,
    seed 0. Few images to train on, so that regularisation matters, and many to measure with.

    Args:
        data_dir: not needed, the images lie inside the scikit-learn package.

    Returns:
        The set.

    Raises:
        ImportError: where scikit-learn is missing.
    """
    del data_dir
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "the digits lie inside scikit-learn, which is not installed: "
            "pip install 'mige_ext[experiments]'"
        ) from error

    bunch = load_digits()
    images = torch.from_numpy(bunch.images).to(torch.uint8).unsqueeze(1)  # (1797, 1, 8, 8)
    labels = torch.from_numpy(bunch.target).long()
    parts = stratified_split(labels.tolist(), sizes=(500, 500, 797), seed=0)
    train, validation, test = (Split(images[rows], labels[rows]) for rows in parts)
    return ImageData("digits", train, validation, test, classes=10, centre=(8.0,), scale=(8.0,))
