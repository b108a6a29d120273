"""Nuisances: their scale, their bins, and their action on images."""

import math

import pytest
import torch

from mige_ext.experiments.data import images as data
from mige_ext.experiments.removal.nuisances import (
    BINS,
    NUISANCES,
    Images,
    Structural,
    bins_of,
)
from tests.experiments.removal.inputs import draw

pytestmark = pytest.mark.usefixtures("one_thread")  # the networks are too small for more threads


@pytest.mark.parametrize("nuisance", NUISANCES)
def test_nuisances_have_unit_variance_and_bins_of_equal_probability(nuisance: str) -> None:
    count = 20_000
    u = torch.rand(count, NUISANCES[nuisance].uniforms, generator=torch.Generator().manual_seed(0))
    s = NUISANCES[nuisance].scale(u)
    assert s.shape == (count, NUISANCES[nuisance].dim)
    sampling = 5 / math.sqrt(count)
    assert (s.mean(0).abs() < sampling).all() and ((s.var(0) - 1).abs() < sampling).all()
    share = torch.bincount(bins_of(u), minlength=BINS) / count
    assert len(share) == BINS and ((share - 1 / BINS).abs() < sampling / math.sqrt(BINS)).all()


def test_a_quarter_turn_and_a_half_shift_are_exact() -> None:
    image = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    turned = NUISANCES["rotation"].act(image, torch.tensor([[0.25]]))
    error = min((turned - image.rot90(turns, (2, 3))).abs().max().item() for turns in (1, 3))
    assert error < 1e-5
    still = NUISANCES["shift"].act(image, torch.full((1, 2), 0.5))
    torch.testing.assert_close(still, image)
    torch.testing.assert_close(NUISANCES["thickness"].act(image, torch.tensor([[0.5]])), image)


def test_thickness_grows_with_u() -> None:
    image = torch.zeros(1, 1, 9, 9)
    image[..., 3:6, :] = 1
    act = NUISANCES["thickness"].act
    ink = [act(image, torch.tensor([[u]])).sum().item() for u in (0.0, 0.25, 0.5, 0.75, 0.99)]
    assert ink == sorted(ink) and ink[0] < ink[2] < ink[4]


def test_the_attribute_of_the_structural_table_depends_on_the_label() -> None:
    batch = draw(Structural(), 20_000)
    means = [batch.s[batch.label == label].mean().item() for label in (0, 1)]
    assert means[1] - means[0] > 0.3
    assert abs(batch.label.float().mean().item() - 0.5) < 0.05
    correlation = torch.corrcoef(torch.cat([batch.x, batch.s], 1).mT)[-1, :-1]
    assert correlation.abs().max() < 0.9  # no column is the attribute


def test_an_unknown_nuisance_is_refused() -> None:
    with pytest.raises(ValueError, match=r"nuisance must be one of .*'rotation'.* got 'color'"):
        Images(data.load("digits"), "color")
