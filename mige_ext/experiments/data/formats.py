"""File formats of image sets: IDX, CIFAR's pickles, and PNG files with a row for each image.

A function a set turns its files into `Arrays`. It asks for them by name through a `Read`, and does
not know whether they lie in a folder or in an archive.
"""

import io
import json
import pickle
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Read = Callable[[str], bytes]  # name of a file -> its uncompressed content
T = TypeVar("T")


class Arrays(NamedTuple):
    """A labelled image set as it is published, all of it uint8."""

    train_images: Bytes  # (N, C, H, W)
    train_labels: Bytes  # (N,)
    test_images: Bytes  # (N', C, H, W)
    test_labels: Bytes  # (N',)

    def check(self) -> "Arrays":
        """Itself, where images and labels fit together.

        Raises:
            ValueError: they do not; or a class of the test images has no training image.
        """
        for part, images, labels in (("training", *self[:2]), ("test", *self[2:])):
            if images.ndim != 4 or labels.ndim != 1 or len(images) == 0:
                raise ValueError(
                    f"{part} images must have shape (N, C, H, W) and their labels (N), N >= 1, "
                    f"got {images.shape} and {labels.shape}"
                )
            if len(images) != len(labels):
                raise ValueError(
                    f"{part} images must have a label each, got {len(images)} images "
                    f"and {len(labels)} labels"
                )
        if self.train_images.shape[1:] != self.test_images.shape[1:]:
            raise ValueError(
                "test images must have the shape of the training images, "
                f"{self.train_images.shape[1:]}, got {self.test_images.shape[1:]}"
            )
        unknown = np.setdiff1d(self.test_labels, self.train_labels)
        if len(unknown):
            raise ValueError(f"test labels must occur in training, got {unknown.tolist()}")
        return self


# IDX: MNIST and those that took its format

IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def read_idx(read: Read) -> Arrays:
    """The four files of `IDX_FILES`."""
    images, labels, test_images, test_labels = (_decode(read, f, decode_idx) for f in IDX_FILES)
    return Arrays(images[:, None], labels, test_images[:, None], test_labels)


def decode_idx(content: bytes) -> Bytes:
    """An array of unsigned bytes: 00 00 08, number of dimensions, sizes (big-endian), values."""
    if content[:3] != b"\0\0\x08" or len(content) < 4 + 4 * content[3]:
        raise ValueError(f"not an IDX file of unsigned bytes, it begins with {content[:4]!r}")
    start = 4 + 4 * content[3]
    shape = np.frombuffer(content[4:start], ">u4").astype(int).tolist()
    expected, got = int(np.prod(shape)), len(content) - start
    if got != expected:
        raise ValueError(f"shape {tuple(shape)} needs {expected} bytes of values, got {got}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy()  # writable


# CIFAR: pickles of Python 2, {b"data": (N, 3072) uint8, b"labels": a list, ...}

CIFAR10_TRAIN = [f"data_batch_{number}" for number in range(1, 6)]


def read_cifar10(read: Read) -> Arrays:
    """The six pickles of ``cifar-10-batches-py``."""
    batches = [_decode_cifar(read, file, "labels") for file in CIFAR10_TRAIN]
    return _joined(batches, _decode_cifar(read, "test_batch", "labels"))


def read_cifar100(read: Read) -> Arrays:
    """The two pickles of ``cifar-100-python``, with the 100 fine labels."""
    train, test = (_decode_cifar(read, file, "fine_labels") for file in ("train", "test"))
    return Arrays(*train, *test)


def _decode_cifar(read: Read, file: str, key: str) -> tuple[Bytes, Bytes]:
    def decode(content: bytes) -> tuple[Bytes, Bytes]:
        batch = unpickle(content)
        if not isinstance(batch, dict) or not {b"data", key.encode()} <= batch.keys():
            raise ValueError(f"must be a dictionary with b'data' and b'{key}'")
        data = batch[b"data"]
        if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape[1:] != (3072,):
            raise ValueError("b'data' must be an array of bytes of shape (N, 3072)")
        return data.reshape(-1, 3, 32, 32), as_labels(batch[key.encode()])

    return _decode(read, file, decode)


class _Unpickler(pickle.Unpickler):
    """Knows the three names that pickled bytes need, and no others, so that no code can run."""

    # NumPy 2 has moved it, and warns under its old name.
    reconstruct = np.empty(0).__reduce__()[0]

    def find_class(self, module: str, name: str) -> Any:
        known = {
            ("numpy.core.multiarray", "_reconstruct"): self.reconstruct,
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): self.dtype,
        }
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return known[module, name]

    @staticmethod
    def dtype(name: bytes, align: int, copy: int) -> np.dtype[Any]:
        """``numpy.dtype`` as it was called by the NumPy of that time."""
        if name != b"u1":
            raise pickle.UnpicklingError(f"it holds an array of {name!r}")
        return np.dtype(np.uint8)


