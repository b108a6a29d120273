"""Attackers of a few steps, which suffice where a test does not look at the leak."""

import pytest

from mige_ext.audit import _attackers


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_attackers, "_LEAST_STEPS", 1)
