"""The command ``python -m benchmarks values``."""

import hashlib
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from tqdm import tqdm

from benchmarks.machine import machine
from benchmarks.options import Markdown, ResumableOut, Save, Threads, require_known
from benchmarks.tables import RESULTS
from benchmarks.values.estimators import ESTIMATORS, VALUES, Estimated
from benchmarks.values.report import Row, draw, report
from benchmarks.values.tasks import COPULAS, INDEPENDENT, Array, Task, of_package, own
from mige_ext.experiments.common.device import cpu_threads
from mige_ext.experiments.common.folder import Table

SKIPPED = (
    "The 40 tasks of benchmark-mi are skipped: draw their samples with "
    "`python benchmarks/values/samples.py SAMPLES.npz` in an environment that has benchmark-mi, "
    "and give the file as --samples-file SAMPLES.npz."
)


def values(
    file: Annotated[
        Path | None,
        typer.Option(
            "--samples-file",
            help="Samples of the 40 tasks of benchmark-mi, which benchmarks/values/samples.py "
            "wrote. Without the file, the 40 tasks are skipped.",
        ),
    ] = None,
    sizes: Annotated[
        list[int] | None,
        typer.Option("--samples", help="Number of samples; repeatable. Default: 256 and 1000."),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--task", metavar="NAME", help="Run this task; repeatable. Default: all."),
    ] = None,
    methods: Annotated[
        list[str] | None,
        typer.Option(
            "--method", help=f"Estimator to run; repeatable. All: {', '.join(ESTIMATORS)}."
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Data sets per task.")] = 1,
    checks: Annotated[
        int,
        typer.Option(
            min=0, help="Data sets of 256 samples of each Gaussian copula, for the coverage."
        ),
    ] = 50,
    threads: Threads = 1,
    markdown: Markdown = False,
    out: ResumableOut = Path("runs/values"),
    save: Save = False,
) -> None:
    """Compare values of mutual information in nats with the truth.

    The exit status is 1 if a bound is missed, such as the largest mean absolute error.
    """
    require_known("--method", methods, ESTIMATORS)
    tasks = [*(of_package(file) if file else ()), *own()]
    known = [task.name for task in (*tasks, *COPULAS, *INDEPENDENT)]
    require_known("--task", only, known)
    if file is None:
        print(SKIPPED)
    folder = RESULTS if save else out
    folder.mkdir(parents=True, exist_ok=True)
    table = Table(folder / "values.csv", Row)
    print(f"{machine()}; threads: {threads}")
    todo = [
        (task, n, seed, method)
        for n in sizes or [256, 1000]
        for seed in range(seeds)
        for task in tasks
        for method in methods or ESTIMATORS
    ]
    if VALUES in (methods or ESTIMATORS):
        todo += [(task, 1000, 0, VALUES) for task in INDEPENDENT]
        todo += [(task, 256, seed, VALUES) for task in COPULAS for seed in range(checks)]
    todo = [each for each in todo if not only or each[0].name in only]
    with cpu_threads(threads):
        _run(todo, table)
    missed = report(table.rows, markdown=markdown)
    print(f"\n{table.path}\n{draw(table.rows, folder / 'values.png')}")
    if missed:
        raise typer.Exit(1)


def _run(todo: list[tuple[Task, int, int, str]], table: Table[Row]) -> None:
    """Compute the estimates that the table lacks, and write each estimate at once."""
    present = {(row.task, row.samples, row.seed, row.method) for row in table.rows}
    known: dict[str, Estimated] = {}
    todo = [each for each in todo if (each[0].name, *each[1:]) not in present]
    with tqdm(todo, unit="estimate", disable=not todo) as progress:
        for task, n, seed, method in progress:
            progress.set_description(f"{task.name}, N = {n}, seed {seed}, {method}")
            x, z = task.sample(n, seed)
            # All estimators except KSG use only the ranks of the values in a column, so tasks with
            # equal ranks share a result.
            same = _key(x, z, f"{method} {seed} {task.name if method == 'KSG' else ''}")
            if same not in known:
                known[same] = ESTIMATORS[method](x, z, seed)
            found = known[same]
            what = task.source, task.name, task.truth, n, seed, method
            table.append([Row(*what, found.value, found.standard_error, found.detail)])


def _key(x: Array, z: Array, what: str) -> str:
    """A digest of the ranks of the values in each column."""
    ranks = [np.argsort(v, axis=0, kind="stable").tobytes() for v in (x, z)]
    return hashlib.sha256(b"".join([*ranks, what.encode(), str(x.shape).encode()])).hexdigest()
