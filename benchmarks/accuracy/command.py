"""The command ``python -m benchmarks accuracy``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from tqdm import tqdm

from benchmarks.accuracy.estimators import candidates
from benchmarks.accuracy.families import FAMILIES, Family
from benchmarks.accuracy.information import (
    InformationRow,
    is_paired,
    measure_information,
    report_information,
)
from benchmarks.accuracy.measure import fixed_rows, measure, measure_only
from benchmarks.accuracy.report import Row, draw, report
from benchmarks.machine import machine
from benchmarks.options import Markdown, Threads, require_known
from benchmarks.tables import RESULTS
from mige_ext.experiments.common.device import cpu_threads
from mige_ext.experiments.common.folder import Table

SAMPLES, QUICK = (64, 256, 1024), (64, 256)


def default_seeds(m: int) -> int:
    """The number of data sets: 16 of 64 samples, 8 of 256, 3 of 1024."""
    return min(16, max(3, 2048 // m))


def accuracy(
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Leave out M = 1024, and run five minutes on one thread."),
    ] = False,
    samples: Annotated[
        list[int] | None,
        typer.Option(min=8, metavar="M", help="Use M samples; repeatable. Default: 64, 256, 1024."),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            min=1, help="Draw this many data sets. Default: 16, 8 and 3 for M = 64, 256 and 1024."
        ),
    ] = None,
    families: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Density (bimodal-5), or kind of densities (gaussian), to measure; repeatable. "
            f"Default: all densities, {', '.join(FAMILIES)}.",
        ),
    ] = None,
    estimators: Annotated[
        list[str] | None,
        typer.Option(
            "--estimator",
            metavar="NAME",
            help="Measure only this estimator, relative to the oracle in accuracy.csv; repeatable. "
            f"All: {', '.join(candidate.name for candidate in candidates())}.",
        ),
    ] = None,
    only_information: Annotated[
        bool,
        typer.Option(
            "--information", help="Print only the table of gradients of I(x; y), for M >= 256."
        ),
    ] = False,
    threads: Threads = 1,
    markdown: Markdown = False,
    save: Annotated[
        bool,
        typer.Option(
            "--save",
            help="Write accuracy.csv, information.csv and accuracy.png, and keep rows of other "
            "densities and M.",
        ),
    ] = False,
    out: Annotated[
        Path,
        typer.Option(show_default="benchmarks/results", help="Folder of the files of --save."),
    ] = RESULTS,
) -> None:
    """Compare score estimators with the true scores, and with the best setting in hindsight.

    The exit status is 1 if a bound is missed.
    """
    for name in families or ():
        if not any(name in _names(family) for family in FAMILIES.values()):
            raise typer.BadParameter(
                f"--families: there is no {name}; there are {', '.join(FAMILIES)}"
            )
    require_known("--estimator", estimators, [candidate.name for candidate in candidates()])
    if estimators and (seeds or only_information):
        other = "--seeds" if seeds else "--information"
        raise typer.BadParameter(f"--estimator does not go with {other}")
    chosen = [
        family for family in FAMILIES.values() if not families or _names(family) & set(families)
    ]
    table = information_table = None
    stored = Table(out / "accuracy.csv", Row).rows if estimators else []
    if save:
        out.mkdir(parents=True, exist_ok=True)
        table = Table(out / "accuracy.csv", Row)
        information_table = Table(out / "information.csv", InformationRow)
    print(f"{machine()}; threads: {threads}")
    complete = len(chosen) == len(FAMILIES)
    sizes = samples or (QUICK if quick else SAMPLES)
    with cpu_threads(threads):
        information: list[InformationRow] = []
        rows: list[Row] = []
        if estimators:
            rows = _run_estimators(estimators, chosen, sizes, stored, table)
        else:
            information = _run_information(chosen, sizes, seeds, information_table)
            rows = _run(chosen, sizes, seeds, table) if not only_information else []
    missed = report(rows, complete=complete and bool(rows), markdown=markdown)
    if information:
        missed += report_information(information, complete=complete, markdown=markdown)
    if information_table is not None and information:
        print(f"\n{information_table.path}")
    if table is not None and rows:
        print(f"\n{table.path}\n{draw(table.rows, out / 'accuracy.png')}")
    if missed:
        raise typer.Exit(1)


def _names(family: Family) -> set[str]:
    """The name of the density and its kind, such as ``bimodal-5`` and ``bimodal``."""
    return {family.name, family.name.split("-")[0]}


AnyRow = TypeVar("AnyRow", Row, InformationRow)


def replace_rows(table: Table[AnyRow], new: Sequence[AnyRow]) -> None:
    """Write rows in place of the rows of the same densities, estimators and M."""
    rows = {_key(row): row for row in table.rows}
    rows.update((_key(row), row) for row in new)
    table.replace(list(rows.values()))


def _key(row: Row | InformationRow) -> tuple[str, int, str]:
    return row.family, row.samples, row.estimator


def _run_information(
    families: Sequence[Family],
    samples: Sequence[int],
    seeds: int | None,
    table: Table[InformationRow] | None,
) -> list[InformationRow]:
    """Measure the gradients of I of all families of pairs, for M >= 256."""
    rows: list[InformationRow] = []
    todo = [(m, f) for m in samples if m >= 256 for f in families if is_paired(f)]
    for m, family in tqdm(todo, unit="density", disable=not todo):
        new = measure_information(family, m, seeds or default_seeds(m))
        rows += new
        if table is not None:
            replace_rows(table, new)
    return rows


def _run_estimators(
    names: Sequence[str],
    families: Sequence[Family],
    samples: Sequence[int],
    stored: Sequence[Row],
    table: Table[Row] | None,
) -> list[Row]:
    """Measure some estimators relative to the stored oracle, whose rows are in the result."""
    oracles = {(row.family, row.samples): row for row in stored if row.estimator == "oracle"}
    todo = [(m, family) for m in samples for family in families]
    for m, family in todo:
        if (family.name, m) not in oracles:
            raise typer.BadParameter(
                f"--estimator: accuracy.csv has no oracle of {family.name} at M = {m}; "
                "measure it without --estimator first"
            )
    rows: list[Row] = []
    for m, family in tqdm(todo, unit="density"):
        oracle = oracles[family.name, m]
        new = measure_only(names, family, m, oracle.seeds, oracle.nmse)
        rows += [*new, oracle]
        if table is not None:
            replace_rows(table, new)
    return rows


def _run(
    families: Sequence[Family], samples: Sequence[int], seeds: int | None, table: Table[Row] | None
) -> list[Row]:
    """Measure all families at all M, and write the rows of each family at once."""
    numbers = {m: seeds or default_seeds(m) for m in samples}
    rows: list[Row] = []

    def keep(new: Sequence[Row]) -> None:
        rows.extend(new)
        if table is not None:
            replace_rows(table, new)

    with tqdm(total=sum(numbers.values()) * len(families), unit="data set") as progress:
        for m, number in numbers.items():
            found = {}
            of_m: list[Row] = []
            for family in families:
                progress.set_description(f"M = {m}, {family.name}")
                new, found[family.name] = measure(family, m, number, progress.update)
                of_m += new
                keep(new)
            keep(fixed_rows(of_m, found))
    return rows
