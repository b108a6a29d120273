"""The spectral filters: their scores, their energies and their relations."""

from typing import Any

import pytest
import torch

from mige_ext import IMQ, RBF, SSGE, Landweber, NuMethod, SpectralFilter, Stein, Tikhonov
from tests.scores.kernel.cases import (
    ETA,
    LAM,
    D,
    Filter,
    M,
    for_each_filter,
    for_each_kernel,
    for_each_value,
    from_matrices,
    relative,
    skewed,
    spectrum,
)
from tests.support.accuracy import assert_accurate, rounding
from tests.support.inputs import for_each_dtype, normal

# --- scores ---------------------------------------------------------------------------------------


@for_each_filter
@for_each_kernel
@for_each_value
@for_each_dtype
def test_every_filter_agrees_with_its_formula_in_dense_matrices(
    kind: Filter, kernel: Any, curl_free: bool, dtype: torch.dtype
) -> None:
    x, q = skewed(dtype=dtype), 2 * normal(11, D, dtype=dtype, seed=1) + 1
    estimator = kind.make(kernel=kernel, curl_free=curl_free)
    fitted = estimator.fit(x)
    # The size of the sum is ζ times the largest g_λ. With a cut-off, rounding rotates eigenvectors
    # by rounding / gap, so the size is ζ times the inverse of the gap.
    mu, zeta = spectrum(kernel, curl_free, x.double())
    j = M * D - (12 if curl_free else 12 * D)
    gain = 1 / (mu[j] - mu[j - 1]) if kind.cut_off else kind.function(mu).max()
    for query, got in ((None, estimator.score(x)), (None, fitted.score()), (q, fitted.score(q))):
        wide = None if query is None else query.double()
        assert_accurate(
            got,
            from_matrices(kind, kernel, curl_free, x, query),
            from_matrices(kind, kernel, curl_free, x.double(), wide),
            terms=M * D,
            magnitude=zeta * gain,
        )


@for_each_kernel
@for_each_value
def test_stein_is_tikhonov_with_the_samples_counted(kernel: Any, curl_free: bool) -> None:
    x, q = skewed(), skewed(7, seed=1)
    options: Any = {"kernel": kernel, "curl_free": curl_free}
    stein, tikhonov = Stein(eta=ETA, **options).fit(x), Tikhonov(lam=ETA / M, **options).fit(x)
    assert torch.equal(stein.score(q), tikhonov.score(q))
    assert torch.equal(
        Stein(eta=ETA, **options).score(x), Tikhonov(lam=ETA / M, **options).score(x)
    )


@for_each_value
def test_filters_of_one_strength_agree_and_none_is_the_pseudo_inverse(curl_free: bool) -> None:
    # For λ -> 0, t -> ∞ and J -> rank, all scores converge to −K⁺H.
    x = skewed(12)
    options: Any = {"kernel": IMQ(), "curl_free": curl_free, "bandwidth": 0.5}
    limit = SSGE(threshold=1.0, **options).score(x)
    weak: list[list[SpectralFilter]] = [
        [Tikhonov(lam=lam, **options) for lam in (1e-2, 1e-4, 1e-6)],
        [Landweber(steps=steps, **options) for steps in (10, 100, 2000)],
        [NuMethod(steps=steps, **options) for steps in (3, 10, 100)],
    ]
    for filters in weak:
        errors = [relative(f.score(x) - limit, limit) for f in filters]
        assert errors == sorted(errors, reverse=True) and errors[-1] < errors[0] / 10


@for_each_value
def test_scores_converge_to_that_of_the_density(curl_free: bool) -> None:
    for make in (Tikhonov, Landweber, NuMethod, lambda **k: Stein(eta=0.1, **k)):
        errors = []
        for m in (32, 256):
            x = normal(m, 2, seed=m)
            score = make(curl_free=curl_free).score(x)
            errors.append(relative(score + x, x))
        assert errors[1] < errors[0] / 1.5, errors


def test_ssge_with_the_default_kernel_is_the_native_operator_and_the_same_as_in_torch() -> None:
    x, q = skewed(), skewed(7, seed=1)

    class Gaussian(RBF):
        """The same φ in a class without native operators."""

    native, plain = SSGE(rank=8), SSGE(rank=8, kernel=Gaussian())
    mu, zeta = spectrum(RBF(), False, x)
    bound = rounding(x.dtype, M) * zeta.norm() / mu[-8 * D] / (mu[-8 * D] - mu[-8 * D - 1])
    assert (native.score(x) - plain.score(x)).norm() <= bound
    assert (native.fit(x).score(q) - plain.fit(x).score(q)).norm() <= bound
    threshold = SSGE(threshold=0.95), SSGE(threshold=0.95, kernel=Gaussian())
    assert threshold[0].diagnose(x).rank == threshold[1].diagnose(x).rank


# --- energies -------------------------------------------------------------------------------------


@for_each_filter
@for_each_kernel
def test_the_score_is_the_gradient_of_the_energy(kind: Filter, kernel: Any) -> None:
    x, q = skewed(), skewed(7, seed=1)
    fitted = kind.make(kernel=kernel, curl_free=True, calibrate="stein").fit(x)
    h = torch.finfo(x.dtype).eps ** (1 / 3)  # balances truncation and rounding of the difference
    slopes = [
        (fitted.energy(q + h * e) - fitted.energy(q - h * e)) / (2 * h)
        for e in torch.eye(D, dtype=x.dtype)
    ]
    error = (torch.stack(slopes, -1) - fitted.score(q)).abs().max()
    size = max(fitted.score(q).abs().max().item(), fitted.energy(q).abs().max().item())
    assert error <= 100 * h**2 * size


