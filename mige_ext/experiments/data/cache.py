"""The cache of decoded sets, with a folder for each set.

The cache is ``~/.cache/mige_ext``, or the folder that the environment variable ``MIGE_DATA`` names.
Images are NumPy arrays, and a table is a CSV file. A set is stored in one step, so that no process
finds an incomplete set.
"""

import hashlib
import io
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mige_ext.experiments.data.formats import Arrays

_CHECKSUMS = "SHA256SUMS"  # in the format of ``sha256sum --check``


def folder_of(name: str) -> Path:
    """The folder of a set in the cache."""
    return Path(os.environ.get("MIGE_DATA") or "~/.cache/mige_ext").expanduser() / name


def store(folder: Path, arrays: Arrays) -> None:
    """Write the arrays of a set and their checksums in one step.

    Args:
        folder: folder of the set. A folder that exists is not changed.
        arrays: the arrays.

    Raises:
        OSError: the cache cannot be written.
    """
    contents = {}
    for name, array in arrays._asdict().items():
        buffer = io.BytesIO()
        np.save(buffer, array)
        contents[f"{name}.npy"] = buffer.getbuffer()
    store_files(folder, contents)


def store_files(folder: Path, contents: Mapping[str, "bytes | memoryview"]) -> None:
    """Write the files of a set and their checksums in one step.

    Args:
        folder: folder of the set. A folder that exists is not changed.
        contents: content of each file, by name.

    Raises:
        OSError: the cache cannot be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        draft = Path(temporary) / folder.name
        draft.mkdir()
        for name, content in contents.items():
            (draft / name).write_bytes(content)
        sums = [f"{_sha256(path)}  {path.name}\n" for path in sorted(draft.iterdir())]
        (draft / _CHECKSUMS).write_text("".join(sums))
        try:
            draft.rename(folder)
        except OSError:
            if not folder.exists():  # if it exists, another process has stored the set
                raise


def open_arrays(folder: Path) -> Arrays:
    """Map the arrays of a set into memory, copy on write.

    Raises:
        ValueError: the set is damaged.
    """
    try:
        arrays = (np.load(folder / f"{name}.npy", mmap_mode="c") for name in Arrays._fields)
        return Arrays(*arrays).check()
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{folder} is damaged: delete it to decode it again ({error})") from error


def verify(folder: Path) -> None:
    """Compare the files of a set with their checksums.

    Raises:
        ValueError: a file has changed.
        OSError: a file cannot be read.
    """
    lines = (folder / _CHECKSUMS).read_text().splitlines()
    expected = {name: checksum for checksum, _, name in (line.partition("  ") for line in lines)}
    for path in sorted(folder.iterdir()):
        if path.name != _CHECKSUMS and _sha256(path) != expected.pop(path.name, None):
            raise ValueError(f"{path} has changed: delete {folder} to decode it again")
    if expected:
        raise ValueError(f"{folder} has lost {', '.join(expected)}: delete it to decode it again")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
