"""Tiny tables in the formats that the experiments read, for the tests."""

import hashlib
import io
import random
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from mige_ext.experiments.data.table_files import PublishedTable, TableFile

Files = dict[str, bytes]


def adult_lines(count: int, seed: int) -> list[list[str]]:
    """Rows of Adult: income depends on age and sex."""
    draw = random.Random(seed)
    rows = []
    for i in range(count):
        age, sex = draw.randint(17, 90), draw.choice(["Male", "Female"])
        rich = draw.random() < (0.6 if sex == "Male" and age > 35 else 0.15)
        race = draw.choice(["White", "White", "White", "Black", "Other"])
        work, country = draw.choice(["Private", "State-gov", "?"]), draw.choice(["Cuba", "?"])
        rest = ["Sales", "Wife", race, sex, "0", str(draw.randint(0, 9)), "40", country]
        study = ["Bachelors", str(draw.randint(1, 16)), "Divorced"]
        label = ">50K" if rich else "<=50K"
        rows.append([str(age), work, str(1000 + i), *study, *rest, label])
    return rows


def adult_files(count: int = 80, test: int = 40) -> Files:
    """The official files, as UCI writes them."""
    train = "".join(", ".join(row) + "\n" for row in adult_lines(count, 0)) + "\n"
    rows = "".join(", ".join(row) + ".\n" for row in adult_lines(test, 1)) + "\n"
    return {
        "adult.data": train.encode(),
        "adult.test": f"|1x3 Cross validator\n{rows}".encode(),
    }


def adult_wheel_file(header: tuple[str, ...], count: int = 80) -> bytes:
    """The file in the wheel: the rows of ``adult.data`` under a line of names."""
    return "".join(",".join(row) + "\n" for row in [list(header), *adult_lines(count, 0)]).encode()


def compas_file(count: int = 80) -> bytes:
    """ProPublica's file, with names, dates of birth, a repeated column and a quoted comma."""
    draw = random.Random(2)
    header = "id,name,first,last,sex,dob,age,age_cat,race,juv_fel_count,decile_score,"
    header += "juv_misd_count,juv_other_count,priors_count,c_charge_degree,c_charge_desc,"
    header += "decile_score,priors_count,two_year_recid"
    lines = [header]
    for i in range(count):
        race, sex = draw.choice(["Caucasian", "African-American"]), draw.choice(["Male", "Female"])
        priors = draw.randint(0, 9)
        again = int(draw.random() < priors / 10)
        lines.append(
            f"{i},secret {i},secret,{i},{sex},1970-01-0{1 + i % 9},{draw.randint(18, 70)},"
            f'x,{race},0,5,0,{i % 3},{priors},{"FM"[i % 2]},"Battery, simple",5,77,{again}'
        )
    return ("\n".join(lines) + "\n").encode()


def crime_file(table: PublishedTable, count: int = 80) -> bytes:
    """The table of communities, with names and with columns that are derived from others."""
    draw = random.Random(3)
    states = ["state_1", "state_2"]
    names = ["communityname", "fold", *table.numbers, table.label, *states, ">0.06black"]
    lines = [",".join([*names, "high_crime"])]
    for i in range(count):
        numbers = {name: draw.randint(0, 100) / 100 for name in table.numbers}
        crime = round(numbers["racepctblack"] * 0.15 + draw.randint(0, 15) / 100, 2)
        values = [f"secret{i}", i % 10, *numbers.values(), crime, i % 2, 1 - i % 2]
        values += [int(numbers["racepctblack"] > 0.06), int(crime > 0.25)]
        lines.append(",".join(map(str, values)))
    return ("\n".join(lines) + "\n").encode()


def health_file(table: PublishedTable, count: int = 80) -> bytes:
    """The table of a health plan, with one-hot encoded ages and sexes."""
    draw = random.Random(4)
    ages, sexes = table.indicators["age_group"], table.indicators["sex"]
    names = ["MemberID_t", "YEAR_t", "trainset", *ages, "age_MISS", *sexes, "sexMISS"]
    names += [*table.numbers, "CharlsonIndexI_max", table.label]
    lines = [",".join(names)]
    for i in range(count):
        age, sex = draw.randrange(len(ages)), draw.randrange(2)
        ill = int(draw.random() < age / 10)
        values = [900_000_000 + i, f"Y{1 + i % 3}", 1]
        values += [*(int(age == j) for j in range(len(ages))), 0, int(sex == 0), int(sex == 1), 0]
        values += [*(draw.randint(0, 9) / 2 for _ in table.numbers), 2 * ill, ill]
        lines.append(",".join(map(str, values)))
    return ("\n".join(lines) + "\n").encode()


def zipped(name: str, content: bytes) -> bytes:
    """A zip archive with one file."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(name, content)
    return archive.getvalue()


def with_checksums(
    table: PublishedTable, official: Mapping[str, bytes], wheel: bytes
) -> PublishedTable:
    """The table, with the checksums of tiny files."""

    def checked(file: TableFile, content: bytes) -> TableFile:
        return replace(file, md5=hashlib.md5(content).hexdigest())

    return replace(
        table,
        official=tuple(checked(file, official[file.name]) for file in table.official),
        wheel_file=checked(table.wheel_file, wheel),
    )


def put_wheel(path: Path, files: Mapping[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
