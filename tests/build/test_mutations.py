"""The mutations of tools/mutations.py fit the source files."""

import pytest

from tests.support.process import ROOT
from tools.mutations import MUTATIONS


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_mutation_changes_a_text_that_occurs_once(name: str) -> None:
    mutation = MUTATIONS[name]
    assert (ROOT / mutation.path).read_text().count(mutation.old) == 1
    assert mutation.new != mutation.old
    assert (ROOT / mutation.tests[0]).exists()
