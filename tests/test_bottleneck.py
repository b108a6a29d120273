"""The Information Bottleneck: its losses against closed forms, its training, its command."""

import csv
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from torch import Tensor
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F
from typer.testing import CliRunner

from mige_ext.experiments import bottleneck as command
from mige_ext.experiments import data
from mige_ext.experiments.bottleneck import Result, bottleneck, choose_betas
from mige_ext.experiments.bottleneck_training import (
    METHODS,
    Classifier,
    Epoch,
    Output,
    Settings,
    build,
    information_bound,
    information_gradient,
    measure,
    train,
    variational,
)
from mige_ext.experiments.data import ImageData, Split
from mige_ext.experiments.runs import Table

SMALL = Settings(epochs=3, draws=2, latent=4, hidden=32)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """These networks are too small for more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return data.load("digits")


@pytest.fixture
def random() -> torch.Generator:
    return torch.Generator().manual_seed(0)


# --- the losses -----------------------------------------------------------------------------------


class LinearEncoder:
    """z = W x + σ ε for x ~ N(0, I): the one encoder whose I(z; x) has a closed form."""

    def __init__(self, random: torch.Generator, inputs: int = 6, latent: int = 3) -> None:
        self.weight = torch.randn(latent, inputs, generator=random) / math.sqrt(inputs)
        self.log_sigma = torch.linspace(-1.5, 0, latent)
        self.parameters = [p.double().requires_grad_() for p in (self.weight, self.log_sigma)]
        self.weight, self.log_sigma = self.parameters

    def information(self) -> Tensor:
        covariance = self.weight @ self.weight.T + (2 * self.log_sigma).exp().diag()
        return 0.5 * covariance.logdet() - self.log_sigma.sum()

    def output(self, n: int, draws: int, random: torch.Generator) -> Output:
        x = torch.randn(n, self.weight.shape[1], generator=random, dtype=torch.float64)
        mean, log_sigma = x @ self.weight.T, self.log_sigma.expand(n, -1)
        noise = torch.randn(n, draws, mean.shape[-1], generator=random, dtype=torch.float64)
        z = mean.unsqueeze(1) + log_sigma.exp().unsqueeze(1) * noise
        return Output(mean, log_sigma, z, torch.empty(n, draws, 0))

    def gradient(self, value: Tensor) -> Tensor:
        return torch.cat([g.flatten() for g in torch.autograd.grad(value, self.parameters)])


@pytest.mark.parametrize(
    ("conditional", "draws", "least"), [("analytic", 1, 0.98), ("draws", 64, 0.93)]
)
def test_mige_penalty_has_the_gradient_of_information(
    conditional: str, draws: int, least: float, random: torch.Generator
) -> None:
    encoder = LinearEncoder(random)
    penalty = information_gradient(Settings(conditional=conditional, draws=max(draws, 2)))
    estimate = encoder.gradient(penalty(encoder.output(256, draws, random)))
    truth = encoder.gradient(encoder.information())
    assert F.cosine_similarity(estimate, truth, dim=0) > least
    assert 0.9 < estimate.norm() / truth.norm() < 1.1


def test_entropy_alone_would_fail_that_comparison(random: torch.Generator) -> None:
    encoder = LinearEncoder(random)
    out = encoder.output(256, 1, random)
    entropy = information_gradient(Settings())(out) + out.log_sigma.sum(-1).mean()
    truth = encoder.gradient(encoder.information())
    assert F.cosine_similarity(encoder.gradient(entropy), truth, dim=0) < 0.93


def test_vib_penalty_is_the_divergence_from_a_standard_normal(random: torch.Generator) -> None:
    mean, log_sigma = torch.randn(2, 7, 5, generator=random, dtype=torch.float64)
    out = Output(mean, log_sigma, mean.unsqueeze(1), torch.empty(7, 1, 0))
    expected = kl_divergence(Normal(mean, log_sigma.exp()), Normal(0.0, 1.0)).sum(-1).mean()
    torch.testing.assert_close(variational(Settings())(out), expected)


def test_information_bound_is_exact_for_a_gaussian_code(random: torch.Generator) -> None:
    encoder = LinearEncoder(random)
    x = torch.randn(40, 6, generator=random, dtype=torch.float64)
    # Whitened, so that the covariance of these 40 inputs is the identity.
    x = (x - x.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(x.T.cov(correction=0))).T
    mean, log_sigma = x @ encoder.weight.T, encoder.log_sigma.expand(40, -1)
    expected = encoder.information().item()
    assert information_bound(mean.detach(), log_sigma.detach()) == pytest.approx(
        expected, rel=1e-10
    )


def test_information_bound_does_not_depend_on_the_scale_of_the_code(
    random: torch.Generator,
) -> None:
    mean, log_sigma = torch.randn(2, 50, 3, generator=random, dtype=torch.float64)
    scaled = information_bound(10 * mean, log_sigma + math.log(10))
    assert information_bound(mean, log_sigma) == pytest.approx(scaled, rel=1e-10)


def test_information_of_a_deterministic_code_is_infinite(digits: ImageData) -> None:
    for latent in (1, 600):  # also where 500 images leave Cov(z) singular
        model = build(digits, "baseline", replace(SMALL, latent=latent))
        assert measure(model, digits, digits.validation).information == math.inf


# --- the network ----------------------------------------------------------------------------------


def test_draws_have_the_mean_and_deviation_of_the_encoder(digits: ImageData) -> None:
    torch.manual_seed(0)
    model = build(digits, "mige", SMALL)
    torch.nn.init.constant_(model.spread.bias, 5.0)  # σ around log 2
    out = model(digits.normalise(digits.train.images[:3]), draws=20_000)
    sigma = out.log_sigma.exp()
    assert out.z.shape == (3, 20_000, 4)
    # Five standard errors.
    assert ((out.z.mean(1) - out.mean).abs() < 5 * sigma / math.sqrt(20_000)).all()
    assert ((out.z.std(1) / sigma - 1).abs() < 5 / math.sqrt(40_000)).all()


def test_prediction_takes_the_mean_code_and_no_noise(digits: ImageData) -> None:
    model = build(digits, "mige", SMALL).eval()
    images = digits.normalise(digits.test.images[:5])
    assert torch.equal(model(images).z.squeeze(1), model(images).mean)
    assert torch.equal(model(images).logits, model(images).logits)


def test_normalise_fixes_the_scale_of_the_mean_code(digits: ImageData) -> None:
    images = digits.normalise(digits.train.images)
    for normalise in (True, False):
        mean = build(digits, "mige", replace(SMALL, normalise=normalise))(images).mean
        deviation = mean.std(0, correction=0)
        assert torch.allclose(deviation, torch.ones(4), atol=1e-2) == normalise


def test_methods_start_from_the_same_weights(digits: ImageData) -> None:
    states = []
    for method in METHODS:
        torch.manual_seed(0)
        states.append(build(digits, method, SMALL).state_dict())
    for state in states[1:]:
        assert all(torch.equal(state[name], states[0][name]) for name in states[0])


def test_measuring_neither_changes_the_network_nor_mixes_images(digits: ImageData) -> None:
    model, _ = train(digits, "mige", 0.01, 0, SMALL, ignore)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    whole = measure(model, digits, digits.test)
    images, labels = digits.test.images, digits.test.labels
    halves = [Split(images[rows], labels[rows]) for rows in (slice(0, 400), slice(400, 797))]
    errors = [measure(model, digits, half).error * len(half) for half in halves]
    assert sum(errors) / 797 == pytest.approx(whole.error, abs=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training


# --- training -------------------------------------------------------------------------------------


def ignore(_: Epoch) -> None:
    pass


def test_methods_see_the_same_batches(digits: ImageData, monkeypatch: pytest.MonkeyPatch) -> None:
    normalise = ImageData.normalise
    seen: dict[str, list[Tensor]] = {method: [] for method in METHODS}
    for method, batches in seen.items():

        def spy(data: ImageData, images: Tensor, batches: list[Tensor] = batches) -> Tensor:
            batches.append(images)
            return normalise(data, images)

        monkeypatch.setattr(ImageData, "normalise", spy)
        train(digits, method, 0.01, 0, SMALL, ignore)
    first, *others = seen.values()
    assert len(first) == SMALL.epochs * (5 + 1)  # 500 images in batches of 100, and a measurement
    assert not torch.equal(first[0], first[6])
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_the_digits(method: str, digits: ImageData) -> None:
    settings = replace(SMALL, epochs=25, latent=8, hidden=64, learning_rate=3e-3)
    _, epochs = train(digits, method, 1e-3, 0, settings, ignore)
    assert [epoch.epoch for epoch in epochs] == list(range(1, 26))
    assert epochs[-1].val_error < 0.1
    assert epochs[-1].cross_entropy < epochs[0].cross_entropy / 2


@pytest.mark.parametrize("method", ["vib", "mige"])
def test_a_larger_beta_leaves_less_information(method: str, digits: ImageData) -> None:
    settings = replace(SMALL, epochs=20, learning_rate=3e-3)
    information = [
        train(digits, method, beta, 0, settings, ignore)[1][-1].information
        for beta in (0.0, 1e-2, 1e-1)
    ]
    assert information[0] > 1.2 * information[1] > 1.2**2 * information[2]


def test_beta_zero_is_the_same_for_every_stochastic_method(digits: ImageData) -> None:
    vib, mige = (train(digits, method, 0.0, 0, SMALL, ignore)[1] for method in ("vib", "mige"))
    assert [replace(epoch, method="vib") for epoch in mige] == vib


@pytest.mark.parametrize("method", METHODS)
def test_training_is_deterministic_for_a_seed_and_leaves_the_global_one_alone(
    method: str, digits: ImageData
) -> None:
    runs = []
    for seed in (0, 0, 1):
        before = torch.get_rng_state()
        runs.append(train(digits, method, 0.01, seed, SMALL, ignore)[1])
        assert torch.equal(torch.get_rng_state(), before)
        torch.rand(1)
    assert runs[0] == runs[1] != runs[2]


# --- the comparison -------------------------------------------------------------------------------


def result(method: str, beta: float, seed: int, val_error: float) -> Result:
    return Result(method, beta, seed, 1, val_error, math.nan, 1.0, 1.0)


def test_beta_is_chosen_for_each_method_by_validation_error() -> None:
    errors = {
        "vib": {0.1: (0.3, 0.3), 0.01: (0.1, 0.12)},
        "mige": {0.1: (0.2, 0.2), 0.01: (0.4, 0.4)},
    }
    results = [
        result(method, beta, seed, error)
        for method, grid in errors.items()
        for beta, values in grid.items()
        for seed, error in enumerate(values)
    ]
    assert choose_betas(results) == {"vib": 0.01, "mige": 0.1}


def run(out: Path, **options: Any) -> None:
    """The command on a small setting, from Python."""
    small = {"epochs": 2, "draws": 2, "latent": 4, "hidden": 32, "seeds": 2, "beta": [0.1, 0.001]}
    bottleneck(out=out, **{**small, **options})


def read(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_command_writes_config_tables_models_and_figure(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(bottleneck)
    arguments = "--epochs 2 --seeds 2 --beta 0.1 --beta 0.001 --hidden 32 --latent 4 --out"
    shown = CliRunner().invoke(app, [*arguments.split(), str(tmp_path)])
    assert shown.exit_code == 0, shown.output
    for label in ("deterministic", "VIB", "MIGE", "500 training, 500 validation and 797 test"):
        assert label in shown.output
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["settings"]["epochs"] == 2
    assert config["betas"] == [0.1, 0.001]
    results, metrics = read(tmp_path / "results.csv"), read(tmp_path / "metrics.csv")
    columns = "method beta seed epochs val_error test_error information seconds"
    assert list(results[0]) == columns.split()
    assert {"loss", "cross_entropy", "val_error", "information"} < set(metrics[0])
    assert len(results) == 2 * (1 + 2 + 2)
    assert len(metrics) == 2 * len(results)
    assert len(list((tmp_path / "models").iterdir())) == len(results)
    assert (tmp_path / "bottleneck.png").stat().st_size > 10_000
    assert (tmp_path / "bottleneck.pdf").read_bytes().startswith(b"%PDF")


def test_test_set_is_read_once_at_the_end_by_the_chosen_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = []

    def spy_train(*arguments: Any) -> Any:
        events.append("train")
        return train(*arguments)

    def spy_measure(model: Classifier, images: ImageData, part: Split) -> Any:
        events.append("test" if part is images.test else "other")
        return measure(model, images, part)

    monkeypatch.setattr(command, "train", spy_train)
    monkeypatch.setattr(command, "measure", spy_measure)
    run(tmp_path)
    assert events == ["train"] * 10 + ["test"] * 6
    run(tmp_path, resume=True)
    assert len(events) == 16
    tested = [row for row in read(tmp_path / "results.csv") if row["test_error"]]
    assert len({(row["method"], row["beta"]) for row in tested}) == 3


def test_stopped_command_resumes_to_the_same_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    methods = ["baseline", "mige"]  # with two β and two seeds: six runs
    run(tmp_path / "straight", method=methods)
    trained: list[tuple[Any, ...]] = []

    def train_until(last: float) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            if len(trained) == last:
                raise KeyboardInterrupt
            trained.append(arguments[1:4])
            return train(*arguments)

        return call

    monkeypatch.setattr(command, "train", train_until(4))
    with pytest.raises(typer.Exit) as stopped:
        run(tmp_path / "stopped", method=methods)
    assert stopped.value.exit_code == 130
    assert len(read(tmp_path / "stopped" / "results.csv")) == 4
    # A kill between the two tables leaves figures of a run that has no result.
    orphan = replace(Table(tmp_path / "straight" / "metrics.csv", Epoch).rows[-1], loss=9.0)
    Table(tmp_path / "stopped" / "metrics.csv", Epoch).append([orphan])

    monkeypatch.setattr(command, "train", train_until(math.inf))
    run(tmp_path / "stopped", method=methods, resume=True)
    assert len(trained) == len(set(trained)) == 6
    for name in ("results.csv", "metrics.csv"):
        resumed, straight = (read(tmp_path / way / name) for way in ("stopped", "straight"))
        for row in resumed + straight:
            row.pop("seconds", None)
        assert resumed == straight


def test_resume_may_add_methods_and_seeds_but_not_change_settings(tmp_path: Path) -> None:
    run(tmp_path, method=["baseline"], seeds=1)
    run(tmp_path, method=["baseline", "vib"], seeds=2, beta=[0.1], resume=True)
    assert len(read(tmp_path / "results.csv")) == 4
    with pytest.raises(typer.BadParameter, match="epochs is 3 now and was 2; draws is 1 now"):
        run(tmp_path, epochs=3, draws=1, resume=True)
    with pytest.raises(typer.BadParameter, match="continue there with --resume"):
        run(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": ["mine"]}, r"method must be one of \['baseline', .*\], got 'mine'"),
        ({"dataset": "cifar"}, r"name must be one of \['digits'\], got 'cifar'"),
        ({"batch": 501}, r"batch must be at most the 500 training images, got 501"),
        ({"batch": 1}, r"batch must be at least 2, got 1"),
        ({"beta": [math.nan]}, r"beta must be finite and at least 0, got nan"),
        ({"threshold": 1.5}, r"threshold must .* got 1\.5"),
        ({"learning_rate": -1.0}, r"learning_rate must be positive, got -1\.0"),
        ({"conditional": "no"}, r"conditional must be 'analytic' or 'draws', got 'no'"),
        ({"conditional": "draws", "draws": 1}, r"draws must be at least 2 .*, got 1"),
    ],
)
def test_bad_options_are_named_before_anything_is_written(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(typer.BadParameter, match=message):
        run(tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
