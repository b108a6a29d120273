"""AdaptiveScore: its scores, its choices and its diagnostics."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

import mige_ext as mige
from mige_ext import AdaptiveScore, FittedAdaptive, GaussianScore, ops, reference
from tests.support.accuracy import rounding
from tests.support.inputs import for_each_dtype, normal

GAUSSIANS = ["ridge", "qis", "mle"]
QIS = AdaptiveScore(gaussian="qis")


def two_modes(m: int, d: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Samples of ``1.5 B + ε`` with B in {−1, 1}^d, and their scores."""
    x = 1.5 * normal(m, d, seed=seed).sign() + normal(m, d, seed=seed + 1)
    return x, -x + 1.5 * torch.tanh(1.5 * x)


def student(m: int, d: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Samples of Student's t distribution with ν = 4, and their scores."""
    scale = normal(m, 4, seed=seed + 1).square().mean(-1, keepdim=True).sqrt()
    x = normal(m, d, seed=seed) / scale
    return x, -(4 + d) * x / (4 + x.square().sum(-1, keepdim=True))


def error(scores: Tensor, exact: Tensor) -> float:
    return float((scores - exact).square().sum() / exact.square().sum())


# --- scores ---------------------------------------------------------------------------------------


def test_score_converges_to_that_of_the_density() -> None:
    def median(m: int) -> float:
        runs = [two_modes(m, 2, seed=2 * s) for s in range(5)]
        return sorted(error(QIS.score(x), exact) for x, exact in runs)[2]

    assert median(512) < median(32) / 2


def test_score_elsewhere_converges_to_that_of_the_density() -> None:
    query, exact = two_modes(200, 2, seed=99)

    def median(m: int) -> float:
        fits = [QIS.fit(two_modes(m, 2, seed=2 * s)[0]) for s in range(5)]
        return sorted(error(fit.score(query), exact) for fit in fits)[2]

    assert median(512) < median(32) / 2


def test_gaussian_samples_get_the_gaussian_score() -> None:
    x = normal(5, 200, 8)
    diagnostics = AdaptiveScore(gaussian="ridge").diagnose(x)
    mean, whitening, _ = ops.ridge_whitening(x)
    gaussian = -((x - mean.unsqueeze(-2)) @ whitening) @ whitening.mT
    plain = diagnostics.lam.isinf()
    assert plain.any()
    change = (AdaptiveScore(gaussian="ridge").score(x) - gaussian).abs().amax((-2, -1))
    assert (change[plain] <= rounding(x.dtype, 200) * gaussian.abs().max()).all()
    assert (diagnostics.risk[plain] == 0).all()


def test_samples_that_are_not_gaussian_get_a_filter_with_less_risk() -> None:
    x, exact = two_modes(400, 2)
    diagnostics = QIS.diagnose(x)
    assert diagnostics.lam.isfinite()
    assert diagnostics.risk + diagnostics.standard_error < 0
    assert error(QIS.score(x), exact) < error(GaussianScore().score(x), exact) / 2


@pytest.mark.parametrize("gaussian", ["ridge", "qis"])
def test_heavy_tails_get_the_student_score_with_less_error(gaussian: Any) -> None:
    (x, exact), (query, elsewhere) = student(400, 5), student(200, 5, seed=7)
    estimator = AdaptiveScore(gaussian=gaussian)
    diagnostics = estimator.diagnose(x)
    assert diagnostics.base == 2 and 3 <= diagnostics.nu <= 6
    assert error(estimator.score(x), exact) < error(GaussianScore().score(x), exact) / 4
    fitted = estimator.fit(x)
    assert error(fitted.score(query), elsewhere) < 0.1


@for_each_dtype
def test_score_is_that_of_the_operator(dtype: torch.dtype) -> None:
    x = normal(3, 40, 2, dtype=dtype) ** 3
    assert torch.equal(AdaptiveScore(gaussian="ridge").score(x), ops.adaptive_student_score(x)[0])


@pytest.mark.parametrize("d", [61, 64, 120])
def test_slightly_more_dimensions_than_samples_are_accurate_in_float32(d: int) -> None:
    x = ((normal(60, d) + 1) / (0.05 + normal(60, 1, seed=1).abs())).float()
    scores, exact = AdaptiveScore().score(x), AdaptiveScore().score(x.double())
    assert error(scores.double(), exact) < 1e-6


@pytest.mark.parametrize("gaussian", GAUSSIANS)
def test_a_fit_keeps_a_copy_of_the_samples(gaussian: Any) -> None:
    buffer, query = student(60, 3)[0], normal(5, 3)
    fitted = AdaptiveScore(gaussian=gaussian).fit(buffer)
    expected = fitted.score(query)
    buffer.zero_()
    assert torch.equal(fitted.score(query), expected)


@pytest.mark.parametrize("gaussian", GAUSSIANS)
@pytest.mark.parametrize("unit", [1e-160, 1e160])
def test_the_unit_of_a_fit_may_be_extreme(gaussian: Any, unit: float) -> None:
    x = student(100, 3)[0]
    expected = AdaptiveScore(gaussian=gaussian).fit(x).score(x)
    fitted = AdaptiveScore(gaussian=gaussian).fit(unit * x)
    assert error(unit * fitted.score(unit * x), expected) < 1e-20


@pytest.mark.parametrize("gaussian", GAUSSIANS)
def test_scores_at_the_largest_numbers_are_finite(gaussian: Any) -> None:
    for x in (student(100, 3)[0], normal(100, 3)):
        fitted = AdaptiveScore(gaussian=gaussian).fit(x)
        assert fitted.score(torch.full_like(x[:1], 1.7e308)).isfinite().all()


def test_far_from_heavy_tails_the_score_does_not_depend_on_the_gaussian_part() -> None:
    (x, _), (query, exact) = student(400, 5), student(200, 5, seed=7)
    for gaussian in GAUSSIANS:
        fitted = AdaptiveScore(gaussian=gaussian).fit(x)  # type: ignore[arg-type]
        assert fitted.diagnostics.base == 2
        for scale in (1.0, 10.0):
            far = scale * query
            exact = -9 * far / (4 + far.square().sum(-1, keepdim=True))
            assert error(fitted.score(far), exact) < 0.1


@for_each_dtype
def test_without_heavy_tails_the_score_is_that_without_the_student_score(
    dtype: torch.dtype,
) -> None:
    x = torch.stack([normal(100, 3), two_modes(100, 3)[0]]).to(dtype)
    diagnostics = AdaptiveScore().diagnose(x)
    assert diagnostics.nu.isinf().all()
    assert torch.equal(AdaptiveScore().score(x), ops.adaptive_score(x)[0])


@pytest.mark.parametrize("gaussian", GAUSSIANS)
@pytest.mark.parametrize("calibrate", [None, "stein"])
@for_each_dtype
def test_a_fit_gives_the_score_at_its_own_samples(
    dtype: torch.dtype, calibrate: Any, gaussian: Any
) -> None:
    x = torch.stack([two_modes(60, 3)[0], normal(60, 3), student(60, 3)[0]]).to(dtype)
    estimator = AdaptiveScore(gaussian=gaussian, calibrate=calibrate)
    fitted = estimator.fit(x)
    assert fitted.diagnostics.base[2] == 2
    scores = estimator.score(x.double())
    assert torch.equal(fitted.score(), fitted.score(x))
    # λ divides the rounding error of a difference.
    lost = rounding(torch.float64, 60) * (1 + 1 / float(fitted.diagnostics.lam.min()))
    tolerance = lost + torch.finfo(dtype).eps
    assert (fitted.score() - scores).abs().max() <= tolerance * scores.abs().max()


def test_a_fit_elsewhere_is_the_filter_as_it_is_written() -> None:
    x, _ = two_modes(150, 2)
    query = normal(7, 2, seed=5)
    fitted = AdaptiveScore(gaussian="ridge").fit(x)
    assert fitted.diagnostics.lam.isfinite()
    lam, base = float(fitted.diagnostics.lam), int(fitted.diagnostics.base)
    mean, whitening, _ = reference.ridge_whitening(x)
    z, q, m = (x - mean) @ whitening, (query - mean) @ whitening, len(x)
    sigma = reference.distance_quantile(z)
    f = reference.adaptive_residual(z, sigma, lam, base)
    k, p, _ = reference.imq(reference.squared_distances(q, z), sigma)
    # At the samples s = s₀ − (L + λ)^{−1}(L s₀ + ζ). Therefore λ (s − s₀) = −(L s + ζ) at every
    # point.
    h = -2 * (p.sum(-1, keepdim=True) * q - p @ z)
    exact = (-base * q - (k @ f + h) / (lam * m)) @ whitening.mT
    lost = rounding(x.dtype, m) * (1 + 1 / lam)
    assert (fitted.score(query) - exact).abs().max() <= lost * exact.abs().max()


@pytest.mark.parametrize(("m", "d"), [(60, 3), (80, 36), (64, 48)])
def test_the_student_score_of_a_fit_is_that_of_the_operator(m: int, d: int) -> None:
    x = student(m, d)[0]
    x = x / (0.1 + x[:, :1].abs())  # very heavy tails, which also show for d near M
    x = torch.cat([x, x.sum(-1, keepdim=True), torch.ones_like(x[:, :1])], -1)
    departure, _, nu, _ = ops.student_score(x)
    assert nu.isfinite()
    fitted = AdaptiveScore().fit(x)
    z = (x - fitted.mean) @ fitted.whitening
    got = (fitted.student.score(z) + z) @ fitted.whitening.mT
    lost = 1e3 * rounding(x.dtype, x.numel())
    assert (got - departure).abs().max() <= lost * departure.abs().max()


# --- equivariance ---------------------------------------------------------------------------------


@pytest.mark.parametrize("gaussian", ["ridge", "mle"])
def test_score_moves_with_shifts_and_with_units_of_each_column(gaussian: Any) -> None:
    x, _ = two_modes(80, 3)
    estimator = AdaptiveScore(gaussian=gaussian)
    unit = torch.tensor([0.5, 4.0, 1.0], dtype=x.dtype)
    scores = estimator.score(x)
    moved = estimator.score(x * unit + 8)
    assert (moved * unit - scores).abs().max() <= 1e-8 * scores.abs().max()


@pytest.mark.parametrize("gaussian", GAUSSIANS)
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_neither_an_offset_nor_unequal_columns_cost_float32_its_digits(
    gaussian: Any, offset: float
) -> None:
    x = (normal(256, 8) * torch.logspace(0, 3, 8, dtype=torch.float64) + offset).float()
    estimator = AdaptiveScore(gaussian=gaussian)
    scores, exact = estimator.score(x), estimator.score(x.double())
    size = exact.square().mean(0).sqrt()
    assert ((scores - exact).abs() <= 1e3 * torch.finfo(x.dtype).eps * 8 * size).all()


def test_score_does_not_depend_on_the_order_of_the_samples() -> None:
    x, _ = two_modes(80, 3)
    order = torch.randperm(80, generator=torch.Generator().manual_seed(0))
    scores = QIS.score(x)
    assert (QIS.score(x[order]) - scores[order]).abs().max() <= 1e-8 * scores.abs().max()


@for_each_dtype
def test_groups_are_independent(dtype: torch.dtype) -> None:
    x = torch.stack([two_modes(40, 3)[0], normal(40, 3)]).to(dtype)
    ridge = AdaptiveScore(gaussian="ridge")
    assert torch.equal(ridge.score(x), torch.stack([ridge.score(group) for group in x]))
    whole = QIS.score(x)
    alone = torch.stack([QIS.score(group) for group in x])
    assert (whole - alone).abs().max() <= rounding(dtype, 40) * alone.abs().max()


# --- arguments and results ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    x = normal(30, 3).to(dtype)
    assert torch.equal(QIS.score(x), QIS.score(x.float()))


def test_scores_have_no_gradient_and_work_without_one() -> None:
    x = normal(30, 3).requires_grad_()
    assert not QIS.score(x).requires_grad
    with torch.inference_mode():
        assert torch.equal(QIS.score(x), QIS.score(x.detach()))


def test_equal_samples_have_score_zero_everywhere() -> None:
    x = torch.full((9, 2), 3.0)
    fitted = QIS.fit(x)
    assert not QIS.score(x).any()
    assert not fitted.score(normal(4, 2).float()).any()


@pytest.mark.parametrize("gaussian", GAUSSIANS)
def test_a_fit_can_be_stored_and_loaded(gaussian: Any) -> None:
    fitted = AdaptiveScore(gaussian=gaussian).fit(two_modes(30, 2)[0])
    query = normal(5, 2, seed=4)
    copies = [
        pickle.loads(pickle.dumps(fitted)),
        copy.deepcopy(fitted),
        FittedAdaptive.from_state_dict(fitted.state_dict()),
    ]
    for other in copies:
        assert torch.equal(other.score(query), fitted.score(query))


MISTAKES: dict[str, tuple[Any, type[Exception], str]] = {
    "gaussian": (lambda: AdaptiveScore(gaussian="lw"), ValueError,  # type: ignore[arg-type]
                 r'gaussian must be "ridge", "qis" or "mle", got \'lw\''),
    "calibrate": (lambda: AdaptiveScore(calibrate=True), ValueError,  # type: ignore[arg-type]
                  r'calibrate must be "stein" or None, got True'),
    "one sample": (lambda: QIS.score(torch.zeros(1, 3)), ValueError,
                   r"samples must have shape .* M >= 2.*got \(1, 3\)"),
    "gaussian_score, one sample": (lambda: AdaptiveScore().gaussian_score(torch.zeros(1, 3)),
                                   ValueError, r"samples must have shape .* M >= 2.*got \(1, 3\)"),
    "gaussian_score, nan": (
        lambda: AdaptiveScore().gaussian_score(torch.full((4, 2), torch.nan)), ValueError,
        r"samples must be finite, got 8 values"),
    "nan": (lambda: QIS.score(torch.full((4, 2), torch.nan)), ValueError,
            r"samples must be finite, got 8 values"),
    "query": (lambda: QIS.fit(torch.randn(9, 3)).score(torch.zeros(2, 4)), ValueError,
              r"query must have the 3 columns of samples, got 4"),
    "integers": (lambda: QIS.score(torch.ones(4, 2).long()), TypeError,
                 r"samples must have a floating-point dtype"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_bad_arguments_are_refused_by_name(mistake: str) -> None:
    call, kind, message = MISTAKES[mistake]
    with pytest.raises(kind, match=message):
        call()


@pytest.mark.parametrize("gaussian", GAUSSIANS)
@pytest.mark.parametrize("calibrate", [None, "stein"])
@for_each_dtype
def test_the_gaussian_score_is_the_score_without_a_correction(
    dtype: torch.dtype, calibrate: Any, gaussian: Any
) -> None:
    estimator = AdaptiveScore(gaussian=gaussian, calibrate=calibrate)
    x = 30 + normal(20, 60, 3, dtype=dtype)
    diagnostics = estimator.diagnose(x)
    x = x[diagnostics.lam.isinf() & (diagnostics.base == 1)]
    assert len(x) > 10
    expected = estimator.score(x)
    error = (estimator.gaussian_score(x) - expected).abs().max()
    assert error <= 30 * rounding(dtype, 60) * expected.abs().max()
    departure = estimator.departure(x).abs().max()
    assert departure <= 30 * rounding(dtype, 60) * expected.abs().max()
    if gaussian == "ridge" and calibrate is None:
        assert departure == 0
    # The Gaussian score is linear in the samples, for any density.
    x = two_modes(60, 3)[0].to(dtype)
    centered = x - x.mean(0)
    scores = estimator.gaussian_score(x)
    linear = centered @ torch.linalg.lstsq(centered, scores).solution
    assert (scores - linear).norm() <= 30 * rounding(dtype, 60) * scores.norm()


@pytest.mark.parametrize("gaussian", GAUSSIANS)
@pytest.mark.parametrize("calibrate", [None, "stein"])
def test_the_departure_is_the_score_minus_the_gaussian_score(calibrate: Any, gaussian: Any) -> None:
    estimator = AdaptiveScore(gaussian=gaussian, calibrate=calibrate)
    for x in (two_modes(200, 2)[0], normal(20, 30)):
        expected = estimator.score(x) - estimator.gaussian_score(x)
        assert (estimator.departure(x) - expected).norm() <= 1e-9 * estimator.score(x).norm()


def test_the_departure_of_gaussians_in_float32_is_zero_for_every_covariance() -> None:
    x = 0.001**0.5 * normal(150, 300) + normal(150, 1, seed=1)
    assert AdaptiveScore().diagnose(x.float()).lam.isinf()
    assert not AdaptiveScore().departure(x.float()).any()


def test_it_is_an_estimator_for_the_information_functions() -> None:
    z = normal(50, 3).requires_grad_()
    mige.entropy(z, estimator=QIS).backward()
    assert z.grad is not None
    assert torch.equal(z.grad, -QIS.score(z) / 50)