def unpickle(content: bytes) -> Any:
    """Load a pickle of dictionaries, lists, numbers, byte strings and arrays of bytes.

    Raises:
        ValueError: it is damaged, or holds anything else.
    """
    try:
        return _Unpickler(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # a damaged pickle can raise anything
        raise ValueError(f"not a pickle of a CIFAR batch: {error}") from error


# CIFAR-10 as PNG files: 10,000 rows of 1,024 RGB pixels

PNG_TRAIN = [f"{batch}.png" for batch in CIFAR10_TRAIN]
PNG_LABELS = ("train_lables.json", "test_lables.json")  # their spelling


def read_cifar10_png(read: Read) -> Arrays:
    """Six PNG files, and two JSON files of labels."""
    images = np.concatenate([_decode(read, file, decode_png) for file in PNG_TRAIN])
    test_images = _decode(read, "test_batch.png", decode_png)
    labels, test_labels = (_decode(read, f, lambda c: as_labels(json.loads(c))) for f in PNG_LABELS)
    return Arrays(images, labels, test_images, test_labels)


def decode_png(content: bytes) -> Bytes:
    """Images of 32×32, a row each: (N, 3, 32, 32)."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(
            "reading PNG files needs pillow, which is not installed: "
            "pip install 'mige_ext[experiments]'"
        ) from error
    try:
        with Image.open(io.BytesIO(content)) as image:
            pixels = np.asarray(image)
    except (OSError, SyntaxError) as error:
        raise ValueError(f"not a PNG file: {error}") from error
    if pixels.dtype != np.uint8 or pixels.shape[1:] != (1024, 3):
        raise ValueError(f"must have rows of 1024 RGB pixels, got shape {pixels.shape}")
    return np.ascontiguousarray(pixels.reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2))


# Fashion-MNIST as JSON files, one for each class: {"data": [784 pixels, ...]}, 7,000 images each

CLOTHES_FILES = tuple(f"{label}.json" for label in range(10))
CLOTHES_TEST = 1000  # of each class, the last


def read_clothes(read: Read) -> Arrays:
    """Ten JSON files, in which the parts of the original are mixed: the last 1,000 are for test."""
    classes = [_decode(read, file, decode_clothes) for file in CLOTHES_FILES]
    parts = []
    for rows in (slice(None, -CLOTHES_TEST), slice(-CLOTHES_TEST, None)):
        images = [images[rows] for images in classes]
        labels = np.repeat(np.arange(10, dtype=np.uint8), [len(of) for of in images])
        parts += [np.concatenate(images), labels]
    return Arrays(*parts)


def decode_clothes(content: bytes) -> Bytes:
    """Images of 28×28, (N, 1, 28, 28); lists without pixels are no images."""
    lists = json.loads(content)["data"]
    try:
        pixels = np.array([pixels for pixels in lists if pixels], dtype=np.uint8)
        return pixels.reshape(-1, 1, 28, 28)
    except (OverflowError, ValueError) as error:
        raise ValueError(f"must hold lists of 784 numbers from 0 to 255: {error}") from error


# Parts


def as_labels(values: Any) -> Bytes:
    """A list of small numbers as bytes, (N,)."""
    if not isinstance(values, list) or not all(type(v) is int and 0 <= v < 256 for v in values):
        raise ValueError("labels must be a list of numbers from 0 to 255")
    return np.array(values, dtype=np.uint8)


def _decode(read: Read, file: str, decode: Callable[[bytes], T]) -> T:
    content = read(file)
    try:
        return decode(content)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def _joined(train: Sequence[tuple[Bytes, Bytes]], test: tuple[Bytes, Bytes]) -> Arrays:
    images, labels = zip(*train, strict=True)
    return Arrays(np.concatenate(images), np.concatenate(labels), *test)
