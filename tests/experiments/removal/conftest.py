"""Fixtures of the tests of information removal."""

import pytest

from mige_ext.audit import _attackers
from mige_ext.experiments.data import images as data
from mige_ext.experiments.removal.nuisances import Images


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attackers of a few steps, which suffice where a test does not look at the leak."""
    monkeypatch.setattr(_attackers, "_LEAST_STEPS", 1)


@pytest.fixture(scope="module")
def digits() -> Images:
    """Digits, rotated at random."""
    return Images(data.load("digits"), "rotation")
