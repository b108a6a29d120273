"""The Information Bottleneck's losses against closed forms, and its network."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

import mige_ext as mige
from mige_ext.experiments.bottleneck.methods import (
    METHODS,
    PAPER,
    Classifier,
    Output,
    Settings,
    TrainedBound,
    confidence,
    cross_entropy,
    entropy,
    information_gradient,
    smoothing,
    squared_norm,
    variational,
)
from mige_ext.experiments.bottleneck.training import information_bound
from mige_ext.experiments.common.estimators import ESTIMATORS

pytestmark = pytest.mark.usefixtures("one_thread")  # the networks are too small for more threads
SMALL = Settings(draws=2, latent=4, hidden=32)
NONE = torch.empty(0)  # for arguments that a penalty does not read


@pytest.fixture
def random() -> torch.Generator:
    return torch.Generator().manual_seed(0)


# --- information ----------------------------------------------------------------------------------


class LinearEncoder:
    """z = W x + σ ε for x ~ N(0, I), an encoder whose I(z; x) has a closed form."""

    def __init__(self, random: torch.Generator, inputs: int = 6, latent: int = 3) -> None:
        self.weight = torch.randn(latent, inputs, generator=random) / math.sqrt(inputs)
        self.log_sigma = torch.linspace(-1.5, 0, latent)
        self.parameters = [p.double().requires_grad_() for p in (self.weight, self.log_sigma)]
        self.weight, self.log_sigma = self.parameters

    def information(self) -> Tensor:
        covariance = self.weight @ self.weight.T + (2 * self.log_sigma).exp().diag()
        return 0.5 * covariance.logdet() - self.log_sigma.sum()

    def output(self, x: Tensor, draws: int, random: torch.Generator) -> Output:
        mean, log_sigma = x @ self.weight.T, self.log_sigma.expand(len(x), -1)
        noise = torch.randn(len(x), draws, mean.shape[-1], generator=random, dtype=torch.float64)
        z = mean.unsqueeze(1) + log_sigma.exp().unsqueeze(1) * noise
        return Output(mean, log_sigma, z, torch.empty(len(x), draws, 0))

    def gradient(self, value: Tensor) -> Tensor:
        return torch.cat([g.flatten() for g in torch.autograd.grad(value, self.parameters)])


def inputs(n: int, random: torch.Generator) -> Tensor:
    return torch.randn(n, 6, generator=random, dtype=torch.float64)


@pytest.mark.parametrize(
    ("change", "draws", "least"),
    [
        ({"conditional": "analytic"}, 1, 0.98),
        ({"conditional": "draws", "marginals": 64}, 64, 0.93),
        ({"conditional": "draws", "marginals": 4}, 64, 0.93),
    ],
)
def test_mige_penalty_has_the_gradient_of_information(
    change: dict[str, object], draws: int, least: float, random: torch.Generator
) -> None:
    encoder = LinearEncoder(random)
    settings = Settings(draws=max(draws, 2), **change)  # type: ignore[arg-type]
    penalty = information_gradient(settings, 6)
    out = encoder.output(inputs(256, random), draws, random)
    estimate = encoder.gradient(penalty(out, NONE, NONE))
    truth = encoder.gradient(encoder.information())
    assert F.cosine_similarity(estimate, truth, dim=0) > least
    assert 0.9 < estimate.norm() / truth.norm() < 1.1


def test_entropy_alone_does_not_have_the_gradient_of_information(random: torch.Generator) -> None:
    encoder = LinearEncoder(random)
    out = encoder.output(inputs(256, random), 1, random)
    alone = encoder.gradient(entropy(Settings(), 6)(out, NONE, NONE))
    truth = encoder.gradient(encoder.information())
    assert F.cosine_similarity(alone, truth, dim=0) < 0.93


def test_mine_penalty_learns_the_gradient_of_information(random: torch.Generator) -> None:
    """The trained critic gives the gradient with the sign that lowers information."""
    encoder = LinearEncoder(random)
    torch.manual_seed(0)
    settings = Settings(latent=3, hidden=128, learning_rate=1e-3)
    bound = TrainedBound(settings, 6).double()
    gradients, values = [], []
    for step in range(400):
        x = inputs(128, random)
        value = bound(encoder.output(x, 1, random), x, NONE)
        if step >= 300:
            gradients.append(encoder.gradient(value))
            values.append(value.item())
    truth, information = encoder.gradient(encoder.information()), encoder.information().item()
    assert F.cosine_similarity(torch.stack(gradients).mean(0), truth, dim=0) > 0.9
    assert 0.7 * information < sum(values) / len(values) < 1.1 * information


def test_mine_penalty_has_a_gradient_in_the_code_alone_and_raises_its_own_bound(
    random: torch.Generator,
) -> None:
    encoder = LinearEncoder(random)
    bound = TrainedBound(Settings(latent=3, hidden=16, learning_rate=1e-2), 6).double()
    x = inputs(32, random)
    out = encoder.output(x, 1, random)
    first = bound(out, x, NONE)
    before = [parameter.clone() for parameter in bound.parameters()]
    first.backward()
    for parameter in bound.parameters():
        parameter.grad = None
    assert encoder.weight.grad is not None
    assert all(torch.equal(a, b) for a, b in zip(before, bound.parameters(), strict=True))
    assert bound(out, x, NONE) > first


def test_state_of_mine_holds_its_optimizer_and_its_average(random: torch.Generator) -> None:
    encoder, settings = LinearEncoder(random), Settings(latent=3, hidden=16)
    first, second = (TrainedBound(settings, 6).double() for _ in range(2))
    x = inputs(32, random)
    out = encoder.output(x, 1, random)
    for _ in range(3):
        first(out, x, NONE)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for _ in range(3):
        assert torch.equal(first(out, x, NONE), second(out, x, NONE))


def test_information_bound_is_exact_for_a_gaussian_code(random: torch.Generator) -> None:
    encoder, x = LinearEncoder(random), inputs(40, random)
    # The 40 inputs are whitened, so that their covariance is the identity.
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


# --- the other penalties --------------------------------------------------------------------------


@pytest.fixture
def out(random: torch.Generator) -> Output:
    mean, log_sigma = torch.randn(2, 7, 5, generator=random, dtype=torch.float64)
    logits = torch.randn(7, 2, 4, generator=random, dtype=torch.float64)
    return Output(mean, log_sigma, mean.unsqueeze(1).expand(7, 2, 5), logits)


LABELS = torch.tensor([0, 1, 2, 3, 0, 1, 2])


def test_vib_penalty_is_the_divergence_from_a_standard_normal(out: Output) -> None:
    expected = kl_divergence(Normal(out.mean, out.log_sigma.exp()), Normal(0.0, 1.0)).sum(-1).mean()
    torch.testing.assert_close(variational(out, NONE, LABELS), expected)


def test_cross_entropy_is_the_mean_over_inputs_and_draws(out: Output) -> None:
    of_draws = [F.cross_entropy(out.logits[:, k], LABELS) for k in range(2)]
    torch.testing.assert_close(cross_entropy(out, LABELS), sum(of_draws) / 2)


def test_confidence_penalty_is_the_negative_entropy_of_the_prediction(out: Output) -> None:
    expected = -torch.distributions.Categorical(logits=out.logits).entropy().mean()
    torch.testing.assert_close(confidence(out, NONE, LABELS), expected)


def test_smoothing_penalty_makes_the_loss_of_smoothed_labels(out: Output) -> None:
    loss = cross_entropy(out, LABELS) + 0.3 * smoothing(out, NONE, LABELS)
    expected = F.cross_entropy(
        out.logits.flatten(0, 1), LABELS.repeat_interleave(2), label_smoothing=0.3
    )
    torch.testing.assert_close(loss, expected)


def test_l2_penalty_is_the_mean_squared_norm(out: Output) -> None:
    torch.testing.assert_close(squared_norm(out, NONE, LABELS), out.mean.norm(dim=-1).pow(2).mean())


# --- estimators and settings ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_gives_the_gradient_of_information(
    name: str, random: torch.Generator
) -> None:
    encoder = LinearEncoder(random)
    penalty = information_gradient(Settings(estimator=name), 6)
    estimate = encoder.gradient(penalty(encoder.output(inputs(256, random), 1, random), NONE, NONE))
    truth = encoder.gradient(encoder.information())
    assert F.cosine_similarity(estimate, truth, dim=0) > 0.95


def test_estimator_gets_the_options_that_it_has() -> None:
    made = Settings(threshold=0.9, calibrate=True).make_estimator()
    assert isinstance(made, mige.SSGE)
    assert (made.threshold, made.calibrate) == (0.9, "stein")
    assert Settings(estimator="stein", calibrate=False).make_estimator() == mige.Stein()


def test_paper_settings_are_those_of_the_paper() -> None:
    assert (PAPER.hidden, PAPER.latent, PAPER.batch, PAPER.threshold) == (1024, 256, 100, 0.94)
    assert (PAPER.learning_rate, PAPER.normalize) == (1e-4, False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch": 1}, "batch must be at least 2, got 1"),
        ({"learning_rate": math.inf}, "learning_rate must be finite and positive, got inf"),
        ({"average": 1.0}, r"average must be finite and at least 0 and below 1, got 1\.0"),
        ({"marginals": 0}, "marginals must be at least 1, got 0"),
        ({"estimator": "mystery"}, r"estimator must be one of \[.*'ssge'.*\], got 'mystery'"),
        ({"conditional": "no"}, r"conditional must be one of \['analytic', 'draws'\], got 'no'"),
    ],
)
def test_bad_settings_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(Settings(), **change)  # type: ignore[arg-type]


# --- the network ----------------------------------------------------------------------------------


def classifier(settings: Settings = SMALL, **options: object) -> Classifier:
    torch.manual_seed(0)
    return Classifier(64, 10, settings, **options)  # type: ignore[arg-type]


def images(n: int, random: torch.Generator) -> Tensor:
    return torch.randn(n, 1, 8, 8, generator=random)


def test_draws_have_the_mean_and_deviation_of_the_encoder(random: torch.Generator) -> None:
    model = classifier()
    nn.init.constant_(model.spread.bias, 5.0)  # σ around log 2
    out = model(images(3, random), draws=20_000)
    sigma = out.log_sigma.exp()
    assert out.z.shape == (3, 20_000, 4)
    # The tolerance is five standard errors.
    assert ((out.z.mean(1) - out.mean).abs() < 5 * sigma / math.sqrt(20_000)).all()
    assert ((out.z.std(1) / sigma - 1).abs() < 5 / math.sqrt(40_000)).all()


def test_prediction_takes_the_mean_code_and_no_noise(random: torch.Generator) -> None:
    model, x = classifier(dropout=0.5).eval(), images(5, random)
    assert torch.equal(model(x).z.squeeze(1), model(x).mean)
    assert torch.equal(model(x).logits, model(x).logits)


def test_deterministic_code_has_no_noise_and_infinite_information(random: torch.Generator) -> None:
    out = classifier(stochastic=False)(images(5, random), draws=3)
    assert torch.equal(out.z.squeeze(1), out.mean)
    assert information_bound(out.mean, out.log_sigma) == math.inf


def test_normalize_fixes_the_scale_of_the_mean_code(random: torch.Generator) -> None:
    for normalize in (True, False):
        mean = classifier(replace(SMALL, normalize=normalize))(images(500, random)).mean
        deviation = mean.std(0, correction=0)
        assert torch.allclose(deviation, torch.ones(4), atol=1e-2) == normalize


def test_dropout_leaves_out_its_fraction_of_hidden_units() -> None:
    body = classifier(replace(SMALL, hidden=4000), dropout=0.3).body
    kept = (body[3](torch.ones(1, 4000)) > 0).float().mean().item()
    assert kept == pytest.approx(0.7, abs=5 * math.sqrt(0.21 / 4000))


def test_published_numbers_go_with_the_methods_of_the_paper() -> None:
    assert METHODS["mige-draws"].published == 1.05
    assert METHODS["vib"].published == 1.13
    for control in ("gaussian", "entropy", "l2"):
        assert METHODS[control].published is None
