"""Features of torch in pairs: mige_ext does the same as in eager mode, or an error is raised.

``docs/pairs.csv`` has the outcomes, which ``docs/pytorch.md`` shows. These tests compute them
again. After a change, ``python -m tests.support.pairs`` writes the file.
"""

import pytest

from tests.support.pairs import FEATURES, SUBJECTS, outcome, pairs, recorded

# torch's compiler, its export and its jvp use interfaces that torch deprecates.
pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.usefixtures("fresh_compiler"),
]

SLOW = "compile, inductor"
CELLS = [(subject, *pair) for subject in SUBJECTS for pair in pairs()]


def test_the_table_has_every_pair() -> None:
    assert set(recorded()) == set(CELLS)


@pytest.mark.parametrize(
    ("subject", "first", "second"), [cell for cell in CELLS if SLOW not in cell]
)
def test_two_features_together_do_what_the_table_says(
    subject: str, first: str, second: str
) -> None:
    assert outcome(subject, first, second) == recorded()[subject, first, second]


@pytest.mark.thorough
@pytest.mark.parametrize(("subject", "first", "second"), [cell for cell in CELLS if SLOW in cell])
def test_inductor_with_another_feature_does_what_the_table_says(
    subject: str, first: str, second: str
) -> None:
    assert outcome(subject, first, second) == recorded()[subject, first, second]


def test_every_feature_is_in_the_table_for_every_subject() -> None:
    for subject in SUBJECTS:
        assert {name for s, *pair in recorded() if s == subject for name in pair} == set(FEATURES)
