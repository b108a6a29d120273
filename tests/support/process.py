"""The environment of new interpreters, and a check of the text that commands print."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def environment(**extra: str) -> dict[str, str]:
    """Environment variables for a Python that finds the package under test."""
    import mige_ext

    path = str(Path(mige_ext.__file__).parent.parent)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([path, *sys.path[1:]]), **extra}


def assert_fits(output: str, folder: Path) -> None:
    """Check that the lines that a command printed fit into 100 columns.

    A line that names the folder of the command may be longer. Progress bars are not checked,
    because they adapt to the terminal.
    """
    lines = [line for line in output.splitlines() if str(folder) not in line and "%|" not in line]
    long = [line for line in lines if len(line) > 100]
    assert not long, long
