"""Run steps one after another, and write results after every row and every step.

A step is a command with a time limit. A step may have items, such as the sizes of a benchmark. One
process runs all items, and appends a row to a file before and after every item. If the process
crashes or hangs, the item that had begun counts as crashed, and a new process runs the remaining
items.

``NAME.jsonl`` has the rows and steps, ``NAME.md`` the summary, ``NAME.csv`` the microbenchmarks,
and ``NAME-logs.tar.gz`` the output of every step. If a run is killed or the disk is full, the files
keep all earlier rows. This module needs only the standard library.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
ROWS = "MIGE_ROWS"  # environment variable with the file to which a process appends rows
STEP = "MIGE_STEP"  # environment variable with the name of the step
MOST_RESTARTS = 5  # largest number of restarts of the process of a step with items

Row = dict[str, Any]


@dataclass(frozen=True)
class Step:
    """A command with its time limit.

    Attributes:
        name: Name in the summary.
        command: Program and arguments, to which the names of the items are added.
        limit: Longest time in seconds.
        environment: Additional environment variables.
        required: Whether the later steps are skipped if this step fails.
        items: Names of the items, which the command runs one after another; may be empty.
        item_limit: Longest time of an item in seconds.
    """

    name: str
    command: Sequence[str]
    limit: float
    environment: Mapping[str, str] = field(default_factory=dict)
    required: bool = False
    items: tuple[str, ...] = ()
    item_limit: float = 30.0


@dataclass(frozen=True)
class Result:
    """The result of a step.

    Attributes:
        name: Name of the step.
        status: "passed", "failed", "timed out" or "not run".
        seconds: Time that the step took.
        note: Last line of the output, or reason of the failure.
    """

    name: str
    status: str
    seconds: float
    note: str


@dataclass(frozen=True)
class Files:
    """The files of a run.

    Attributes:
        out: Folder of the files.
        name: Beginning of the names of the files.
        logs: Folder of the logs.
    """

    out: Path
    name: str
    logs: Path

    @property
    def rows(self) -> Path:
        """File of the rows and steps, with one JSON object in each line."""
        return self.out / f"{self.name}.jsonl"

    @property
    def summary(self) -> Path:
        """File of the summary, in Markdown."""
        return self.out / f"{self.name}.md"

    @property
    def csv(self) -> Path:
        """File of the microbenchmarks."""
        return self.out / f"{self.name}.csv"

    @property
    def archive(self) -> Path:
        """Archive of all logs."""
        return self.out / f"{self.name}-logs.tar.gz"


# --- files ----------------------------------------------------------------------------------------


def append(path: Path, row: Row) -> None:
    """Append a row to a file, and wait until the row is on the disk.

    If the disk is full, the file keeps the earlier rows, and the row is printed to stderr.
    """
    line = json.dumps(row).encode() + b"\n"
    try:
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            size = os.fstat(file).st_size
            if os.write(file, line) != len(line):
                os.ftruncate(file, size)  # removes the incomplete row
                raise OSError("the disk is full")
            os.fsync(file)
        finally:
            os.close(file)
    except OSError as error:
        print(f"not written to {path} ({error}): {line.decode()}", file=sys.stderr, end="")


def read_rows(path: Path, start: int = 0) -> list[Row]:
    """The rows of a file, from byte ``start`` on."""
    if not path.exists():
        return []
    with path.open("rb") as file:
        file.seek(start)
        return [json.loads(line) for line in file.read().splitlines() if line.endswith(b"}")]


def replace(path: Path, write: Callable[[Path], None]) -> None:
    """Replace a file by a new file, to which ``write`` writes. On failure the old file is kept."""
    temporary = path.with_name(f".{path.name}.new")
    try:
        write(temporary)
        temporary.replace(path)
    except OSError as error:
        print(f"not written: {path} ({error})", file=sys.stderr)
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def slug(name: str) -> str:
    """A name with only the characters a to z, 0 to 9 and "-", for file names."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def summary(title: str, facts: Mapping[str, str], results: Sequence[Result]) -> str:
    """The summary of the steps, in Markdown."""
    passed = sum(r.status == "passed" for r in results)
    lines = [f"# {title}", "", f"{passed} of {len(results)} steps passed.", ""]
    lines += ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in facts.items()), ""]
    lines += ["| step | result | seconds | last line |", "|---|---|---|---|"]
    for r in results:
        note = re.sub(r"\s+", " ", r.note).replace("|", "\\|").replace(str(ROOT), ".")[:160]
        lines.append(f"| {r.name} | {r.status} | {r.seconds:.1f} | {note} |")
    return "\n".join(lines) + "\n"


# --- processes ------------------------------------------------------------------------------------


@contextlib.contextmanager
def _process(
    command: Sequence[str], environment: Mapping[str, str], log: Path
) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that appends to a log, killed with all its children after the ``with`` block."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            cwd=ROOT, env={**os.environ, **environment}, start_new_session=True,
        )  # fmt: skip
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def run(step: Step, limit: float, files: Files) -> Result:
    """Run a step, and write the output to the log of the step."""
    log = files.logs / f"{slug(step.name)}.log"
    start = time.monotonic()
    try:
        log.unlink(missing_ok=True)
        status, note = (_run_items if step.items else _run_whole)(step, start + limit, files, log)
    except OSError as error:
        status, note = "failed", str(error)
    return Result(step.name, status, time.monotonic() - start, note)


