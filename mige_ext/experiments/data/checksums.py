"""MD5 checksums of published files, and the errors that name them."""

import hashlib
from collections.abc import Mapping


def check_md5(content: bytes, expected: str, name: str, place: str) -> None:
    """Compare a file with its checksum.

    Args:
        content: the bytes of the file.
        expected: the MD5 of the published file.
        name: name of the file, for the message.
        place: folder or package of the file, for the message.

    Raises:
        ValueError: the checksum differs.
    """
    got = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if got != expected:
        raise ValueError(
            f"{name} in {place} must have the MD5 {expected}, got {got}: the file is damaged or "
            "another version"
        )


def not_found(
    name: str, reason: str, files: Mapping[str, str], folder: str = "", *, gzip: bool = False
) -> FileNotFoundError:
    """The error for data that no place has, which says how to provide them.

    Args:
        name: name of the data.
        reason: why the data were not found.
        files: MD5 of each file, by name.
        folder: folder of the files below ``--data-dir``.
        gzip: whether the files may be gzipped. The checksums are then of the uncompressed files.
    """
    zipped, of = (", gzipped or not,", " of the uncompressed files") if gzip else ("", "")
    checksums = "\n".join(f"  {md5}  {file}" for file, md5 in files.items())
    return FileNotFoundError(
        f"{name} was not found: {reason}. Put these files{zipped} into DIR{folder and '/'}{folder} "
        f"and give --data-dir DIR (MD5{of}):\n{checksums}"
    )
