"""Objectives of InfoMax, and an encoder that trains by them."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from mige_ext.experiments.common.checkpoint import RandomState
from mige_ext.experiments.common.runs import Run
from mige_ext.experiments.common.training import train
from mige_ext.experiments.data import images as data
from mige_ext.experiments.data.images import ImageData
from mige_ext.experiments.infomax.encoders import Encoder, encode
from mige_ext.experiments.infomax.methods import METHODS, RATES, balanced
from mige_ext.experiments.infomax.training import Settings, Trainer

pytestmark = pytest.mark.usefixtures("one_thread")  # the networks are too small for more threads
TRAINED = [name for name, method in METHODS.items() if method.make]
CPU = torch.device("cpu")
SMALL = Settings("digits", epochs=2, batch=64, latent=4, width=4, hidden=16, projection=6)


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return data.load("digits")


def run_of(method: str) -> Run:
    return Run(method, RATES[-1] if METHODS[method].make else 0.0, 0, 500)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_layers_have_the_sizes_of_the_paper() -> None:
    features = Encoder((3, 32, 32))(normal(2, 3, 32, 32))
    assert [tuple(of.shape) for of in features] == [(2, 4096), (2, 1024), (2, 64)]


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("method", TRAINED)
def test_every_objective_has_finite_gradients(method: str, bf16: bool, digits: ImageData) -> None:
    settings = Settings("digits", batch=64, latent=4, width=4, hidden=16, bf16=bf16)
    trainer = Trainer(digits, run_of(method), settings, RandomState(CPU, 0))
    pixels = digits.train.images[:64]
    assert trainer.objective is not None
    loss = trainer.objective(*encode(trainer.encoder, digits, pixels, bf16=bf16))
    loss.backward()
    gradients = [value.grad for value in trainer.modules.parameters()]
    assert loss.isfinite() and all(g is not None and g.isfinite().all() for g in gradients)
    assert any(g is not None and g.abs().max() > 0 for g in gradients)


@pytest.mark.parametrize("alpha", [0.25, 1.0])
def test_x_and_z_are_balanced_in_mean_squared_distance(alpha: float) -> None:
    x, z = 30 * normal(40, 7).double(), normal(40, 3, seed=1).double()
    ratio = torch.pdist(balanced(x, z, alpha)).square().mean() / torch.pdist(z).square().mean()
    torch.testing.assert_close(ratio, torch.tensor(alpha).double())
    constant = torch.ones(40, 7)
    assert torch.equal(balanced(constant, z.float(), alpha), constant)


def test_the_discriminator_does_not_learn_from_the_encoder_s_loss(digits: ImageData) -> None:
    gradients = []
    for prior in (0.0, 5.0):
        torch.manual_seed(0)
        settings = Settings("digits", batch=64, latent=4, width=4, hidden=16, prior=prior)
        trainer = Trainer(digits, run_of("jsd+pm"), settings, RandomState(CPU, 0))
        assert trainer.objective is not None
        trainer.objective(*encode(trainer.encoder, digits, digits.train.images[:64])).backward()
        discriminator: Any = trainer.objective.discriminator  # type: ignore[attr-defined]
        gradients.append(discriminator[0].weight.grad)
    assert torch.equal(*gradients)


def test_a_random_encoder_keeps_its_weights(digits: ImageData) -> None:
    trainer, epochs = train(Trainer, digits, run_of("random"), replace(SMALL, epochs=1))
    torch.manual_seed(0)
    fresh = Trainer(digits, run_of("random"), SMALL, RandomState(CPU, 0))
    assert len(epochs) == 1
    for mine, theirs in zip(trainer.modules.parameters(), fresh.modules.parameters(), strict=True):
        assert torch.equal(mine, theirs)