def _environment(step: Step, files: Files) -> dict[str, str]:
    return {**step.environment, ROWS: str(files.rows), STEP: step.name}


def _run_whole(step: Step, deadline: float, files: Files, log: Path) -> tuple[str, str]:
    """Run a command without items, and return the status and a note."""
    limit = max(0.0, deadline - time.monotonic())
    with _process(step.command, _environment(step, files), log) as process:
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            return "timed out", f"after {limit:.0f} s; see {log.name}"
    note = _last_line(log)
    return ("passed", note) if code == 0 else ("failed", f"exit {code}: {note}")


def _run_items(step: Step, deadline: float, files: Files, log: Path) -> tuple[str, str]:
    """Run the items of a command. After a crash, start the command again with the other items."""
    start = files.rows.stat().st_size if files.rows.exists() else 0
    restarts, reason = 0, ""
    while True:
        done = _ended(files.rows, start, step.name)
        remaining = [item for item in step.items if item not in done]
        if not remaining or time.monotonic() >= deadline or restarts > MOST_RESTARTS:
            break
        status, reason = _run_once(step, remaining, deadline, files, log)
        begun = _begun(files.rows, start, step.name)
        if begun is not None:
            row = {"step": step.name, "item": begun, "event": "end"}
            append(files.rows, {**row, "status": status, "note": reason})
        elif _ended(files.rows, start, step.name) == done:  # the process did not run any item
            break
        restarts += 1
    done = _ended(files.rows, start, step.name)
    bad = [f"{item} ({done[item]})" for item in done if done[item] != "passed"]
    missing = [item for item in step.items if item not in done]
    if not bad and not missing:
        return "passed", f"{len(done)} items"
    if not bad and time.monotonic() >= deadline:
        return "timed out", f"{len(done)} of {len(step.items)} items"
    note = ", ".join(bad) + (f"; not run: {', '.join(missing)} ({reason})" if missing else "")
    return "failed", note.removeprefix("; ")


def _run_once(
    step: Step, items: Sequence[str], deadline: float, files: Files, log: Path
) -> tuple[str, str]:
    """Run the command with some items until it ends or hangs, and return the status and a note."""
    size, since = -1, time.monotonic()
    with _process([*step.command, *items], _environment(step, files), log) as process:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = process.wait(0.1)
                return "crashed", f"exit {code}: {_last_line(log)}"
            now = time.monotonic()
            written = files.rows.stat().st_size if files.rows.exists() else 0
            if written != size:
                size, since = written, now
            if now >= deadline:
                return "timed out", "the time of the step is over"
            if now - since >= step.item_limit:
                return "timed out", f"no row for {step.item_limit:g} s"


def _events(rows: Path, start: int, step: str) -> list[Row]:
    return [row for row in read_rows(rows, start) if row.get("step") == step and "event" in row]


def _ended(rows: Path, start: int, step: str) -> dict[str, str]:
    """The status of every item that has ended."""
    return {
        row["item"]: row["status"] for row in _events(rows, start, step) if row["event"] == "end"
    }


def _begun(rows: Path, start: int, step: str) -> str | None:
    """The item that has begun and has not ended."""
    events = _events(rows, start, step)
    return events[-1]["item"] if events and events[-1]["event"] == "begin" else None


# --- a run ----------------------------------------------------------------------------------------


def keep(files: Files, facts: Mapping[str, str], results: Sequence[Result]) -> None:
    """Write the summary and the archive of the logs."""
    text = summary(files.name, facts, results)

    def write(path: Path) -> None:
        path.write_text(text)

    def pack(path: Path) -> None:
        with tarfile.open(path, "w:gz") as archive:
            archive.add(files.logs, files.logs.name)

    replace(files.summary, write)
    replace(files.archive, pack)


def run_all(
    steps: Sequence[Step], files: Files, facts: Mapping[str, str], total: float
) -> list[Result]:
    """Run one step after another within the total time, also after a failed step."""
    files.logs.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + total
    results: list[Result] = []
    obstacle = ""
    for step in steps:
        remaining = end - time.monotonic()
        if obstacle or remaining <= 0:
            reason = obstacle or f"the {total:.0f} s for all steps are over"
            result = Result(step.name, "not run", 0.0, reason)
        else:
            result = run(step, min(step.limit, remaining), files)
            log = files.logs / f"{slug(step.name)}.log"
            if result.status != "passed" and log.exists():
                print("\n".join(log.read_text(errors="replace").splitlines()[-40:]))
            if result.status != "passed" and step.required:
                obstacle = f"needs the step {step.name}"
        print(
            f"{result.status:<9} {result.seconds:6.1f} s  {result.name}  {result.note}", flush=True
        )
        results.append(result)
        append(
            files.rows,
            {
                "step": result.name, "status": result.status, "seconds": round(result.seconds, 1),
                "note": result.note,
            },
        )  # fmt: skip
        keep(files, facts, results)
    return results
