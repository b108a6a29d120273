"""Image sets: their splits and normalization, the command, and error messages."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import typer
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mige_ext.experiments.data import images as data
from mige_ext.experiments.data.command import data as data_command
from mige_ext.experiments.data.images import ImageData, Split
from mige_ext.experiments.data.parts import stratified_split
from mige_ext.experiments.data.registry import PUBLISHED
from tests.support import image_files


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return data.load("digits")


def parts(images: ImageData) -> list[Split]:
    return [images.train, images.validation, images.test]


def test_digits_have_the_documented_sizes(digits: ImageData) -> None:
    assert [len(part) for part in parts(digits)] == [500, 500, 797]
    assert digits.shape == (1, 8, 8)


def test_parts_of_digits_together_are_the_images_of_scikit_learn_with_their_labels(
    digits: ImageData,
) -> None:
    from sklearn.datasets import load_digits

    def rows(images: Tensor, labels: Tensor) -> list[tuple[int, ...]]:
        table = torch.cat([images.flatten(1).long(), labels.unsqueeze(1)], dim=1)
        return sorted(map(tuple, table.tolist()))

    images = torch.cat([part.images for part in parts(digits)])
    labels = torch.cat([part.labels for part in parts(digits)])
    bunch = load_digits()
    original = rows(torch.from_numpy(bunch.images), torch.from_numpy(bunch.target))
    # No image occurs twice, so equal lists also mean that the parts are disjoint.
    assert len(set(original)) == 1797
    assert rows(images, labels) == original


def test_every_part_of_digits_has_the_same_fraction_of_each_class(digits: ImageData) -> None:
    total = torch.stack([torch.bincount(part.labels) for part in parts(digits)]).sum(0)
    for part in parts(digits):
        expected = total * len(part) / 1797
        assert (torch.bincount(part.labels) - expected).abs().max() < 1


def test_split_of_digits_is_part_of_their_definition(digits: ImageData) -> None:
    """Another split would change every published number."""
    assert digits.train.labels[:10].tolist() == [7, 7, 8, 4, 4, 5, 6, 7, 0, 5]
    assert digits.validation.labels[:10].tolist() == [0, 6, 9, 7, 4, 9, 3, 9, 4, 1]
    assert digits.test.labels[:10].tolist() == [5, 7, 6, 8, 8, 8, 7, 6, 3, 5]


@given(
    labels=st.lists(st.integers(0, 5), min_size=1, max_size=60),
    cut=st.floats(0, 1),
    seed=st.integers(0, 9),
)
def test_stratified_split_is_a_partition_of_exact_sizes(
    labels: list[int], cut: float, seed: int
) -> None:
    first = round(cut * len(labels))
    rows = stratified_split(labels, [first, len(labels) - first], seed)
    assert [len(part) for part in rows] == [first, len(labels) - first]
    assert sorted(rows[0] + rows[1]) == list(range(len(labels)))


def test_stratified_split_depends_on_the_seed() -> None:
    labels = [0, 1] * 20
    assert stratified_split(labels, [20, 20], 0) != stratified_split(labels, [20, 20], 1)


def test_normalize_maps_the_pixel_range_of_digits_to_plus_minus_one(digits: ImageData) -> None:
    normalized = digits.normalize(digits.train.images)
    assert normalized.dtype == torch.float32
    assert normalized.min() == -1
    assert normalized.max() == 1


def test_normalize_takes_center_and_scale_of_each_channel() -> None:
    split = Split(torch.full((1, 2, 1, 1), 6, dtype=torch.uint8), torch.zeros(1).long())
    images = ImageData("x", split, split, split, classes=1, center=(2.0, 4.0), scale=(1.0, 4.0))
    assert images.normalize(split.images).flatten().tolist() == [4.0, 0.5]


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"--data must be one of cifar10, .*, mnist, got 'cifar'"):
        data.load("cifar")


def test_missing_scikit_learn_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"pip install 'mige_ext\[experiments\]'"):
        data.load("digits")


def test_idx_set_is_read_from_its_folder_and_not_cached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIGE_DATA", str(tmp_path / "cache"))
    image_files.put(tmp_path / "set", image_files.idx_files(n=50), zipped=True)
    images = data.load("idx", tmp_path / "set")
    assert [len(part) for part in parts(images)] == [40, 10, 20]
    assert images.shape == (1, 8, 8)
    assert images.classes == 10
    assert torch.bincount(images.validation.labels).tolist() == [1] * 10
    assert images.normalize(images.train.images).abs().max() == 1
    assert not (tmp_path / "cache").exists()
    with pytest.raises(ValueError, match=r"idx needs --data-dir, the folder of train-images-idx3"):
        data.load("idx")


@pytest.mark.parametrize("name", ["mnist", "fashion", "cifar10", "cifar100"])
def test_published_set_is_split_and_standardized(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {
        "mnist": image_files.idx_files,
        "fashion": image_files.idx_files,
        "cifar10": image_files.cifar10_files,
        "cifar100": image_files.cifar100_files,
    }[name]()
    published = PUBLISHED[name]
    monkeypatch.setenv("MIGE_DATA", str(tmp_path / "cache"))
    tiny = replace(published, layout=image_files.layout_of(published, files))
    monkeypatch.setitem(PUBLISHED, name, tiny)
    image_files.put(tmp_path / published.folder, files)
    data_command(name, tmp_path)
    assert "the checksums are right" in capsys.readouterr().out
    images = data.load(name)
    assert len(images.validation) == (len(images.train) + len(images.validation)) // 5
    normalized = images.normalize(images.train.images)
    assert normalized.mean().abs() < 0.2  # random pixels have about the mean of every set
    assert len(images.all_training()) == len(images.train) + len(images.validation)


def test_checksum_distinguishes_sets_of_one_name() -> None:
    images = data.load("digits")
    assert images.checksum() == data.load("digits").checksum() and len(images.checksum()) == 8
    pixels = images.test.images.clone()
    pixels[0, 0, 0, 0] += 1
    other = replace(images, test=Split(pixels, images.test.labels))
    assert other.checksum() != images.checksum()


def test_command_describes_digits(capsys: pytest.CaptureFixture[str]) -> None:
    data_command("digits")
    shown = capsys.readouterr().out
    assert "digits: 10 classes, images of 1×8×8" in shown
    assert "500 training images, 48 to 51 of a class, mean pixel 0.30" in shown


def test_command_names_what_is_wrong() -> None:
    with pytest.raises(typer.BadParameter, match="name must be one of"):
        data_command("cifar")


def test_missing_folder_is_named_even_if_the_set_needs_no_files(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"--data-dir must be an existing folder, got .*/nowhere"):
        data.load("digits", tmp_path / "nowhere")


def test_split_sizes_must_add_up() -> None:
    with pytest.raises(ValueError, match=r"add up to the 3 rows .* got \[1, 1\] with sum 2"):
        stratified_split([0, 1, 1], [1, 1], seed=0)


def test_split_rejects_images_and_labels_of_the_wrong_kind() -> None:
    images, labels = torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"images must be uint8 .* got torch.float32"):
        Split(images.float(), labels)
    with pytest.raises(ValueError, match=r"of shape \(N, C, H, W\), got .* \(2, 8, 8\)"):
        Split(images[:, 0], labels)
    with pytest.raises(ValueError, match=r"labels must be int64 of shape \(2,\), got .* \(3,\)"):
        Split(images, torch.zeros(3, dtype=torch.int64))
