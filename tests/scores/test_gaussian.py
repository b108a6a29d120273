"""The Gaussian score and its three covariances."""

import math
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import mige_ext as mige
from mige_ext import FittedGaussian, GaussianScore, reference
from mige_ext.scores.gaussian import Whitening, mle_whitening, qis_whitening, ridge_whitening
from tests.support import oracles
from tests.support.accuracy import rounding, same_bits
from tests.support.inputs import for_each_dtype, normal

COVARIANCES = ("ridge", "qis", "mle")
for_each_covariance = pytest.mark.parametrize("covariance", COVARIANCES)


def skewed(m: int = 40, d: int = 5, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    """Samples with correlations and unequal variances."""
    mixing = normal(d, d, seed=9) / d**0.5 + torch.eye(d, dtype=torch.float64)
    return (normal(m, d, seed=seed) @ mixing * torch.linspace(0.5, 3, d).double() + 2).to(dtype)


def precision_of(whitening: Whitening) -> Tensor:
    return whitening.applied(torch.eye(whitening.factor.shape[-2]).to(whitening.factor))


def relative(error: Tensor, size: Tensor) -> float:
    return (error.norm() / size.norm()).item()


# --- the covariances ------------------------------------------------------------------------------


@pytest.mark.parametrize("covariance", ["ridge", "qis", "mle"])
def test_columns_of_unequal_size_keep_their_scores_in_float32(covariance: Any) -> None:
    x = normal(256, 8) * torch.tensor([1.0] * 7 + [1e3], dtype=torch.float64)
    exact = GaussianScore(covariance=covariance).score(x)
    scores = GaussianScore(covariance=covariance).score(x.float())
    size = exact.square().mean(0).sqrt()
    assert ((scores - exact).abs() <= 256 * torch.finfo(torch.float32).eps * 8 * size).all()


@pytest.mark.parametrize("covariance", ["ridge", "qis"])
def test_calibration_undoes_the_shrinkage(covariance: Any) -> None:
    x = normal(3, 40, 8)
    plain = GaussianScore(covariance=covariance)
    estimator = GaussianScore(covariance=covariance, calibrate="stein")
    shrunk = plain.diagnose(x).calibration
    assert (shrunk < 1).all()
    expected = plain.score(x) / shrunk[:, None, None]
    assert relative(estimator.score(x) - expected, expected) <= rounding(x.dtype, 40)
    assert torch.equal(estimator.diagnose(x).calibration, shrunk)


def test_more_samples_get_a_smaller_ridge() -> None:
    def shrunk(m: int) -> float:
        x = skewed(m, 8)
        whitening = ridge_whitening(x)
        return (precision_of(whitening).trace() / x.T.cov().inverse().trace()).item()

    few, some, many = (shrunk(m) for m in (20, 100, 2000))
    assert few < some < many < 1


@pytest.mark.parametrize(("m", "d"), [(30, 5), (30, 1), (30, 28), (30, 29), (30, 40), (3, 9)])
def test_qis_agrees_with_the_formula_of_the_paper(m: int, d: int) -> None:
    x = skewed(m, d)
    whitening = qis_whitening(x)
    expected = oracles.quadratic_inverse_shrinkage(x)
    values = torch.linalg.eigvalsh(x.T.cov().reshape(d, d))
    condition = (values[-1] / values[max(0, d - m + 1)]).item()
    error = precision_of(whitening) @ expected - torch.eye(d, dtype=x.dtype)
    assert error.norm() <= rounding(x.dtype, m) * condition * d


def test_qis_keeps_the_trace_and_beats_the_sample_covariance() -> None:
    x = normal(60, 30)
    whitening = qis_whitening(x)
    covariance = precision_of(whitening).inverse()
    sample = x.T.cov()
    assert abs(covariance.trace() / sample.trace() - 1) <= rounding(x.dtype, 60) * 100
    eye = torch.eye(30, dtype=x.dtype)
    assert (covariance - eye).norm() < (sample - eye).norm() / 2


def test_maximum_likelihood_is_the_inverse_of_the_covariance() -> None:
    x = skewed()
    whitening = mle_whitening(x)
    expected = x.T.cov(correction=0).inverse()
    condition = torch.linalg.cond(expected).item()
    assert relative(precision_of(whitening) - expected, expected) <= (
        rounding(x.dtype, 40) * condition
    )
    assert abs(GaussianScore(covariance="mle").fit(x).diagnostics.calibration - 1) <= (
        rounding(x.dtype, 200) * condition
    )


def test_maximum_likelihood_in_float32_keeps_the_directions_of_many_samples() -> None:
    for m, d in ((100_000, 10), (1000, 200)):
        x = (normal(m, d) + 3 * normal(m, 1, seed=1)).float()
        exact = GaussianScore(covariance="mle").score(x.double())
        got = GaussianScore(covariance="mle").score(x)
        assert (got - exact).norm() <= 1e-3 * exact.norm()


def test_maximum_likelihood_of_few_samples_is_the_pseudo_inverse() -> None:
    x = skewed(6, 9)
    whitening = mle_whitening(x)
    deviation = x.std(0, correction=0)
    expected = torch.linalg.pinv(x.T.corrcoef(), hermitian=True, rtol=1e-10)
    got = deviation[:, None] * precision_of(whitening) * deviation
    assert torch.linalg.matrix_rank(got, hermitian=True) == 5
    assert relative(got - expected, expected) <= rounding(x.dtype, 9) * torch.linalg.cond(
        x.T.corrcoef() + torch.linalg.pinv(x.T.corrcoef(), rtol=1e-10)
    )


# --- fewer samples than dimensions ----------------------------------------------------------------

for_each_wide = pytest.mark.parametrize(("m", "d"), [(2, 2), (6, 9), (20, 20), (12, 60)])


@for_each_wide
@pytest.mark.parametrize("multiple", [1.0, 0.1, None])
@pytest.mark.parametrize("constant", [0, 1, "many"])
def test_the_wide_ridge_is_that_of_the_operator(
    m: int, d: int, constant: Any, multiple: float | None
) -> None:
    x = skewed(m, d)
    x[:, : (d - m // 2 if constant == "many" else constant)] = 0.5
    mean, factor, tau = reference.ridge_whitening(x, factor=multiple)
    whitening = ridge_whitening(x, factor=multiple)
    expected = factor @ factor.mT
    bound = rounding(x.dtype, d) * 100 * (1 + 1 / tau.item())
    assert relative(precision_of(whitening) - expected, expected) <= bound
    assert relative(whitening.mean.squeeze(0) - mean, mean) <= rounding(x.dtype, m)


@for_each_wide
@for_each_covariance
def test_wide_fits_score_any_points(covariance: Any, m: int, d: int) -> None:
    x, q = skewed(m, d), skewed(7, d, seed=1)
    whiten = {"ridge": ridge_whitening, "qis": qis_whitening, "mle": mle_whitening}[covariance]
    whitening = whiten(x)
    fitted = GaussianScore(covariance=covariance).fit(x)
    twin = FittedGaussian.from_state_dict(pickle.loads(pickle.dumps(fitted.state_dict())))
    bound = rounding(x.dtype, d) * 1e5  # the ridge and the least eigenvalue are above 1e-4
    for points in (x, q):
        y = points - whitening.mean
        expected = -y @ precision_of(whitening)
        assert relative(fitted.score(points) - expected, expected) <= bound
        assert torch.equal(twin.score(points), fitted.score(points))
        energy = (y * expected).sum(-1) / 2
        assert relative(fitted.energy(points) - energy, energy) <= bound
    assert relative(GaussianScore(covariance=covariance).score(x) - fitted.score(x), x) <= bound


@for_each_covariance
def test_wide_groups_are_independent(covariance: Any) -> None:
    x = normal(2, 3, 8, 15)
    x[0, 1, :, 4:] = 3.0  # a group with fewer columns that vary than samples
    x[1, 0] = 2.0
    scores = GaussianScore(covariance=covariance).score(x)
    for i, j in [(i, j) for i in range(2) for j in range(3)]:
        alone = GaussianScore(covariance=covariance).score(x[i, j])
        assert (scores[i, j] - alone).norm() <= rounding(x.dtype, 120) * 100 * alone.norm()
    assert scores.isfinite().all() and not scores[1, 0].any() and not scores[0, 1, :, 4:].any()


@for_each_covariance
def test_wide_scores_in_float32_are_those_in_float64(covariance: Any) -> None:
    x = normal(24, 200)
    exact = GaussianScore(covariance=covariance).score(x.float().double())
    got = GaussianScore(covariance=covariance).score(x.float())
    assert relative(got - exact, exact) <= rounding(torch.float32, 200) * 10


# --- the score ------------------------------------------------------------------------------------


@for_each_covariance
@for_each_dtype
def test_the_score_is_minus_the_precision_times_the_deviation(
    covariance: Any, dtype: torch.dtype
) -> None:
    x, q = skewed(dtype=dtype), skewed(7, dtype=dtype, seed=1)
    whiten = {"ridge": ridge_whitening, "qis": qis_whitening, "mle": mle_whitening}[covariance]
    whitening = whiten(x.double())
    mean, precision = whitening.mean, precision_of(whitening)
    fitted = GaussianScore(covariance=covariance).fit(x)
    condition = torch.linalg.cond(precision).item()
    for points, got in ((x, GaussianScore(covariance=covariance).score(x)), (x, fitted.score()),
                        (q, fitted.score(q))):  # fmt: skip
        expected = -(points.double() - mean) @ precision
        assert got.dtype == dtype
        assert relative(got.double() - expected, expected) <= rounding(dtype, 40) * condition


@for_each_covariance
def test_the_score_is_the_gradient_of_the_energy(covariance: Any) -> None:
    x, q = skewed(), skewed(7, seed=1)
    fitted = GaussianScore(covariance=covariance).fit(x)
    # A quadratic function has exact central differences.
    slopes = [(fitted.energy(q + e) - fitted.energy(q - e)) / 2 for e in torch.eye(5).double()]
    size = fitted.energy(q).abs().max() + fitted.score(q).abs().max()
    assert (torch.stack(slopes, -1) - fitted.score(q)).abs().max() <= rounding(q.dtype, 25) * size


@for_each_covariance
def test_the_score_converges_to_that_of_the_density(covariance: Any) -> None:
    errors = []
    for m in (32, 2048):
        x = normal(m, 4, seed=m) * torch.tensor([1.0, 2.0, 3.0, 4.0]).double()
        exact = -x / torch.tensor([1.0, 4.0, 9.0, 16.0]).double()
        errors.append(relative(GaussianScore(covariance=covariance).score(x) - exact, exact))
    assert errors[1] < errors[0] / 3  # 8 in expectation


# --- properties -----------------------------------------------------------------------------------


@for_each_covariance
def test_scores_move_scale_and_permute_with_the_samples(covariance: Any) -> None:
    x = skewed()
    score = GaussianScore(covariance=covariance).score
    expected = score(x)
    bound = rounding(x.dtype, 200) * expected.norm() * 1e3  # the condition number of R is below 1e3
    order = torch.randperm(40)
    assert torch.linalg.cond(x.T.corrcoef()) < 1e3
    assert (score(x - 5) - expected).norm() <= bound
    assert (3 * score(3 * x) - expected).norm() <= bound
    assert (score(x[order]) - expected[order]).norm() <= bound
    assert (score(x.flip(1)) - expected.flip(1)).norm() <= bound
    if covariance != "qis":
        scales = torch.tensor([1e-3, 1.0, 10.0, 1e4, 2.0]).double()
        assert (scales * score(x * scales) - expected).norm() <= bound
    if covariance != "ridge":
        rotation, _ = torch.linalg.qr(normal(5, 5, seed=7))
        assert (score(x @ rotation) - expected @ rotation).norm() <= bound * 40
    for scale in (2.0**-100, 2.0**100):
        small = x.float()
        assert torch.equal(score(small * scale), score(small) / scale)


@for_each_covariance
def test_an_offset_costs_no_accuracy(covariance: Any) -> None:
    shift = 2.0**20
    x = (skewed(dtype=torch.float32) + shift) - shift
    expected, got = (
        GaussianScore(covariance=covariance).score(x),
        GaussianScore(covariance=covariance).score(x + shift),
    )
    assert relative(got - expected, expected) <= rounding(x.dtype, 200) * torch.linalg.cond(
        x.T.corrcoef()
    )


@pytest.mark.parametrize("batch", [(3,), (2, 2), (0,), (2, 0)], ids=str)
@for_each_covariance
def test_leading_dimensions_are_groups(covariance: Any, batch: tuple[int, ...]) -> None:
    x, q = normal(*batch, 20, 4), normal(*batch, 7, 4, seed=1)
    estimator = GaussianScore(covariance=covariance)
    scores, fitted = estimator.score(x), estimator.fit(x)
    elsewhere, energies = fitted.score(q), fitted.energy(q)
    assert scores.shape == x.shape and elsewhere.shape == q.shape
    assert energies.shape == q.shape[:-1] and fitted.diagnostics.calibration.shape == batch
    for index in torch.cartesian_prod(*(torch.arange(n) for n in batch)).reshape(-1, len(batch)):
        i = tuple(index.tolist())
        alone = estimator.fit(x[i])
        for together, single in ((scores[i], alone.score()), (elsewhere[i], alone.score(q[i])),
                                 (energies[i], alone.energy(q[i]))):  # fmt: skip
            assert relative(together - single, single) <= rounding(x.dtype, 80) * 100


@pytest.mark.parametrize("value", [0.0, 0.1, 1e30])
@for_each_covariance
@for_each_dtype
def test_constant_columns_and_equal_samples_have_score_zero(
    dtype: torch.dtype, covariance: Any, value: float
) -> None:
    x = normal(20, 3, dtype=dtype)
    x[:, 1] = value
    score = GaussianScore(covariance=covariance).score(x)
    assert not score[:, 1].any() and score[:, [0, 2]].all() and score.isfinite().all()
    fitted = GaussianScore(covariance=covariance).fit(torch.full((7, 3), value, dtype=dtype))
    assert not fitted.score().any() and not fitted.score(x).any() and not fitted.energy(x).any()
    assert fitted.diagnostics.calibration == 0


@for_each_covariance
def test_two_samples_are_enough(covariance: Any) -> None:
    x = torch.tensor([[0.0, 1.0, 2.0], [1.0, 1.5, 0.0]])
    score = GaussianScore(covariance=covariance).score(x)
    assert score.isfinite().all() and score.any()
    assert torch.allclose(score[0], -score[1])


# --- settings and fits ----------------------------------------------------------------------------


def test_settings_are_values_and_the_default_is_the_ridge() -> None:
    assert GaussianScore() == GaussianScore(covariance="ridge")
    qis = GaussianScore(covariance="qis")
    assert pickle.loads(pickle.dumps(qis)) == qis
    assert isinstance(GaussianScore(), mige.ScoreEstimator)


@for_each_covariance
def test_fits_can_be_pickled_and_restored_from_their_state(covariance: Any) -> None:
    x, q = normal(2, 20, 3), normal(2, 5, 3, seed=1)
    fitted = GaussianScore(covariance=covariance).fit(x)
    for twin in (pickle.loads(pickle.dumps(fitted)),
                 FittedGaussian.from_state_dict(fitted.state_dict())):  # fmt: skip
        assert torch.equal(twin.score(q), fitted.score(q))
        assert torch.equal(twin.diagnostics.calibration, fitted.diagnostics.calibration)
    assert all(isinstance(value, Tensor) for value in fitted.state_dict().values())


@for_each_covariance
def test_scores_need_no_grad_mode_and_no_autocast(covariance: Any) -> None:
    x = skewed(dtype=torch.float32).requires_grad_()
    estimator = GaussianScore(covariance=covariance)
    expected = estimator.score(x.detach()), estimator.fit(x.detach()).energy(x.detach() + 1)
    for mode in (torch.no_grad, torch.inference_mode,
                 lambda: torch.autocast("cpu", torch.bfloat16)):  # fmt: skip
        with mode():
            got = estimator.score(x), estimator.fit(x).energy(x + 1)
        assert same_bits(got, expected) and not any(t.requires_grad for t in got)


@pytest.mark.parametrize("shape", [(2, 16, 5), (2, 6, 9)], ids=str)
@for_each_covariance
def test_no_value_of_a_tensor_is_read(covariance: Any, shape: tuple[int, ...]) -> None:
    with FakeTensorMode():
        x = torch.empty(shape, device="cuda")
        score = GaussianScore(covariance=covariance).fit(x).score(x.narrow(-2, 0, 3))
        assert score.device.type == "cuda" and score.shape == (2, 3, shape[-1])


def test_the_mutual_information_of_a_normal_pair_has_the_slope_of_the_formula() -> None:
    # I = −½ log(1 − ρ²), dI/dρ = ρ/(1 − ρ²).
    rho = torch.tensor(0.6, dtype=torch.float64, requires_grad=True)
    x, noise = normal(4000, 1), normal(4000, 1, seed=1)
    z = rho * x + (1 - rho**2).sqrt() * noise
    value = mige.mutual_information(x, z, estimator=GaussianScore(covariance="mle"))
    (slope,) = torch.autograd.grad(value, rho)
    assert abs(slope.item() - 0.6 / 0.64) < 10 / math.sqrt(4000)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("m", "d", "repeated"), [(24, 25, 1), (24, 60, 6), (24, 60, 12)])
def test_qis_of_repeated_samples_counts_the_samples_that_differ(
    dtype: torch.dtype, m: int, d: int, repeated: int
) -> None:
    x = normal(m, d)
    x[:repeated] = x[m - repeated :]
    scores = GaussianScore(covariance="qis").score(x.to(dtype)).double()
    error = (scores + x).square().sum() / x.square().sum()
    once = x[repeated:]
    of_distinct = GaussianScore(covariance="qis").score(once)
    least = (of_distinct + once).square().sum() / once.square().sum()
    assert error < least + repeated / m / 2


def test_qis_excludes_directions_without_variance() -> None:
    """Samples in a plane have the score that they have as samples of two coordinates."""
    x = normal(16, 2)
    plane = torch.linalg.qr(normal(40, 2, seed=1)).Q
    exact = GaussianScore(covariance="qis").score(x) @ plane.mT
    got = GaussianScore(covariance="qis").score(x @ plane.mT)
    assert (got - exact).norm() < 1e-10 * exact.norm()
