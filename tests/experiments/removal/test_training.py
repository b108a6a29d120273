"""Training an encoder under a penalty: determinism, equal starts, stop and resume."""

from pathlib import Path
from typing import Any

import pytest
import torch

from mige_ext.experiments.common.runs import Run
from mige_ext.experiments.common.training import train
from mige_ext.experiments.removal import training as removal_training
from mige_ext.experiments.removal.methods import METHODS
from mige_ext.experiments.removal.nuisances import Images
from mige_ext.experiments.removal.training import Settings, Trainer, encode

pytestmark = pytest.mark.usefixtures("one_thread")  # the networks are too small for more threads
SMALL = Settings(data="digits", steps=12, hidden=32, latent=6, ramp=5)
OTHER_LAYERS = (
    "vib",
    "vib-mean",
    "vib-normalized",
    "squared-norm",
)  # their encoders end differently
ERASED = ("leace", "leace-quadratic", "kernel-erasure")  # their heads are trained a second time


@pytest.mark.parametrize("method", METHODS)
def test_training_is_deterministic_for_a_seed(method: str, digits: Images) -> None:
    run = Run(method, METHODS[method].strengths[0], 3)
    state = torch.get_rng_state()
    first, second = (train(Trainer, digits, run, SMALL)[0].model.state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(torch.get_rng_state(), state)


def test_methods_start_alike_and_see_the_same_batches(digits: Images) -> None:
    models = {
        name: train(Trainer, digits, Run(name, strength, 0), SMALL)[0].model.state_dict()
        for name in METHODS
        # An eraser does not change the training. Its parts exist at a strength above 0.
        for strength in [METHODS[name].strengths[0] if name in ERASED else 0.0]
        if name not in OTHER_LAYERS
    }
    for method, model in models.items():
        if method == "dropout":  # its further layers have no weights, and change the names
            model = dict(zip(models["none"], model.values(), strict=True))
        for name, value in models["none"].items():
            if not (method in ERASED and name.startswith("head")):
                torch.testing.assert_close(model[name], value)


@pytest.mark.parametrize("method", ["none", "vib"])
def test_codes_of_a_part_are_the_same_each_time(method: str, digits: Images) -> None:
    model = train(Trainer, digits, Run(method, 0.0, 0), SMALL)[0].model.eval()
    (first, predicted), (second, _) = (encode(model, digits, "test", 5) for _ in range(2))
    assert torch.equal(first.z, second.z) and first.z.shape == (797, 6)
    assert 0 <= predicted.shifted_accuracy <= predicted.accuracy <= 1


@pytest.mark.parametrize("method", ["mige", "adversary-classifier", "mine", "vib"])
def test_a_stopped_run_continues_to_the_same_bits(
    method: str, digits: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removal_training, "EPOCH", 3)
    run, path = Run(method, METHODS[method].strengths[0], 3), tmp_path / "checkpoint.pt"
    trainer, epochs = train(Trainer, digits, run, SMALL)
    seen: list[Any] = []

    def stop(scalars: Any) -> None:
        seen.append(scalars)
        if len(seen) == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(Trainer, digits, run, SMALL, checkpoint=path, on_step=stop)
    continued, same = train(Trainer, digits, run, SMALL, checkpoint=path, on_step=seen.append)
    assert same == epochs and len(seen) == 8 + 6
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(continued.model.state_dict()[name], value)
