"""Probes and principal components find planted features."""

import math

import pytest
import torch

from mige_ext.experiments.data import images as data
from mige_ext.experiments.data.images import ImageData
from mige_ext.experiments.infomax.encoders import PrincipalComponents
from mige_ext.experiments.infomax.probes import (
    accuracy_of,
    effective_rank,
    linear_accuracy,
    train_probe,
)
from mige_ext.experiments.infomax.training import Settings

pytestmark = pytest.mark.usefixtures("one_thread")  # the networks are too small for more threads
SMALL = Settings("digits", epochs=2, batch=64, latent=4, width=4, hidden=16, projection=6)


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return data.load("digits")


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_effective_rank_of_white_codes_is_their_dimension() -> None:
    q, _ = torch.linalg.qr(normal(50, 5) - normal(50, 5).mean(0))
    assert effective_rank(torch.cat([q, -q])) == pytest.approx(5)
    assert effective_rank(q[:, :1] @ normal(1, 4)) == pytest.approx(1)


def test_a_probe_learns_a_planted_signal_and_no_other() -> None:
    x = normal(1200, 8)
    planted, chance = (x[:, 0] > 0).long(), (normal(1200, seed=1) > 0).long()
    for labels, low, high in ((planted, 0.9, 1.0), (chance, 0.35, 0.65)):
        probe = train_probe(x[:800], labels[:800], 2, epochs=10, seed=0)
        assert low <= accuracy_of(probe, x[800:], labels[800:]) <= high


def test_principal_components_are_white_and_lead(digits: ImageData) -> None:
    x = digits.normalize(digits.train.images)
    components = PrincipalComponents(64, 10)
    components.fit(x)
    y = components(x)["z"]
    torch.testing.assert_close(y.mT.cov(), torch.eye(10), atol=1e-3, rtol=0)
    _, _, v = torch.linalg.svd(x.flatten(1) - x.flatten(1).mean(0), full_matrices=False)
    basis, _ = torch.linalg.qr(components.directions)
    torch.testing.assert_close((v[:10] @ basis).norm(), torch.tensor(10.0).sqrt())


def test_a_training_that_diverged_has_no_rank() -> None:
    z = normal(20, 3)
    z[3, 1] = torch.nan
    assert math.isnan(effective_rank(z))
    assert math.isnan(linear_accuracy(z, torch.arange(20) % 2, z, torch.arange(20) % 2))
