"""Tables and folders that can be continued, and the rule that chooses a setting."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mige_ext.experiments.common import runs
from mige_ext.experiments.common.runs import (
    Table,
    atomic,
    mean_and_error,
    one_standard_error_rule,
    open_folder,
)


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


def test_atomic_file_is_whole_or_as_before(tmp_path: Path) -> None:
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
    open_folder(tmp_path, asdict(ROWS[0]), {"seeds": 2}, resume=True)
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


def test_mean_and_error_of_known_values() -> None:
    assert mean_and_error([1.0, 2.0, 3.0, 6.0]) == (3.0, math.sqrt(14 / 3 / 4))
    mean, error = mean_and_error([2.0])
    assert mean == 2.0
    assert math.isnan(error)


def test_one_standard_error_rule_takes_the_strongest_that_does_no_measurable_harm() -> None:
    errors = {0.1: [0.30, 0.31], 0.01: [0.11, 0.13], 0.001: [0.10, 0.14], 0.0001: [0.09, 0.13]}
    assert one_standard_error_rule(errors) == 0.01  # least mean .11, standard error .02
    assert one_standard_error_rule({**errors, 0.1: [0.11, 0.14]}) == 0.1


def test_one_standard_error_rule_with_one_seed_takes_the_strongest_of_the_best() -> None:
    assert one_standard_error_rule({0.1: [0.2], 0.01: [0.1], 0.001: [0.1]}) == 0.01


@given(
    st.dictionaries(
        st.floats(1e-4, 1), st.lists(st.floats(0, 1), min_size=3, max_size=3), min_size=1
    )
)
def test_one_standard_error_rule_never_takes_a_weaker_one_than_the_best(
    errors: dict[float, list[float]],
) -> None:
    best = min(errors, key=lambda strength: mean_and_error(errors[strength]))
    assert one_standard_error_rule(errors) >= best


@pytest.mark.parametrize("name", ["cuda", "cuda:1", "meta", "gpu"])
def test_a_device_that_is_not_there_is_refused_by_name(name: str) -> None:
    if name.startswith("cuda") and torch.cuda.is_available():
        return  # there it is
    with pytest.raises(ValueError, match=rf"--device.*{name}"):
        runs.device_of(name)
    assert runs.device_of("cpu") == torch.device("cpu")
