"""The tutorial: its code runs unchanged, writes the figures, and has the results in the text."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from threadpoolctl import threadpool_limits

from tests.support.pages import run_blocks
from tests.support.process import ROOT

PAGE = ROOT / "docs" / "tutorial.md"
FIGURES = re.findall(r"!\[.*?\]\(tutorial/(\w+\.png)\)", PAGE.read_text())

pytestmark = pytest.mark.thorough  # because the page trains eight encoders


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tutorial")


@pytest.fixture(scope="module")
def results(folder: Path) -> Iterator[dict[str, Any]]:
    """The variables of the page after its code has run in a temporary folder."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch, threadpool_limits(1):  # the page sets both
        patch.chdir(folder)
        yield run_blocks(PAGE)
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("results")
def test_the_page_writes_its_figures(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == sorted(FIGURES)


def test_the_committed_figures_are_small() -> None:
    committed = sorted((ROOT / "docs" / "tutorial").iterdir())
    assert [path.name for path in committed] == sorted(FIGURES)
    assert max(path.stat().st_size for path in committed) < 60_000


def test_infomax_makes_codes_that_a_linear_probe_reads_better(results: dict[str, Any]) -> None:
    probes = results["probes"]
    assert probes["InfoMax, 2 values"] > probes["untrained, 2 values"] + 15
    assert probes["default"] > probes["untrained"] + 10


def test_removal_lowers_r2_by_a_third_for_two_points_of_accuracy(results: dict[str, Any]) -> None:
    accuracy, r2 = results["removal"]["no removal"]
    accuracy_with_removal, r2_with_removal = results["removal"]["removal, β = 0.1"]
    assert r2 > 0.3
    assert r2_with_removal < r2 * 2 / 3
    assert accuracy_with_removal > accuracy - 2


def test_removal_needs_the_angles_of_the_images(results: dict[str, Any]) -> None:
    _, r2 = results["removal"]["no removal"]
    _, r2_with_shuffled_angles = results["removal"]["angles shuffled"]
    assert r2_with_shuffled_angles > r2
