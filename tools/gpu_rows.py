"""The rows that the process of a step writes: beginnings and ends of items, and measurements."""

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tools.gpu_runner import ROWS, STEP, append

#: Exit status of a process whose GPU still reports an error after a failed item.
BROKEN = 3


def emit(item: str, **values: Any) -> None:
    """Print a row of an item, and append the row to the file of the run."""
    row = {"step": os.environ.get(STEP, "-"), "item": item, **values}
    print(" ".join(f"{k}={_text(v)}" for k, v in row.items() if k != "step"), flush=True)
    if ROWS in os.environ:
        append(Path(os.environ[ROWS]), row)


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def run_items(
    items: Sequence[str], function: Callable[[str], str | None], healthy: Callable[[], None]
) -> None:
    """Run the items one after another.

    Args:
        items: Names of the items.
        function: Function that runs an item, and returns None or a description of the failure.
        healthy: Function that raises RuntimeError if the GPU reports an error. After an illegal
            access the process cannot use the GPU any more, and ends with :data:`BROKEN`. The runner
            then starts a new process for the remaining items.
    """
    for item in items:
        emit(item, event="begin")
        try:
            wrong = function(item)
            healthy()
        except Exception as error:  # the other items must run after any exception
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
