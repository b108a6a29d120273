"""File formats of image sets: decoding inverts encoding, and errors name the damage."""

import json
import pickle

import numpy as np
import pytest

from mige_ext.experiments.data import formats
from mige_ext.experiments.data.formats import Arrays
from tests.support import image_files
from tests.support.image_files import labels, pixels


def equal(a: Arrays, b: Arrays) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_idx_files_decode_to_their_images_and_labels() -> None:
    arrays = formats.read_idx(image_files.idx_files().__getitem__)
    expected = Arrays(pixels(0, 30, 1, 8, 8), labels(30), pixels(1, 20, 1, 8, 8), labels(20))
    assert equal(arrays, expected)


def test_cifar_pickles_and_png_files_decode_to_the_same_arrays() -> None:
    arrays = formats.read_cifar10(image_files.cifar10_files().__getitem__)
    batches = [pixels(seed, 10, 3, 32, 32) for seed in range(6)]
    expected = Arrays(np.concatenate(batches[:5]), labels(50), batches[5], labels(10))
    assert equal(arrays, expected)
    assert equal(formats.read_cifar10_png(image_files.cifar10_png_files().__getitem__), expected)


def test_cifar100_takes_the_fine_labels() -> None:
    arrays = formats.read_cifar100(image_files.cifar100_files().__getitem__)
    test_images = pixels(1, 100, 3, 32, 32)
    expected = Arrays(pixels(0, 200, 3, 32, 32), labels(200, 100), test_images, labels(100, 100))
    assert equal(arrays, expected)


def test_the_last_thousand_fashion_images_of_each_class_are_for_test() -> None:
    images = pixels(0, 1003, 784)
    rows = [[], *images.tolist()]  # one class of the published files has lists without pixels
    content = json.dumps({"data": rows}).encode()
    got = formats.read_fashion_json(dict.fromkeys(formats.FASHION_JSON_FILES, content).__getitem__)
    assert got.train_labels.tolist() == np.repeat(range(10), 3).tolist()
    assert got.test_labels.tolist() == np.repeat(range(10), 1000).tolist()
    np.testing.assert_array_equal(got.train_images[3:6].reshape(3, -1), images[:3])
    np.testing.assert_array_equal(got.test_images[:1000].reshape(1000, -1), images[3:])
    for damaged in ([[0] * 783], [[256] * 784]):
        with pytest.raises(ValueError, match="data must be lists of 784 numbers from 0 to 255"):
            formats.decode_fashion_json(json.dumps({"data": damaged}).encode())


def test_decoded_arrays_may_be_written_to() -> None:
    """Torch warns of memory that it may not write to."""
    assert all(array.flags.writeable for array in formats.read_idx(image_files.idx_files().get))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an IDX file of unsigned bytes"),
        (b"\0\0\x0d\1\0\0\0\1....", "not an IDX file of unsigned bytes"),
        (b"\0\0\x08\3\0\0", "not an IDX file of unsigned bytes"),
        (b"\0\0\x08\1\0\0\0\4abc", r"shape \(4,\) needs 4 bytes of values, got 3"),
        (b"\0\0\x08\1\0\0\0\2abc", r"shape \(2,\) needs 2 bytes of values, got 3"),
    ],
)
def test_damaged_idx_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        formats.decode_idx(content)


def test_error_names_the_file() -> None:
    files = image_files.idx_files() | {"t10k-labels-idx1-ubyte": b"<html>"}
    with pytest.raises(ValueError, match=r"^t10k-labels-idx1-ubyte: not an IDX file"):
        formats.read_idx(files.__getitem__)


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("run",)


def test_a_pickle_cannot_run_code(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match=r"CIFAR batch: a batch must not refer to builtins\.print"):
        formats.unpickle(pickle.dumps(Harmful()))
    objects = image_files.encode_cifar("labels", pixels(0, 1, 3072), labels(1))
    with pytest.raises(ValueError, match=r"arrays must be of b'u1' \(uint8\), got b'O8'"):
        formats.unpickle(objects.replace(b"T\2\0\0\0u1", b"T\2\0\0\0O8"))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("cut", [0, 1, 10, 100, -1])
def test_a_truncated_pickle_is_refused(cut: int) -> None:
    whole = image_files.encode_cifar("labels", pixels(0, 2, 3072), labels(2))
    with pytest.raises(ValueError, match="not a pickle of a CIFAR batch"):
        formats.unpickle(whole[:cut])


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ([1], "the pickle must hold a dictionary with b'data' and b'fine_labels'"),
        ({b"data": 1}, "the pickle must hold a dictionary with b'data' and b'fine_labels'"),
        ({b"data": [1], b"fine_labels": [1]}, r"b'data' must be an array of bytes of shape"),
    ],
)
def test_other_content_of_a_pickle_is_refused(
    batch: object, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "unpickle", lambda _: batch)
    with pytest.raises(ValueError, match=f"train: {message}"):
        formats.read_cifar100(lambda _: b"")


def test_damaged_png_is_refused() -> None:
    whole = image_files.cifar10_png_files()["test_batch.png"]
    with pytest.raises(ValueError, match="not a PNG file"):
        formats.decode_png(whole[:100])
    with pytest.raises(ValueError, match="not a PNG file"):
        formats.decode_png(b"GIF")


@pytest.mark.parametrize("values", [{"a": 1}, [1.0], [True], [256], [-1], ["1"]])
def test_labels_must_be_small_numbers(values: object) -> None:
    files = image_files.cifar10_png_files() | {"test_lables.json": json.dumps(values).encode()}
    with pytest.raises(ValueError, match=r"test_lables\.json: labels must be a list of numbers"):
        formats.read_cifar10_png(files.__getitem__)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_labels": labels(7)}, "training images must have a label each, got 8 .* and 7"),
        ({"test_images": pixels(0, 4, 9)}, r"test images must have shape .* got \(4, 9\)"),
        ({"test_images": pixels(0, 4, 1, 3, 2)}, r"shape of the training images, \(1, 2, 2\)"),
        ({"test_labels": labels(4) + 5}, r"test labels must occur in training, got \[8\]"),
        ({"train_images": pixels(0, 0, 1, 2, 2)}, "N >= 1"),
    ],
)
def test_images_and_labels_must_fit(change: dict[str, image_files.Bytes], message: str) -> None:
    good = Arrays(pixels(0, 8, 1, 2, 2), labels(8), pixels(1, 4, 1, 2, 2), labels(4))
    assert good.check() is good
    with pytest.raises(ValueError, match=message):
        good._replace(**change).check()
