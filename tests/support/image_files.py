"""Tiny image sets in every format that the experiments read, for the tests."""

import gzip
import hashlib
import io
import json
import struct
import tarfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mige_ext.experiments.data import formats
from mige_ext.experiments.data.registry import Layout, Package, PublishedSet

Files = dict[str, bytes]
Bytes = NDArray[np.uint8]


def pixels(seed: int, *shape: int) -> Bytes:
    return np.random.default_rng(seed).integers(256, size=shape, dtype=np.uint8)


def labels(n: int, classes: int = 10) -> Bytes:
    return (np.arange(n) % classes).astype(np.uint8)


def encode_idx(array: Bytes) -> bytes:
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return header + array.tobytes()


def idx_files(n: int = 30, size: int = 8) -> Files:
    arrays = (pixels(0, n, size, size), labels(n), pixels(1, 20, size, size), labels(20))
    return dict(zip(formats.IDX_FILES, map(encode_idx, arrays), strict=True))


# The pickles have the format of Python 2 and of NumPy in 2009. Python 3 cannot write this format,
# so the opcodes are written here.


def _string(text: bytes) -> bytes:
    return b"T" + struct.pack("<i", len(text)) + text


def _number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def _array(array: Bytes) -> bytes:
    dtype = b"cnumpy\ndtype\n" + _string(b"u1") + b"K\0K\1\x87R"
    dtype += b"(K\x03" + _string(b"|") + b"NNN" + _number(-1) * 2 + b"K\0tb"
    rebuilt = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85"
    rebuilt += _string(b"b") + b"\x87R"
    shape = b"(" + b"".join(map(_number, array.shape)) + b"t"
    return rebuilt + b"(K\1" + shape + dtype + b"\x89" + _string(array.tobytes()) + b"tb"


def encode_cifar(key: str, data: Bytes, values: Bytes) -> bytes:
    numbers = b"](" + b"".join(map(_number, values.tolist())) + b"e"
    items = _string(b"batch_label") + _string(b"testing batch 1 of 1")
    items += _string(key.encode()) + numbers + _string(b"data") + _array(data)
    return b"\x80\2}(" + items + b"u."


def cifar100_files() -> Files:
    return {
        "train": encode_cifar("fine_labels", pixels(0, 200, 3072), labels(200, 100)),
        "test": encode_cifar("fine_labels", pixels(1, 100, 3072), labels(100, 100)),
    }


def cifar10_files() -> Files:
    return {
        name: encode_cifar("labels", pixels(seed, 10, 3072), labels(10))
        for seed, name in enumerate(formats.CIFAR10_FILES)
    }


def cifar10_png_files() -> Files:
    """The images and labels of ``cifar10_files`` as PNG and JSON files (``read_cifar10_png``)."""
    files = {}
    for seed, name in enumerate(formats.CIFAR10_PNG_FILES[:6]):
        planes = pixels(seed, 10, 3072).reshape(10, 3, 1024)
        buffer = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(planes.transpose(0, 2, 1))).save(buffer, "PNG")
        files[name] = buffer.getvalue()
    for name, n in zip(formats.CIFAR10_PNG_FILES[6:], (50, 10), strict=True):
        files[name] = json.dumps(labels(n).tolist()).encode()
    return files


# Folders and archives


def put(folder: Path, files: Files, *, zipped: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = folder / (f"{name}.gz" if zipped else name)
        path.write_bytes(gzip.compress(content) if zipped else content)
    return folder


def pack(path: Path, files: Files, folder: str) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def layout_of(published: PublishedSet | Package, files: Files) -> Layout:
    """The layout of a published set with the checksums of these files."""
    sums = {name: hashlib.md5(files[name]).hexdigest() for name in published.layout.files}
    return Layout(sums, published.layout.decode)