def test_the_energy_of_scaled_samples_is_the_same() -> None:
    x, q = skewed(), skewed(7, seed=1)
    fit = Tikhonov(curl_free=True).fit
    assert torch.equal(fit(x * 2.0**40).energy(q * 2.0**40), fit(x).energy(q))


def test_a_diagonal_kernel_has_no_energy() -> None:
    with pytest.raises(ValueError, match="energy needs a fit with curl_free=True"):
        Tikhonov().fit(skewed()).energy()


# --- properties -----------------------------------------------------------------------------------


@for_each_filter
@for_each_kernel
@for_each_value
def test_scores_move_turn_scale_and_permute_with_the_samples(
    kind: Filter, kernel: Any, curl_free: bool
) -> None:
    x = skewed()
    estimator = kind.make(kernel=kernel, curl_free=curl_free, calibrate="stein")
    expected = estimator.score(x)
    mu, zeta = spectrum(kernel, curl_free, x)
    j = M * D - (12 if curl_free else 12 * D)
    gain = 1 / (mu[j] - mu[j - 1]) / mu[j] if kind.cut_off else kind.function(mu).max()
    bound = 10 * rounding(x.dtype, M * D) * float(gain * zeta.norm())  # for |x| up to 10 σ
    rotation, _ = torch.linalg.qr(normal(D, D, seed=7))
    order = torch.randperm(M)
    assert (estimator.score(x - 5) - expected).norm() <= bound
    assert (estimator.score(x @ rotation) - expected @ rotation).norm() <= bound
    assert (3 * estimator.score(3 * x) - expected).norm() <= bound
    assert (estimator.score(x[order]) - expected[order]).norm() <= bound
    assert (estimator.score(x.flip(1)) - expected.flip(1)).norm() <= bound
    for scale in (2.0**-100, 2.0**100):
        assert torch.equal(estimator.score(x * scale), expected / scale)
        small = x.float()
        assert torch.equal(estimator.score(small * scale), estimator.score(small) / scale)


@pytest.mark.parametrize("batch", [(3,), (2, 2), (0,), (2, 0)], ids=str)
@for_each_filter
@for_each_value
def test_leading_dimensions_are_groups(
    batch: tuple[int, ...], kind: Filter, curl_free: bool
) -> None:
    x = normal(*batch, M, D) * (1 + torch.arange(D))
    q = normal(*batch, 7, D, seed=1)
    estimator = kind.make(kernel=IMQ(), curl_free=curl_free, calibrate="stein")
    scores, fitted = estimator.score(x), estimator.fit(x)
    elsewhere, diagnostics = fitted.score(q), estimator.diagnose(x)
    assert scores.shape == x.shape and elsewhere.shape == q.shape
    for value in vars(diagnostics).values():
        assert value.shape == batch
    for index in torch.cartesian_prod(*(torch.arange(n) for n in batch)).reshape(-1, len(batch)):
        i = tuple(index.tolist())
        mu, zeta = spectrum(IMQ(), curl_free, x[i])
        j = M * D - (12 if curl_free else 12 * D)
        gain = 1 / (mu[j] - mu[j - 1]) / mu[j] if kind.cut_off else kind.function(mu).max()
        bound = rounding(x.dtype, M * D) * float(gain * zeta.norm())
        assert (scores[i] - estimator.score(x[i])).norm() <= bound
        assert (elsewhere[i] - estimator.fit(x[i]).score(q[i])).norm() <= bound


@pytest.mark.parametrize("value", [0.0, 0.1, 1e30])
@for_each_filter
@for_each_value
@for_each_dtype
def test_equal_samples_have_score_zero_here_and_elsewhere(
    kind: Filter, curl_free: bool, value: float, dtype: torch.dtype
) -> None:
    x = torch.full((2, 13, D), value, dtype=dtype)
    x[1] = normal(13, D, dtype=dtype)
    for calibrate in (None, "stein"):
        estimator = kind.make(kernel=IMQ(), curl_free=curl_free, calibrate=calibrate)
        scores, fitted = estimator.score(x), estimator.fit(x)
        assert not scores[0].any() and scores[1].any()
        assert not fitted.score(normal(2, 5, D, dtype=dtype))[0].any()
        for diagnostic in vars(fitted.diagnostics).values():
            assert diagnostic[0] == 0 and diagnostic[1] > 0


@for_each_filter
@for_each_value
def test_an_offset_costs_no_accuracy(kind: Filter, curl_free: bool) -> None:
    shift = 2.0**20
    x = (skewed(dtype=torch.float32) + shift) - shift  # rounded as x + shift is
    estimator = kind.make(curl_free=curl_free, kernel=IMQ(), calibrate="stein")
    assert torch.equal(estimator.score(x + shift), estimator.score(x))
    q = x.narrow(0, 0, 5) + 0.25
    assert torch.equal(estimator.fit(x + shift).score(q + shift), estimator.fit(x).score(q))


@for_each_filter
@for_each_value
def test_stein_calibration_makes_the_identity_exact(kind: Filter, curl_free: bool) -> None:
    x = skewed()
    plain, calibrated = (kind.make(curl_free=curl_free, calibrate=c) for c in (None, "stein"))
    factor = plain.diagnose(x).calibration
    for a, b in ((plain.score(x), calibrated.score(x)),
                 (plain.fit(x).score(x + 1), calibrated.fit(x).score(x + 1))):  # fmt: skip
        assert relative(b * factor - a, a) <= rounding(x.dtype, x.numel()) / LAM
