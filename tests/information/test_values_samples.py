"""Values in nats of samples that are not clean: copies, rounding, dependent columns, constants."""

import math

import pytest
import torch

from mige_ext import estimate_entropy, estimate_mutual_information
from tests.information.pairs import curved, gaussian_pair, near
from tests.support.inputs import normal


@pytest.mark.parametrize("categorical", [False, True])
def test_copies_of_rows_change_no_value(categorical: bool) -> None:
    x, z = gaussian_pair(150, 2, 0.5)
    first = (x[:, 0] > 0).long() if categorical else x
    rows = torch.cat([torch.arange(150), torch.arange(0, 150, 3), torch.arange(0, 150, 7)])
    value = estimate_mutual_information(first, z).value
    assert estimate_mutual_information(first[rows], z[rows]).value == value
    assert estimate_entropy(z[rows]).value == estimate_entropy(z).value


@pytest.mark.parametrize(("m", "step"), [(1000, 0.01), (500, 1 / 16), (200, 0.05)])
def test_rounding_of_one_column_changes_the_entropy_little(m: int, step: float) -> None:
    z = (normal(m, 1) / step).round() * step
    assert len(z.unique()) < m
    estimate = estimate_entropy(z)
    assert (estimate.value - estimate_entropy(normal(m, 1)).value).abs() < 0.05
    assert estimate.samples_used == m


def test_a_class_that_a_rounded_column_determines_has_information_below_its_entropy() -> None:
    age = (40 + 12 * normal(1000, 1)).round()
    s = age[:, 0] >= 60
    p = s.double().mean()
    entropy = -(p * p.log() + (1 - p) * (1 - p).log())
    assert (estimate_mutual_information(s, age).value / entropy - 1).abs() < 0.05


@pytest.mark.parametrize(("m", "dtype"), [(60, torch.float64), (400, torch.float32)])
def test_linearly_dependent_columns_count_once(m: int, dtype: torch.dtype) -> None:
    x, z = gaussian_pair(m, 3, 0.8)
    wide = (x @ normal(3, 70, seed=5)).to(dtype)
    estimate = estimate_mutual_information(wide, z)
    assert near(estimate, -1.5 * math.log(1 - 0.64), slack=1 / m)
    assert (estimate_mutual_information(z, wide).value - estimate.value).abs() < 0.05
    s = (x[:, 0] > 0).long()
    of_class = estimate_mutual_information(s, wide)
    assert of_class.value <= math.log(2) and of_class.value > 0.4


def test_rows_without_copies_are_counted() -> None:
    z = normal(150, 1)
    assert estimate_entropy(torch.cat([z, z[:50]])).samples_used == 150


def test_constant_columns_are_left_out() -> None:
    x, z = curved()
    wider = torch.cat((torch.ones(len(z), 1), z), 1)
    assert estimate_mutual_information(x, wider).value == estimate_mutual_information(x, z).value


@pytest.mark.filterwarnings("ignore::mige_ext.MigeWarning")
def test_a_constant_has_no_information() -> None:
    x, z = curved()
    for estimate in (
        estimate_mutual_information(x, torch.ones_like(z)),
        estimate_mutual_information(torch.zeros(len(z), dtype=torch.long), z),
    ):
        assert estimate.value == 0 and estimate.methods == ("constant",)


def test_repeated_columns_change_little() -> None:
    x, z = gaussian_pair(300, 2, 0.7)
    plain = estimate_mutual_information(x, z)
    twice = estimate_mutual_information(torch.cat((x, 2 * x), 1), z)
    assert twice.gaussian == pytest.approx(float(plain.gaussian), abs=1e-6)
    assert twice.value == pytest.approx(float(plain.value), abs=0.02)


def test_columns_with_many_equal_values() -> None:
    x, z = gaussian_pair(500, 2, 0.8)
    estimate = estimate_mutual_information(x, z.clamp(min=0))  # half of each column is 0
    assert 0.3 < estimate.value < 1.02


@pytest.mark.parametrize(
    ("dtype", "offset"),
    [(torch.float16, 0), (torch.bfloat16, 0), (torch.float32, 100), (torch.float64, 100)],
)
def test_a_sum_of_columns_has_no_entropy(dtype: torch.dtype, offset: float) -> None:
    x = normal(400, 2) + offset
    z = torch.cat((x, x.sum(1, keepdim=True)), 1).to(dtype)
    with pytest.raises(ValueError, match="a linear combination of the columns is constant"):
        estimate_entropy(z)
