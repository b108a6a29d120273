"""Training a classifier with a bottleneck: common inputs of runs, learning, and measurements."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mige_ext.experiments.bottleneck.methods import METHODS, Settings
from mige_ext.experiments.bottleneck.training import (
    Trainer,
    build,
    measure,
    moving_average,
)
from mige_ext.experiments.common.checkpoint import RandomState
from mige_ext.experiments.common.runs import Run
from mige_ext.experiments.common.training import overhead, train
from mige_ext.experiments.data import images as data
from mige_ext.experiments.data.images import ImageData, Split

pytestmark = pytest.mark.usefixtures("one_thread")  # the networks are too small for more threads
SMALL = Settings(epochs=3, draws=2, latent=4, hidden=32)


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return data.load("digits")


def run_of(method: str, beta: float = 0.01, seed: int = 0) -> Run:
    return Run(method, beta, seed, 500)


def test_methods_start_from_the_same_weights(digits: ImageData) -> None:
    states = []
    for method in METHODS:
        torch.manual_seed(0)
        states.append(build(digits, run_of(method), SMALL).state_dict())
    for state in states[1:]:
        assert all(torch.equal(state[name], states[0][name]) for name in state)


def test_information_of_a_deterministic_code_is_infinite(digits: ImageData) -> None:
    for latent in (1, 600):  # also where 500 images leave Cov(z) singular
        model = build(digits, run_of("baseline"), replace(SMALL, latent=latent))
        assert measure(model, digits, digits.validation).information == math.inf


def test_measuring_neither_changes_the_network_nor_mixes_images(digits: ImageData) -> None:
    model = train(Trainer, digits, run_of("mige"), SMALL)[0].model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    whole = measure(model, digits, digits.test)
    images, labels = digits.test.images, digits.test.labels
    halves = [Split(images[rows], labels[rows]) for rows in (slice(0, 400), slice(400, 797))]
    errors = [measure(model, digits, half).error * len(half) for half in halves]
    assert sum(errors) / 797 == pytest.approx(whole.error, abs=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training


def test_methods_see_the_same_batches(digits: ImageData, monkeypatch: pytest.MonkeyPatch) -> None:
    normalize = ImageData.normalize
    seen: dict[str, list[Tensor]] = {method: [] for method in METHODS}
    for method, batches in seen.items():

        def spy(data: ImageData, images: Tensor, batches: list[Tensor] = batches) -> Tensor:
            batches.append(images)
            return normalize(data, images)

        monkeypatch.setattr(ImageData, "normalize", spy)
        train(Trainer, digits, run_of(method), SMALL)
    first, *others = seen.values()
    assert len(first) == SMALL.epochs * (5 + 1)  # 500 images in batches of 100, and a measurement
    assert not torch.equal(first[0], first[6])
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_the_digits(method: str, digits: ImageData) -> None:
    settings = replace(SMALL, epochs=12, latent=8, hidden=64, learning_rate=8e-3)
    strengths = METHODS[method].strengths
    run = run_of(method, strengths[len(strengths) // 2])
    _, epochs = train(Trainer, digits, run, settings)
    assert [epoch.epoch for epoch in epochs] == list(range(1, 13))
    assert epochs[-1].val_error < 0.1
    assert epochs[-1].cross_entropy < epochs[0].cross_entropy / 2
    assert math.isfinite(epochs[-1].calibration)


@pytest.mark.parametrize("method", ["vib", "mige"])
def test_a_larger_beta_leaves_less_information(method: str, digits: ImageData) -> None:
    settings = replace(SMALL, epochs=20, learning_rate=3e-3)
    information = [
        train(Trainer, digits, run_of(method, beta), settings)[1][-1].information
        for beta in (0.0, 1e-2, 1e-1)
    ]
    assert information[0] > 1.2 * information[1] > 1.2**2 * information[2]


def test_beta_zero_is_the_same_for_every_stochastic_method(digits: ImageData) -> None:
    vib, mige = (
        train(Trainer, digits, run_of(method, 0.0), SMALL)[1] for method in ("vib", "mige")
    )
    assert [replace(epoch, method="vib") for epoch in mige] == vib


@pytest.mark.parametrize("method", METHODS)
def test_training_is_deterministic_for_a_seed_and_restores_the_global_random_state(
    method: str, digits: ImageData
) -> None:
    runs = []
    for seed in (0, 0, 1):
        before = torch.get_rng_state()
        settings = replace(SMALL, average=0.9)
        runs.append(train(Trainer, digits, run_of(method, seed=seed), settings)[1])
        assert torch.equal(torch.get_rng_state(), before)
        torch.rand(1)
    assert runs[0] == runs[1] != runs[2]


def test_l2_is_not_combined_with_batch_norm_which_makes_it_constant(digits: ImageData) -> None:
    assert isinstance(build(digits, run_of("l2"), SMALL).norm, torch.nn.Identity)


def test_averaged_weights_are_the_exponential_moving_average(digits: ImageData) -> None:
    settings = replace(SMALL, batch=250, average=0.75)
    trainer = Trainer(digits, run_of("mige"), settings, RandomState(torch.device("cpu"), 0))
    averaged, weights = trainer.averaged, trainer.model.decoder.weight
    assert averaged is not None
    trainer.step(torch.arange(250))
    expected = weights.detach().clone()  # the average starts with the weights of the first step
    trainer.step(torch.arange(250, 500))
    kept = 2 / 11  # (1 + n) / (10 + n) after n = 1 value
    torch.testing.assert_close(averaged.decoder.weight, kept * expected + (1 - kept) * weights)
    average_of = moving_average(0.75)
    old, new = torch.tensor(0.0), torch.tensor(1.0)
    assert average_of(old, new, 1000) == 0.25
    _, epochs = train(Trainer, digits, run_of("mige"), settings)
    assert all(0 <= epoch.average_error <= 1 for epoch in epochs)


def test_the_learning_rate_falls_by_steps_or_as_a_cosine_to_zero(digits: ImageData) -> None:
    rates = {}
    for name in ("step", "cosine"):
        settings = replace(SMALL, epochs=4, schedule=name)
        trainer = train(Trainer, digits, run_of("baseline"), settings)[0]
        rates[name] = trainer.optimizer.param_groups[0]["lr"] / settings.learning_rate
    assert rates["step"] == pytest.approx(0.96**2)
    assert rates["cosine"] == pytest.approx(0, abs=1e-12)


def test_smoothing_of_every_method_is_that_of_the_method_label_smoothing(
    digits: ImageData,
) -> None:
    smoothed = replace(SMALL, smoothing=0.2)
    setting = train(Trainer, digits, run_of("baseline"), smoothed)[1][-1]
    method = train(Trainer, digits, run_of("label-smoothing", 0.2), SMALL)[1][-1]
    assert setting.loss == pytest.approx(method.loss, rel=1e-5)
    assert setting.val_error == method.val_error


def test_dropout_of_every_method_is_that_of_the_method_dropout(digits: ImageData) -> None:
    setting = train(Trainer, digits, run_of("baseline"), replace(SMALL, dropout=0.3))[1][-1]
    method = train(Trainer, digits, run_of("dropout", 0.3), SMALL)[1][-1]
    assert (setting.loss, setting.val_error) == (method.loss, method.val_error)


def test_overhead_of_a_penalty_is_measured_and_is_zero_without_one(digits: ImageData) -> None:
    assert overhead(Trainer, digits, run_of("baseline"), SMALL) == 0
    assert overhead(Trainer, digits, run_of("mige"), SMALL) > 0
