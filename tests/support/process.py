"""Fresh interpreters that find the package under test."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def environment(**extra: str) -> dict[str, str]:
    """Environment variables for a Python that finds the package under test."""
    import mige_ext

    path = str(Path(mige_ext.__file__).parent.parent)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([path, *sys.path[1:]]), **extra}
