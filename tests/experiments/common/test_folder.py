"""Folders that can be continued, and their tables."""

import json
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from mige_ext.experiments.common.checkpoint import load_tensors
from mige_ext.experiments.common.folder import DamagedError, Table, atomic, locked, open_folder


@dataclass(frozen=True)
class Row:
    name: str
    count: int
    value: float


ROWS = [Row("a, b", -3, 0.1), Row("", 0, math.inf), Row("c", 7, 1e-300)]


def test_table_reads_back_what_it_wrote(tmp_path: Path) -> None:
    Table(tmp_path / "t.csv", Row).append(ROWS[:1])
    Table(tmp_path / "t.csv", Row).append(ROWS[1:])
    assert Table(tmp_path / "t.csv", Row).rows == ROWS
    assert (tmp_path / "t.csv").read_text().splitlines()[0] == "name,count,value"


def test_table_keeps_nan_as_an_empty_cell(tmp_path: Path) -> None:
    Table(tmp_path / "t.csv", Row).append([Row("a", 1, math.nan)])
    assert (tmp_path / "t.csv").read_text().splitlines()[1] == "a,1,"
    assert math.isnan(Table(tmp_path / "t.csv", Row).rows[0].value)


def test_table_replaces_all_rows(tmp_path: Path) -> None:
    table = Table(tmp_path / "t.csv", Row)
    table.append(ROWS)
    table.replace(row for row in table.rows if row.count > 0)
    assert table.rows == Table(tmp_path / "t.csv", Row).rows == ROWS[2:]
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


def test_table_drops_the_half_line_of_a_killed_writer(tmp_path: Path) -> None:
    Table(tmp_path / "t.csv", Row).append(ROWS)
    with (tmp_path / "t.csv").open("a") as file:
        file.write("d,1")
    table = Table(tmp_path / "t.csv", Row)
    assert table.rows == ROWS
    table.append(ROWS[:1])
    assert Table(tmp_path / "t.csv", Row).rows == [*ROWS, ROWS[0]]


@pytest.mark.parametrize("text", ["", "name,cou"])
def test_a_table_without_a_whole_header_is_empty(text: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(text)
    table = Table(tmp_path / "t.csv", Row)
    assert table.rows == []
    table.append(ROWS[:1])
    assert Table(tmp_path / "t.csv", Row).rows == ROWS[:1]


@pytest.mark.parametrize("line", ["a,1", "a,one,2.0"])
def test_a_damaged_line_is_named(line: str, tmp_path: Path) -> None:
    Table(tmp_path / "t.csv", Row).append(ROWS)
    with (tmp_path / "t.csv").open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(ValueError, match=r"line 5 of .*t\.csv is damaged: delete the line"):
        Table(tmp_path / "t.csv", Row)


def test_rows_of_one_run_are_added_together_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Table(tmp_path / "t.csv", Row).append(ROWS[:1])
    table = Table(tmp_path / "t.csv", Row)
    monkeypatch.setattr(os, "replace", _raise_full)
    with pytest.raises(OSError, match="full"):
        table.append(ROWS[1:])
    assert Table(tmp_path / "t.csv", Row).rows == ROWS[:1]


def _raise_full(*_: object) -> None:
    raise OSError("the disk is full")


def test_a_folder_is_used_by_one_process(tmp_path: Path) -> None:
    message = "must be a folder that no other process uses"
    with locked(tmp_path), pytest.raises(ValueError, match=message), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"PK", b"text"])
def test_a_damaged_file_of_tensors_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(content)
    with pytest.raises(DamagedError, match=r"checkpoint\.pt cannot be read .*: delete it"):
        load_tensors(path, "delete it")
    with pytest.raises(DamagedError, match=r"other\.pt cannot be read .*: delete it"):
        load_tensors(tmp_path / "other.pt", "delete it")


@pytest.mark.parametrize("content", ["", "{", "{}", "[]", '{"settings": 3}'])
def test_damaged_settings_are_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
        open_folder(tmp_path, {}, {}, resume=True)


def test_atomic_file_is_complete_or_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    for content in ("old", "new"):
        with atomic(path) as draft:
            draft.write_text(content)
        assert path.read_text() == content
    with pytest.raises(KeyboardInterrupt), atomic(path) as draft:
        draft.write_text("ha")
        raise KeyboardInterrupt
    assert path.read_text() == "new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_table_rejects_a_file_with_other_columns(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("name,value\na,1\n")
    with pytest.raises(
        ValueError, match=r"columns \['name', 'count', 'value'\], got \['name', 'va"
    ):
        Table(tmp_path / "t.csv", Row)


def test_folder_records_settings_and_is_not_reused_by_accident(tmp_path: Path) -> None:
    open_folder(tmp_path / "new", {"a": 1}, {"seeds": 2}, resume=False)
    config = json.loads((tmp_path / "new" / "config.json").read_text())
    assert config == {"settings": {"a": 1}, "seeds": 2}
    with pytest.raises(ValueError, match=r"without results, got .*new: continue .* --resume"):
        open_folder(tmp_path / "new", {"a": 1}, {"seeds": 2}, resume=False)


def test_resume_needs_the_same_settings_and_names_what_differs(tmp_path: Path) -> None:
    open_folder(tmp_path, asdict(ROWS[0]), {"seeds": 2}, resume=False)
    open_folder(tmp_path, asdict(ROWS[0]), {"seeds": 3}, resume=True)
    with pytest.raises(
        ValueError, match=r"count is 0 now and was -3; value is inf now and was 0\.1"
    ):
        open_folder(tmp_path, {**asdict(ROWS[1]), "name": "a, b"}, {"seeds": 3}, resume=True)
    with pytest.raises(
        ValueError, match=r"new is 1 now and was None; value is None now and was 0\.1"
    ):
        open_folder(tmp_path, {"name": "a, b", "count": -3, "new": 1}, {}, resume=True)
    assert json.loads((tmp_path / "config.json").read_text())["settings"] == asdict(ROWS[0])


def test_resume_needs_results(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--resume needs a folder with results, and .*new has"):
        open_folder(tmp_path / "new", {}, {}, resume=True)
    assert not (tmp_path / "new").exists()


def test_resume_needs_results_of_the_same_command(tmp_path: Path) -> None:
    open_folder(tmp_path, {"a": 1}, {"command": "toy"}, resume=False)
    open_folder(tmp_path, {"a": 1}, {"command": "toy"}, resume=True)
    with pytest.raises(ValueError, match=r"results of infomax, but .* has results of toy"):
        open_folder(tmp_path, {"a": 2, "b": 3}, {"command": "infomax"}, resume=True)


def test_a_folder_that_cannot_be_made_is_named() -> None:
    path = Path("/proc/new")
    with pytest.raises(ValueError, match="that can be written, got /proc/new: No such file"):
        open_folder(path, {}, {}, resume=False)


@pytest.mark.parametrize("below", ["", "below/it"])
def test_a_file_is_no_folder(below: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"--out must be a folder, got .*file is a file"):
        open_folder(tmp_path / "file" / below, {}, {}, resume=False)
