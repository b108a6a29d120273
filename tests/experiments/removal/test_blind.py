"""Methods that never see s, on cases with known answers, and the accuracy after a shift of s."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import mige_ext as mige
from mige_ext.experiments.common.runs import Run
from mige_ext.experiments.common.training import train
from mige_ext.experiments.removal import blind
from mige_ext.experiments.removal.methods import METHODS
from mige_ext.experiments.removal.models import Model
from mige_ext.experiments.removal.nuisances import Batch, Structural
from mige_ext.experiments.removal.training import (
    Predictions,
    Settings,
    Trainer,
    encode,
    make_model,
)
from tests.experiments.removal.inputs import draw, normal

pytestmark = pytest.mark.usefixtures("one_thread")  # the networks are too small for more threads
SMALL = Settings(data="structural", steps=60, hidden=32, latent=4, ramp=5)
BLIND = ["contraction", "entropy", "vib", "vib-mean", "vib-normalized", "squared-norm", "center"]
BLIND += ["label-smoothing", "dropout"]
#: Methods with a penalty, and a β at which the penalty dominates the loss.
PENALIZED = {
    "contraction": 0.02,
    "entropy": 0.02,
    "vib": 1.0,
    "vib-normalized": 1.0,
    "squared-norm": 10.0,
    "center": 10.0,
    "label-smoothing": 10.0,
}


def built(method: str, beta: float) -> Model:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make_model(Structural(), SMALL, Run(method, beta, 0))


def labeled(label: torch.Tensor) -> Batch:
    return Batch(label[:, None], label, label[:, None], label)


@pytest.mark.parametrize("method", BLIND)
def test_no_method_reads_the_nuisance(method: str) -> None:
    steps = []
    for sign in (1, -1):
        problem = Structural()
        part = problem.parts["train"]
        problem.parts["train"] = part._replace(s=sign * part.s, bin=15 - part.bin)
        trainer, _ = train(Trainer, problem, Run(method, METHODS[method].strengths[-1], 0), SMALL)
        steps.append(trainer.model.state_dict())
    assert all(torch.equal(steps[0][name], steps[1][name]) for name in steps[0])


@pytest.mark.parametrize("method", PENALIZED)
def test_training_lowers_the_penalty(method: str) -> None:
    problem, values = Structural(), []
    batch = draw(problem, 2000, seed=1)
    for beta in (0.0, PENALIZED[method]):
        trainer, _ = train(Trainer, problem, Run(method, beta, 0), SMALL)
        model = trainer.model.eval()
        with torch.no_grad():
            z = model.encoder(batch.x)
            if method in ("contraction", "entropy"):  # the value of a surrogate means nothing
                values.append(entropy_of(z, gaussian=method == "entropy"))
            else:
                values.append((trainer.penalty or model.penalty)(z, batch).item())
    assert values[1] < values[0] - 0.1 * abs(values[0])


def entropy_of(z: torch.Tensor, gaussian: bool) -> float:
    """H(z) in nats; without ``gaussian``, minus ½ log det of the covariance of z."""
    whole = float(mige.estimate_entropy(z[:500]).value)
    return whole if gaussian else whole - 0.5 * z.T.cov().logdet().item()


# --- entropy and center loss ----------------------------------------------------------------------


def test_the_gradient_of_the_entropy_is_minus_the_score_of_a_gaussian() -> None:
    z = (normal(2000, 2) * torch.tensor([1.0, 3.0])).requires_grad_()
    (gradient,) = torch.autograd.grad(blind.entropy(z, draw(Structural(), 2000)), z)
    expected = z.detach() / torch.tensor([1.0, 9.0]) / len(z)
    assert F.cosine_similarity(gradient.flatten(), expected.flatten(), 0) > 0.99
    assert gradient.norm() / expected.norm() == pytest.approx(1, abs=0.05)


def test_entropy_and_contraction_differ_by_the_gaussian_score() -> None:
    z, batch = (normal(256, 2) ** 3).requires_grad_(), draw(Structural(), 256)
    gradients = [
        torch.autograd.grad(penalty(z, batch), z)[0]
        for penalty in (blind.entropy, blind.contraction)
    ]
    estimator = mige.DEFAULT_ESTIMATOR
    gaussian = -estimator.gaussian_score(z.detach()) / len(z)
    torch.testing.assert_close(gradients[0] - gradients[1], gaussian)


def test_the_center_loss_is_the_variance_within_the_classes() -> None:
    label = torch.tensor([0, 0, 1, 1, 2])
    z = torch.tensor([[1.0, 0.0], [3.0, 0.0], [5.0, 2.0], [5.0, 6.0], [9.0, 9.0]])
    # squared distances to the means of the classes: 1 + 1, 4 + 4 and 0, over 5 rows and 2 columns
    assert blind.center(z, labeled(label)).item() == pytest.approx(10 / 10)


# --- VIB ------------------------------------------------------------------------------------------


def test_the_divergence_is_that_of_torch() -> None:
    moments, code = 3 * normal(50, 8), blind.GaussianCode("draw")
    code(moments)
    mean, raw = moments.chunk(2, 1)
    normals = torch.distributions.Normal(mean, F.softplus(raw - 5))
    expected = torch.distributions.kl_divergence(normals, torch.distributions.Normal(0.0, 1.0))
    torch.testing.assert_close(code.divergence, expected.sum(1).mean())


def test_codes_have_the_moments_of_the_encoder_in_training_and_evaluation() -> None:
    code = blind.GaussianCode("draw")
    raw = math.log(math.expm1(0.5)) + 5  # softplus(raw − 5) = .5
    moments = torch.tensor([2.0, raw]).expand(20_000, 2)
    for training in (True, False):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            z = code.train(training)(moments)
        assert z.mean().item() == pytest.approx(2, abs=0.02)
        assert z.std().item() == pytest.approx(0.5, abs=0.02)
    assert torch.equal(blind.GaussianCode("mean").eval()(moments), moments[:, :1])


def test_a_large_weight_leaves_codes_that_are_noise() -> None:
    problem = Structural()
    settings = replace(SMALL, steps=400, learning_rate=1e-2)
    trainer, _ = train(Trainer, problem, Run("vib", 10.0, 0), settings)
    codes, predicted = encode(trainer.model.eval(), problem, "validation", 0)
    assert trainer.model.penalty(codes.z, draw(problem, 2)).item() < 0.05  # nats
    assert codes.z.std(0).sub(1).abs().max() < 0.05  # N(0, I)
    assert predicted.accuracy < 0.58


# --- squared norm, label smoothing, dropout -------------------------------------------------------


def test_the_squared_norm_sees_the_scale_that_batch_norm_would_fix() -> None:
    model = built("squared-norm", 1.0)
    z, batch = normal(20, 4), draw(Structural(), 20)
    assert not any(isinstance(layer, nn.BatchNorm1d) for layer in model.modules())
    assert model.penalty(z, batch).item() == pytest.approx(float(z.norm() ** 2) / 80, rel=1e-5)
    torch.testing.assert_close(model.penalty(2 * z, batch), 4 * model.penalty(z, batch))


def test_the_penalty_of_smoothing_gives_the_cross_entropy_of_smoothed_labels() -> None:
    beta = 0.25
    model, batch, z = built("label-smoothing", beta), draw(Structural(), 64), normal(64, 4)
    whole = F.cross_entropy(model.head(z), batch.label) + beta * model.penalty(z, batch)
    smoothed = F.cross_entropy(model.head(z), batch.label, label_smoothing=beta / (1 + beta))
    torch.testing.assert_close(whole / (1 + beta), smoothed)


def test_smoothed_labels_bound_the_certainty_of_the_head() -> None:
    problem, beta = Structural(), 1.0
    trainer, _ = train(Trainer, problem, Run("label-smoothing", beta, 0), SMALL)
    model, batch = trainer.model.eval(), draw(problem, 2000)
    with torch.no_grad():
        surest = model.head(model.encoder(batch.x)).softmax(1).max(1).values
    # ε = ½, so the best prediction has at most 1 − ε / 2 = ¾
    assert 0.65 < surest.quantile(0.9) < 0.8


@pytest.mark.parametrize("beta", [0.0, 0.25, 3.0])
def test_dropout_multiplies_by_a_factor_of_variance_beta(beta: float) -> None:
    model = built("dropout", beta)
    kinds = [type(layer) for layer in model.encoder]
    assert kinds == [nn.Linear, nn.ReLU, nn.Dropout] * 2 + [nn.Linear, nn.BatchNorm1d]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        factor = model.encoder[2](torch.ones(100_000))
    assert factor.mean().item() == pytest.approx(1, abs=0.03)
    assert factor.var().item() == pytest.approx(beta, abs=0.1)
    assert torch.equal(model.eval().encoder[2](torch.ones(5)), torch.ones(5))


# --- the accuracy after a shift of s --------------------------------------------------------------


def test_the_shifted_accuracy_is_that_of_the_worst_group_with_enough_rows() -> None:
    group = torch.tensor([0] * 60 + [1] * 39 + [3])
    right = torch.ones(100, dtype=torch.bool)
    right[:6] = right[60:73] = right[99] = False
    predicted = Predictions(right, group)
    assert predicted.accuracy == pytest.approx(0.8)
    # .9 in group 0, ⅔ in group 1; group 3 has 1 % of the rows
    assert predicted.shifted_accuracy == pytest.approx(2 / 3)
    assert Predictions(right[:60], group[:60]).shifted_accuracy == pytest.approx(0.9)
