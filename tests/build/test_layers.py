"""Imports and includes go one way: no file uses a layer above its own."""

import re
import subprocess
import sys
from pathlib import Path, PurePosixPath

import pytest

from tests.support.process import ROOT, environment

CSRC = ROOT / "csrc"
INCLUDE = re.compile(r'^#include "([^"]+)"', re.MULTILINE)

#: The folders of csrc and the folders that each may include, besides itself. ``cuda`` stands for
#: ``launchers.h``, which declares the functions that the bindings call.
INCLUDES = {
    "common": set(),
    "cpu": {"common"},
    "cuda": {"common"},
    "cuda/core": {"common", "cuda"},
    "cuda/linalg": {"common", "cuda", "cuda/core"},
    "cuda/rbf": {"common", "cuda", "cuda/core", "cuda/linalg"},
    "cuda/ssge": {"common", "cuda", "cuda/core", "cuda/linalg", "cuda/rbf"},
    "cuda/adaptive": {"common", "cuda", "cuda/core", "cuda/linalg", "cuda/rbf"},
    "cuda/ops": {"common", "cuda", "cuda/core", "cuda/linalg", "cuda/rbf", "cuda/ssge",
                 "cuda/adaptive"},
    "bind": {"common", "cpu", "cuda"},
}  # fmt: skip


def includes() -> list[tuple[PurePosixPath, PurePosixPath]]:
    """Every file of csrc with each file that it includes, relative to csrc."""
    return [
        (PurePosixPath(path.relative_to(CSRC).as_posix()), PurePosixPath(name))
        for path in sorted(CSRC.rglob("*.*"))
        if path.suffix in {".cpp", ".cu", ".cuh", ".h"}
        for name in INCLUDE.findall(path.read_text("utf-8"))
    ]


def lint(root: Path) -> subprocess.CompletedProcess[str]:
    """Runs ``lint-imports`` on the package in a folder, with the contracts of this tree."""
    code = "from importlinter.cli import lint_imports_command as lint; lint()"
    return subprocess.run(
        [sys.executable, "-c", code, "--no-cache", "--no-logo", str(ROOT / "pyproject.toml")],
        cwd=root, env=environment(PYTHONPATH=str(root)), capture_output=True, text=True,
    )  # fmt: skip


@pytest.mark.thorough
def test_every_import_goes_to_a_lower_layer() -> None:
    result = lint(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_include_goes_to_a_lower_layer() -> None:
    found = includes()
    assert len(found) > 50
    folders = {file.parent.as_posix() for pair in found for file in pair}
    assert folders <= INCLUDES.keys(), "a folder of csrc without a place in INCLUDES"
    upward = [
        f"{file} includes {other}"
        for file, other in found
        if other.parent != file.parent
        and other.parent.as_posix() not in INCLUDES[file.parent.as_posix()]
    ]
    assert not upward


def test_included_files_exist() -> None:
    missing = [
        f"{file} includes {other}" for file, other in includes() if not (CSRC / other).exists()
    ]
    assert not missing


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("ops/__init__.py", "from mige_ext import information", "The package is layered"),
        ("scores/base.py", "from mige_ext.scores import landmarks", "Score estimators are layered"),
        ("bounds.py", "from mige_ext import reference", "The package is layered"),
        ("bounds.py", "import benchmarks", "neither benchmarks nor tests"),
        ("new.py", "", "The package is layered"),
    ],
)
def test_an_import_from_a_higher_layer_is_found(
    tmp_path: Path, module: str, line: str, contract: str
) -> None:
    for path in (ROOT / "mige_ext").rglob("*.py"):
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    with (tmp_path / "mige_ext" / module).open("a") as file:
        file.write(f"\n{line}\n")
    result = lint(tmp_path)
    assert result.returncode == 1
    assert re.search(rf"{contract}.* BROKEN", result.stdout), result.stdout
