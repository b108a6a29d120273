"""What a step's process writes: the begin and the end of its items, and rows of measurements."""

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tools.gpu_runner import ROWS, STEP, append

#: Exit status of a process whose GPU reports errors since a failed item.
BROKEN = 3


def emit(item: str, **values: Any) -> None:
    """Prints a row of an item and appends it to the file of the run."""
    row = {"step": os.environ.get(STEP, "-"), "item": item, **values}
    print(" ".join(f"{k}={_text(v)}" for k, v in row.items() if k != "step"), flush=True)
    if ROWS in os.environ:
        append(Path(os.environ[ROWS]), row)


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def run_items(
    items: Sequence[str], function: Callable[[str], str | None], healthy: Callable[[], None]
) -> None:
    """Runs the items one after another.

    Args:
        items: Names of the items.
        function: Runs an item, and returns None or what is wrong with its result.
        healthy: Raises RuntimeError if the GPU reports an error. An illegal access breaks the whole
            process, which then ends with :data:`BROKEN`. The runner starts another one for the
            other items.
    """
    for item in items:
        emit(item, event="begin")
        try:
            wrong = function(item)
            healthy()
        except Exception as error:  # Whatever an item raises, the other items must still run.
            traceback.print_exc()
            first_line = (str(error).strip() or repr(error)).split("\n")[0]
            emit(item, event="end", status="failed", note=f"{type(error).__name__}: {first_line}")
            try:
                healthy()
            except RuntimeError:
                sys.exit(BROKEN)
        else:
            status = "failed" if wrong else "passed"
            emit(item, event="end", status=status, note=wrong or "")
