"""Gradients of information from pairs that are not clean, with every estimator.

With z = x + noise, x and the noise normal, the gradient of I(x; z) in z_i is known: it is 1/M of
the z-part of the score of (x, z), minus the score of z.
"""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import mige_ext as mige
from tests.scores.test_unclean_samples import (
    CHANGES,
    CONTROL,
    ESTIMATORS,
    OTHERS,
    changes,
    few,
    seeds,
)
from tests.support.inputs import normal

# These calls are misuse on purpose. test_warnings.py tests the warnings.
pytestmark = pytest.mark.filterwarnings("ignore::mige_ext.MigeWarning")

NOISE = 0.7


def pair(m: int, d: int, seed: int) -> Tensor:
    """The columns of x, then those of z, (M, 2d)."""
    x = normal(m, d, seed=seed)
    return torch.cat((x, x + NOISE * normal(m, d, seed=seed + 1)), 1)


def field(estimator: mige.ScoreEstimator, x: Tensor, z: Tensor) -> Tensor:
    """M times the gradient of I(x; z) in z."""
    z = z.clone().requires_grad_()
    mige.mutual_information(x, z, estimator=estimator).backward()
    assert z.grad is not None
    return len(z) * z.grad


def relative_error(estimator: mige.ScoreEstimator, samples: Tensor, rows: int) -> float:
    x, z = samples.chunk(2, 1)
    exact = (z - x) / -(NOISE**2) + z / (1 + NOISE**2)  # the joint score minus the marginal one
    got = field(estimator, x, z)
    return ((got - exact)[:rows].square().sum() / exact[:rows].square().sum()).item()


def assert_close(got: Tensor, expected: Tensor) -> None:
    assert (got - expected).norm() <= 1e-4 * expected.norm()


@pytest.mark.parametrize("name", [n for n in ESTIMATORS if "qis" not in n])
@pytest.mark.parametrize("factor", [1e-3, 1e3])
@few
@given(st.integers(20, 50), st.integers(1, 3), seeds)
def test_the_units_of_an_argument_change_nothing(
    name: str, factor: float, m: int, d: int, seed: int
) -> None:
    # "qis" is left out: its shrinkage of the pair depends on the ratio of the units.
    x, z = pair(m, d, seed).chunk(2, 1)
    expected = field(ESTIMATORS[name], x, z)
    assert_close(factor * field(ESTIMATORS[name], x, factor * z), expected)
    assert_close(field(ESTIMATORS[name], factor * x, z), expected)


@pytest.mark.parametrize("name", [n for n in ESTIMATORS if "qis" not in n and n != "network"])
@few
@given(st.integers(20, 50), st.integers(1, 3), seeds)
def test_an_offset_and_a_constant_column_change_nothing(
    name: str, m: int, d: int, seed: int
) -> None:
    x, z = pair(m, d, seed).chunk(2, 1)
    moved = z + 1e6
    assert_close(field(ESTIMATORS[name], x, moved), field(ESTIMATORS[name], x, moved - 1e6))
    padded = torch.cat((x, torch.full((m, 1), 5.0, dtype=x.dtype)), 1)
    assert_close(field(ESTIMATORS[name], padded, z), field(ESTIMATORS[name], x, z))


@pytest.mark.parametrize("change", ["repeated", "drawn_with_replacement", "jittered",
                                    "with_an_outlier"])  # fmt: skip
@pytest.mark.parametrize("name", [n for n in OTHERS if n not in ("network", "landmarks")])
@few
@given(seeds, changes)
def test_unclean_pairs_do_not_multiply_the_error(
    name: str, change: str, seed: int, how: Any
) -> None:
    clean = pair(80, 1, seed)
    how = how | {"distance": min(how["distance"], 0.05)}  # small beside the noise of z
    changed = CHANGES[change](clean, seed=seed, **how)
    rows = len(clean) if change == "with_an_outlier" else len(changed)
    got = relative_error(ESTIMATORS[name], changed, rows)
    reference = max(
        relative_error(ESTIMATORS[name], clean, len(clean)), relative_error(CONTROL, changed, rows)
    )
    assert got <= 4 * reference + 0.05, (got, reference)
