"""The command ``python -m benchmarks tasks``."""

from pathlib import Path
from typing import Annotated

import typer
from tqdm import tqdm

from benchmarks.machine import machine
from benchmarks.options import Markdown, Methods, ResumableOut, Save, Seeds, Threads, require_known
from benchmarks.tables import RESULTS
from benchmarks.tasks import bottleneck, infomax, removal, sampling
from benchmarks.tasks.report import draw, report
from benchmarks.tasks.task import Row, Task
from mige_ext.experiments.common.device import cpu_threads
from mige_ext.experiments.common.folder import Table

TASKS = (*infomax.TASKS, *bottleneck.TASKS, *removal.TASKS, *sampling.TASKS)
NAMES = [task.name for task in TASKS]


def tasks(
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--task", metavar="NAME", help=f"Run this task; repeatable. All: {', '.join(NAMES)}."
        ),
    ] = None,
    methods: Methods = None,
    seeds: Seeds = 3,
    threads: Threads = 1,
    markdown: Markdown = False,
    out: ResumableOut = Path("runs/tasks"),
    save: Save = False,
) -> None:
    """Compare estimators by the results of training.

    Each task trains a small model with each estimator and with control methods. All tasks with
    three seeds take about two hours on one thread. The last table compares the default with other
    methods. The exit status is 1 if a bound is missed.
    """
    require_known("--task", only, NAMES)
    chosen = [task for task in TASKS if not only or task.name in only]
    every = {method: None for task in chosen for method in task.methods}
    require_known("--method", methods, every)
    folder = RESULTS if save else out
    folder.mkdir(parents=True, exist_ok=True)
    table = Table(folder / "tasks.csv", Row)
    print(f"{machine()}; threads: {threads}")
    with cpu_threads(threads):
        _run(chosen, methods or list(every), seeds, table)
    missed = report(table.rows, chosen, markdown=markdown)
    print(f"\n{table.path}\n{draw(table.rows, TASKS, folder / 'tasks.png')}")
    if missed:
        raise typer.Exit(1)


def _run(chosen: list[Task], methods: list[str], seeds: int, table: Table[Row]) -> None:
    """Train every method, task and seed that the table lacks, and write each row at once."""
    present = {(row.task, row.method, row.seed) for row in table.rows}
    todo = [
        (task, method, seed)
        for task in chosen
        for seed in range(seeds)
        for method in task.methods
        if method in methods and (task.name, method, seed) not in present
    ]
    with tqdm(todo, unit="run", disable=not todo) as progress:
        for task, method, seed in progress:
            progress.set_description(f"{task.name}, {method}, seed {seed}")
            table.append(
                Row(task.name, task.half, method, seed, name, value)
                for name, value in task.methods[method](seed).items()
            )
