"""The pages of the documentation: their examples, their links, and the site that Sphinx builds.

``test_import.py`` runs the examples in docstrings.
"""

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import mige_ext
from mige_ext import ops
from tests.support.pages import BLOCK, run_blocks
from tests.support.process import ROOT, environment

DOCS = ROOT / "docs"
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *(ROOT / "benchmarks" / "README.md", ROOT / "tests" / "emulator" / "README.md"),
    *sorted(DOCS.glob("*.md")),
    *sorted(DOCS.glob("results/*.md")),
]
for_each_page = pytest.mark.parametrize(
    "page", PAGES, ids=lambda page: str(page.relative_to(ROOT).with_suffix(""))
)

# Pages with blocks to run. test_tutorial.py runs the tutorial.
EXAMPLES = [p for p in PAGES if BLOCK.search(p.read_text()) and p != DOCS / "tutorial.md"]
LINK = re.compile(r"\]\((?!https?://)([^)#\s]*)(?:#([^)\s]+))?\)")


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```$|`[^`\n]*`", "", text, flags=re.MULTILINE | re.DOTALL)


@cache
def anchors(page: Path) -> set[str]:
    """The anchors of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ +(.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.strip().lower()).replace(" ", "-") for h in headings}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # by torch
@pytest.mark.parametrize("page", EXAMPLES, ids=lambda page: page.stem)
def test_the_examples_of_a_page_run_in_order(page: Path) -> None:
    run_blocks(page)


@for_each_page
def test_every_code_block_is_python_or_a_directive(page: Path) -> None:
    fences = re.findall(r"^```(.*)$", page.read_text(), re.MULTILINE)[::2]
    assert [f for f in fences if f != "python" and not f.startswith("{")] == []


@for_each_page
def test_links_have_targets(page: Path) -> None:
    for target, anchor in LINK.findall(without_code(page.read_text())):
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file), f"{target}#{anchor}"


def test_the_reference_has_every_public_name() -> None:
    directive = r"^\.\. auto(?:class|function|data):: (?:\w+\.)*(\w+)$"
    listed = re.findall(directive, (DOCS / "api.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(mige_ext.__all__)


def test_the_reference_has_a_row_for_every_operator() -> None:
    rows = re.findall(r"^\| `(\w+)\(", (DOCS / "api.md").read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(ops.OPERATORS)


@pytest.mark.thorough
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html",
         str(ROOT / "docs"), str(tmp_path)],
        capture_output=True, text=True, cwd=tmp_path, env=environment(),
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (0, "")
