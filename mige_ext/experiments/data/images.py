"""The image sets of the experiments, with a fixed split into training, validation and test images.

Images are uint8 in memory, and each batch is converted to float32 on the device of the images
(:meth:`ImageData.normalize`).

========= ==================================================================================
name      images
========= ==================================================================================
digits    1,797 handwritten digits, 8×8, a part of scikit-learn
mnist     70,000 handwritten digits, 28×28
fashion   70,000 pieces of clothing, 28×28, 10 classes
cifar10   60,000 color images, 32×32, 10 classes, standardized by channel
cifar100  60,000 color images, 32×32, 100 classes, standardized by channel
idx       any images in MNIST's four files, in the folder ``--data-dir``
========= ==================================================================================
"""

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from mige_ext.experiments.data import download
from mige_ext.experiments.data.formats import Arrays
from mige_ext.experiments.data.parts import checksum, stratified_split
from mige_ext.experiments.data.registry import IDX, PUBLISHED


@dataclass(frozen=True)
class Split:
    """Images and their labels."""

    images: Tensor  # (N, C, H, W) uint8
    labels: Tensor  # (N,) int64

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
        """Return the number of images."""
        return len(self.images)

    def to(self, device: torch.device | str) -> "Split":
        """Copy to a device."""
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class ImageData:
    """A labeled image set in three parts, and the numbers that normalize its pixels."""

    name: str
    train: Split  # for gradients
    validation: Split  # for the choice of settings
    test: Split  # read once, at the end
    classes: int  # labels are 0 ... classes - 1
    center: tuple[float, ...]  # pixel value that ``normalize`` maps to 0, per channel or for all
    scale: tuple[float, ...]  # difference of pixel values that ``normalize`` maps to 1
    max_pixel: int = 255  # largest possible pixel value

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    @property
    def device(self) -> torch.device:
        """Device of the images."""
        return self.train.images.device

    def checksum(self) -> str:
        """CRC-32 of all images and labels, to detect other files with the same names."""
        parts = (self.train, self.validation, self.test)
        return checksum(tensor for part in parts for tensor in (part.images, part.labels))

    def to(self, device: torch.device | str) -> "ImageData":
        """Copy to a device."""
        parts = {part: getattr(self, part).to(device) for part in ("train", "validation", "test")}
        return replace(self, **parts)

    def all_training(self) -> Split:
        """Training and validation images together, to train again with the chosen settings."""
        parts = (self.train, self.validation)
        return Split(
            torch.cat([part.images for part in parts]), torch.cat([part.labels for part in parts])
        )

    def normalize(self, images: Tensor) -> Tensor:
        """Turn uint8 images into float32 network input, ``(images - center) / scale``.

        Args:
            images: (N, C, H, W) uint8.

        Returns:
            (N, C, H, W) float32.
        """
        center, scale = (_by_channel(of, images.device) for of in (self.center, self.scale))
        return (images.float() - center) / scale


@cache  # because a copy to the GPU in each step would wait for the GPU
def _by_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    return torch.tensor(values, device=device).view(-1, 1, 1)


def names() -> list[str]:
    """The names of all image sets."""
    return sorted(["digits", "idx", *PUBLISHED])


def load(name: str, data_dir: Path | None = None) -> ImageData:
    """Load an image set by name.

    Args:
        name: one of :func:`names`.
        data_dir: folder with the files of the set, required only for "idx", whose files are read
            each time. :mod:`~mige_ext.experiments.data.download` says where published sets are
            searched.

    Returns:
        The set with its fixed split.

    Raises:
        ValueError: the name is unknown, or files are damaged.
        ImportError: scikit-learn, which contains the digits, is missing.
        OSError: ``data_dir`` is not a folder, or the files are not found.
    """
    if name not in names():
        raise ValueError(f"--data must be one of {', '.join(names())}, got {name!r}")
    if data_dir is not None and not data_dir.is_dir():
        raise NotADirectoryError(f"--data-dir must be an existing folder, got {data_dir}")
    if name == "digits":
        return _load_digits()
    if name in PUBLISHED:
        published = PUBLISHED[name]
        arrays = download.load_arrays(published, data_dir)
        return _with_validation(name, arrays, published.center, published.scale)
    if data_dir is None:
        raise ValueError(f"--data idx needs --data-dir, the folder of {', '.join(IDX.files)}")
    return _with_validation(name, download.read_folder(data_dir, IDX), (127.5,), (127.5,))


def _load_digits() -> ImageData:
    """The test part of UCI's "Optical Recognition of Handwritten Digits", with pixels 0 ... 16.

    The split has few training images, so that regularization matters, and many test images, so that
    errors are measured precisely.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "--data digits needs scikit-learn, which is not installed: "
            "pip install 'mige_ext[experiments]'"
        ) from error

    bunch = load_digits()
    images = torch.from_numpy(bunch.images).to(torch.uint8).unsqueeze(1)  # (1797, 1, 8, 8)
    labels = torch.from_numpy(bunch.target).long()
    rows = stratified_split(labels.tolist(), sizes=(500, 500, 797), seed=0)
    train, validation, test = (Split(images[part], labels[part]) for part in rows)
    return ImageData("digits", train, validation, test, 10, (8.0,), (8.0,), max_pixel=16)


def _with_validation(
    name: str, arrays: Arrays, center: tuple[float, ...], scale: tuple[float, ...]
) -> ImageData:
    """The image set. A fifth of the training images, at most 10,000, is the validation part."""
    images, labels = torch.from_numpy(arrays.train_images), torch.from_numpy(arrays.train_labels)
    validation_size = min(10_000, len(labels) // 5)
    sizes = (len(labels) - validation_size, validation_size)
    rows = stratified_split(arrays.train_labels.tolist(), sizes, seed=0)
    train, validation = (Split(images[part], labels[part].long()) for part in rows)
    test = Split(torch.from_numpy(arrays.test_images), torch.from_numpy(arrays.test_labels).long())
    return ImageData(name, train, validation, test, int(labels.max()) + 1, center, scale)
