"""Training steps of the experiments stay on one device and read nothing from it.

The meta device replaces the GPU. Its tensors have no values, so a read of a value (``.item()``, a
branch) raises an error. On CUDA a read would stall the stream. An operation with a tensor of the
CPU raises an error on both devices. Copies from the CPU are not detected.
"""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mige_ext.experiments.bottleneck import training as bottleneck_training
from mige_ext.experiments.bottleneck.methods import METHODS as BOTTLENECK
from mige_ext.experiments.bottleneck.methods import Settings as BottleneckSettings
from mige_ext.experiments.common.checkpoint import RandomState
from mige_ext.experiments.common.runs import Run
from mige_ext.experiments.common.training import train
from mige_ext.experiments.data import images as data
from mige_ext.experiments.data.images import ImageData
from mige_ext.experiments.infomax import training as infomax_training
from mige_ext.experiments.infomax.methods import METHODS as INFOMAX
from mige_ext.experiments.removal import training as removal_training
from mige_ext.experiments.removal.methods import METHODS as REMOVAL
from mige_ext.experiments.removal.nuisances import NUISANCES, Images, Problem, Structural

META = torch.device("meta")
NUMBERS = torch.arange(32, device=META)
RANDOM = RandomState(META, 0)


@pytest.fixture(autouse=True)
def meta_can_be_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The meta device has neither torch's fused optimizers nor autocast."""
    adam = torch.optim.Adam
    monkeypatch.setattr(torch.optim, "Adam", lambda *a, fused, **options: adam(*a, **options))
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return data.load("digits").to(META)


def test_the_meta_device_refuses_values_and_other_devices() -> None:
    there = torch.ones(3, device=META)
    with pytest.raises(RuntimeError, match=r"item\(\) cannot be called on meta"):
        there.sum().item()
    with pytest.raises((RuntimeError, NotImplementedError)):
        bool(there.sum() > 0)
    for mix in (lambda: there + torch.ones(3), lambda: there @ torch.ones(3)):
        with pytest.raises(RuntimeError, match="device"):
            mix()


@pytest.mark.parametrize("method", BOTTLENECK)
def test_a_step_of_the_bottleneck(method: str, digits: ImageData) -> None:
    settings = BottleneckSettings(data="digits", hidden=32, latent=8)
    run = Run(method, 0.1, 0, 100)
    loss = bottleneck_training.Trainer(digits, run, settings, RANDOM).step(NUMBERS)["loss"]
    assert loss.device == META


@pytest.mark.parametrize("method", [name for name in INFOMAX if INFOMAX[name].make])
def test_a_step_of_infomax(method: str, digits: ImageData) -> None:
    settings = infomax_training.Settings(data="digits", width=8, hidden=32, latent=8)
    run = Run(method, 1e-3, 0, 100)
    loss = infomax_training.Trainer(digits, run, settings, RANDOM).step(NUMBERS)["loss"]
    assert loss.device == META


@pytest.mark.parametrize("method", REMOVAL)
def test_steps_of_removal(method: str, digits: ImageData) -> None:
    steps_of_removal(Images(digits, "rotation"), method)


@pytest.mark.parametrize("nuisance", [*NUISANCES, "attribute"])
def test_steps_under_every_nuisance(nuisance: str, digits: ImageData) -> None:
    problem = Structural(META) if nuisance == "attribute" else Images(digits, nuisance)
    steps_of_removal(problem, "mige")


def steps_of_removal(problem: Problem, method: str) -> None:
    settings = removal_training.Settings(data="digits", hidden=32, latent=4, batch=32)
    run = Run(method, 0.1, 0)
    trainer = removal_training.Trainer(problem, run, settings, RandomState(META, 0))
    for _, rows in zip(range(2), trainer.batches(), strict=False):
        assert trainer.step(rows)["cross_entropy"].device == META


@pytest.mark.parametrize(
    ("training", "settings"),
    [
        (bottleneck_training, BottleneckSettings(data="digits", epochs=1, hidden=32, latent=8)),
        (
            infomax_training,
            infomax_training.Settings("digits", epochs=1, width=4, hidden=16, latent=4),
        ),
    ],
    ids=["bottleneck", "infomax"],
)
@pytest.mark.usefixtures("one_thread")
def test_a_run_of_another_device_starts_again(training: Any, settings: Any, tmp_path: Path) -> None:
    images, path = data.load("digits"), tmp_path / "checkpoint.pt"
    run = Run("mige", 1e-3, 0, 500)

    def steps() -> int:
        seen: list[Mapping[str, Tensor]] = []
        train(training.Trainer, images, run, settings, checkpoint=path, on_step=seen.append)
        return len(seen)

    assert steps() > 0
    assert steps() == 0  # the checkpoint has all steps
    state = torch.load(path, weights_only=True)
    assert state["run"]["device"] == "cpu"
    torch.save({**state, "run": {**state["run"], "device": "cuda"}}, path)
    assert steps() > 0
