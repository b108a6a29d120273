"""The adaptive score: the operator against the reference, and the rule of its choices."""

import math

import pytest
import torch
from torch import Tensor

from mige_ext import ops, reference
from tests.ops.adaptive_samples import KINDS, LARGE, SIZES, samples
from tests.support.accuracy import assert_accurate_for_its_condition, rounding
from tests.support.backends import Backend, for_each_backend
from tests.support.inputs import for_each_dtype, normal

# Small sizes have all kinds. Larger sizes have the first and the last kind, whose choices differ
# most.
for_each_kind_and_size = pytest.mark.parametrize(
    ("kind", "m", "d"),
    [
        *((kind, m, d) for m, d in SIZES for kind in (KINDS if m < 64 else KINDS[::3])),
        pytest.param("peak", *LARGE, marks=pytest.mark.thorough),
    ],
)


# --- the reference --------------------------------------------------------------------------------


@pytest.mark.parametrize("base", [0, 1])
@pytest.mark.parametrize("lam", [0.1, 1e-3])
@pytest.mark.parametrize(("m", "d"), [(7, 2), (12, 5), (9, 12)])
def test_the_risk_has_the_total_divergence_that_autograd_finds(
    m: int, d: int, lam: float, base: int
) -> None:
    z, sigma = normal(m, d), torch.tensor(1.3, dtype=torch.float64)

    def residual(z: Tensor) -> Tensor:
        return reference.adaptive_residual(z, sigma, lam, base) + z

    jacobian = torch.autograd.functional.jacobian(residual, z)
    assert isinstance(jacobian, Tensor)
    r = residual(z)
    exact = torch.einsum("icic->i", jacobian)
    got = reference.adaptive_divergence(z, r - z, sigma, lam, base)
    risk = r.square().sum(-1) / 2 - (z * r).sum(-1) + exact
    assert torch.allclose(got, exact, rtol=1e-10, atol=1e-12 * float(risk.abs().max()))
    torch.testing.assert_close(reference.adaptive_risk(z, r, exact), risk, rtol=1e-12, atol=0)


@pytest.mark.parametrize("lam", [0.1, 1e-3])
def test_a_start_adds_its_divergence_to_the_total_divergence(lam: float) -> None:
    z, sigma = normal(12, 5), torch.tensor(1.3, dtype=torch.float64)

    def residual(z: Tensor) -> Tensor:
        return reference.adaptive_residual(z, sigma, lam, 2, z.sin()) + z

    jacobian = torch.autograd.functional.jacobian(residual, z)
    assert isinstance(jacobian, Tensor)
    got = reference.adaptive_divergence(
        z, residual(z) - z, sigma, lam, 2, start_divergence=z.cos().sum(-1)
    )
    assert torch.allclose(got, torch.einsum("icic->i", jacobian), rtol=1e-10)


# --- adaptive_score -------------------------------------------------------------------------------


@for_each_kind_and_size
@for_each_backend("adaptive_score")
def test_choices_and_scores_match_the_reference(
    backend: Backend, kind: str, m: int, d: int
) -> None:
    x = samples(kind, m, d)
    scores, lam, base, risk, error, sigma, left_out, departure, divergence = backend.adaptive_score(
        x
    )
    exact = reference.adaptive_score(x)
    assert lam == exact[1]
    assert base == exact[2]
    assert (scores - exact[0]).abs().max() <= 1e-8 * exact[0].abs().max()
    # The risk contains the rounding errors of an inverse with the condition number 1 / λ.
    lost = rounding(x.dtype, m) * max(1, 1 / float(lam))
    for got, true in zip((risk, error), exact[3:5], strict=True):
        assert (got - true).abs() <= lost * (exact[3].abs() + exact[4])
    assert_accurate_for_its_condition((sigma,), lambda x: reference.adaptive_score(x)[5:6], x)
    assert left_out == exact[6]
    assert (departure - exact[7]).abs().max() <= 1e-8 * exact[0].abs().max()
    assert (divergence - exact[8]).abs().max() <= lost * exact[8].abs().max()


@pytest.mark.parametrize("kind", ["small", "large", "exact"])
@pytest.mark.parametrize(("m", "d"), [(5, 2), (33, 5), (65, 64), (40, 50), (130, 17)], ids=str)
@for_each_backend("adaptive_score")
def test_choices_and_scores_with_a_start_match_the_reference(
    backend: Backend, m: int, d: int, kind: str
) -> None:
    x, start, start_divergence = samples_and_start(kind, m, d)
    got = backend.adaptive_score(x, start, start_divergence)
    exact = reference.adaptive_score(x, start, start_divergence)
    assert got[1] == exact[1]
    assert got[2] == exact[2]
    lost = rounding(x.dtype, m) * max(1, 1 / float(got[1]))
    for value, true in zip(got[3:5], exact[3:5], strict=True):
        assert (value - true).abs() <= lost * (exact[3].abs() + exact[4])
    for value, true in ((got[0], exact[0]), (got[7], exact[7])):
        assert (value - true).abs().max() <= 1e-8 * exact[0].abs().max()
    assert (got[8] - exact[8]).abs().max() <= lost * exact[8].abs().max()


def samples_and_start(kind: str, m: int, d: int) -> tuple[Tensor, Tensor, Tensor]:
    """Samples of two modes in every column, the departure of their score, and its divergence."""
    signs, noise = normal(m, d).sign(), normal(m, d, seed=1)
    x = 1.5 * signs + noise
    start = 1.5 * (1.5 * x).tanh() - x * (1 - 1 / 3.25)
    # In whitened coordinates, ∂start_c/∂x_c is multiplied by the variance of column c.
    divergence = (2.25 * (1 - (1.5 * x).tanh().square()) - (1 - 1 / 3.25)) * x.var(0)
    scale = {"small": 0.3, "large": -2.0, "exact": 1.0}[kind]
    unit = torch.logspace(-1, 1, d, dtype=x.dtype)
    return x * unit + 3, scale * start / unit, scale * divergence.sum(-1)


@for_each_backend("adaptive_score")
def test_an_exact_start_is_used(backend: Backend) -> None:
    x, start, divergence = samples_and_start("exact", 64, 10)
    _, lam, base, risk, error, _, _, departure, of_departure = backend.adaptive_score(
        x, start, divergence
    )
    assert base == 2
    assert risk + error < backend.adaptive_score(x)[3]
    if lam.isinf():
        assert (departure - start).abs().max() <= 1e-8 * start.abs().max()
        assert torch.equal(of_departure, divergence)
    bad = backend.adaptive_score(x, -start, -divergence)
    assert bad[2] != 2


@for_each_dtype
@for_each_backend("adaptive_score")
def test_a_start_that_is_not_used_changes_nothing(backend: Backend, dtype: torch.dtype) -> None:
    x = samples("two modes", 40, 3).to(dtype)
    start = torch.full_like(x, 100.0)
    for got, plain in zip(
        backend.adaptive_score(x, start, start[:, 0]), backend.adaptive_score(x), strict=True
    ):
        assert (got - plain).abs().max() <= rounding(dtype, 40) * plain.abs().max() * 1e2


@for_each_kind_and_size
@for_each_backend("adaptive_score")
def test_in_float32_the_chosen_candidate_is_as_good_and_as_accurate(
    backend: Backend, kind: str, m: int, d: int
) -> None:
    x = samples(kind, m, d).float()
    scores, lam, base, risk, error, sigma, left_out, *_ = backend.adaptive_score(x)
    kept = _kept(x.double())
    assert left_out == (~kept).double().mean().to(left_out.dtype)

    def candidate(x: Tensor) -> tuple[Tensor, ...]:
        return _candidate(x, kept, float(lam), int(base))

    assert_accurate_for_its_condition((scores, sigma), lambda x: candidate(x)[::3], x)
    # Rounding changes the risk by less than a tenth of its standard error. It therefore decides
    # only between candidates that are nearly equal.
    _, true_risk, true_error, _ = candidate(x.double())
    little = true_error / 10
    assert (risk - true_risk).abs() <= little
    assert (error - true_error).abs() <= little
    best = reference.adaptive_score(x.double())
    assert true_risk + true_error <= best[3] + best[4] + 2 * little


@pytest.mark.parametrize("seed", [0, 5, 6])
def test_float32_chooses_as_float64_where_the_kernel_is_nearly_singular(seed: int) -> None:
    # Many samples with heavy tails in two dimensions. Without refinement of the inverse, the risk
    # of the smallest λ is 20 too low in float32, and λ falls to 1e-5.
    x = normal(1000, 2, seed=seed) / normal(1000, 1, seed=seed + 100).abs().clamp(min=0.05)
    exact, got = ops.adaptive_score(x), ops.adaptive_score(x.float())
    assert exact[1] >= 1e-4
    assert torch.equal(got[1], exact[1].float())
    torch.testing.assert_close(got[3].double(), exact[3], rtol=1e-3, atol=0)


def _kept(x: Tensor) -> Tensor:
    """Whether each sample is used for the choice, (M)."""
    mean, whitening, _ = reference.ridge_whitening(x)
    return reference.adaptive_kept((x - mean) @ whitening)


def _candidate(x: Tensor, kept: Tensor, lam: float, base: int) -> tuple[Tensor, ...]:
    """Scores, risk, its error and σ of a given candidate, in plain torch."""
    mean, whitening, _ = reference.ridge_whitening(x)
    z = (x - mean) @ whitening
    z_kept = z[kept]
    sigma = reference.distance_quantile(z_kept)
    if math.isinf(lam):
        return -z @ whitening.mT, x.new_zeros(()), x.new_zeros(()), sigma
    f, f_kept = (reference.adaptive_residual(part, sigma, lam, base) for part in (z, z_kept))
    divergence = reference.adaptive_divergence(z_kept, f_kept, sigma, lam, base)
    r = reference.adaptive_risk(z_kept, f_kept + z_kept, divergence)
    return f @ whitening.mT, r.mean(), r.std() / math.sqrt(len(z_kept)), sigma


def degenerate(kind: str, m: int, d: int) -> tuple[Tensor, Tensor]:
    """Samples of d columns, and the same samples with columns that add no direction."""
    x = normal(m, d)
    more = {
        "constant columns": torch.full((m, 3), 2.0, dtype=x.dtype),
        "a column twice": x[:, :1],
        "a sum of columns": x @ normal(d, 2, seed=1) + 1,
    }
    return x, torch.cat([x, more[kind]], -1)


@pytest.mark.parametrize(
    ("kind", "m", "d"),
    [
        *((kind, *size) for kind in ("constant columns", "a column twice", "a sum of columns")
          for size in ((64, 3), (40, 20))),
        ("constant columns", 33, 40),  # more columns than samples
    ],
)  # fmt: skip
@for_each_dtype
@for_each_backend("adaptive_score", "ridge_whitening")
def test_directions_without_variance_do_not_count(
    backend: Backend, dtype: torch.dtype, m: int, d: int, kind: str
) -> None:
    plain, wide = (x.to(dtype) for x in degenerate(kind, m, d))
    scores, lam, base, risk, *_ = backend.adaptive_score(wide)
    true = reference.adaptive_score(wide.double())
    assert lam == true[1].to(dtype) and base == true[2]
    # The samples without these columns get the same λ.
    _, plain_lam, _, plain_risk, *_ = backend.adaptive_score(plain)
    assert lam == plain_lam
    if kind == "constant columns":
        assert (risk - plain_risk).abs() <= rounding(dtype, m * d)
        assert not scores[:, d:].any()
        assert (scores[:, :d] - backend.adaptive_score(plain)[0]).abs().max() <= rounding(
            dtype, m * d
        ) * scores.abs().max() * float(1e5 if lam.isfinite() else 1e2)
    _, whitening, ridge = backend.ridge_whitening(wide)
    _, _, true_ridge = reference.ridge_whitening(wide.double())
    assert (ridge / true_ridge - 1).abs() <= 10 * rounding(dtype, m * d)
    exact = -(wide.double() - wide.double().mean(0)) @ true_whitening(wide) @ true_whitening(wide).T
    got = -(wide - wide.mean(0)) @ whitening @ whitening.mT
    assert (got.double() - exact).norm() <= 100 * rounding(dtype, m * d) * exact.norm()


def true_whitening(x: Tensor) -> Tensor:
    return reference.ridge_whitening(x.double())[1]


@for_each_backend("adaptive_score")
def test_a_strong_common_factor_hides_no_other_direction_in_float32(backend: Backend) -> None:
    # The first eigenvalue of the correlations is 100,000 times the others, which are not rounding
    # errors. A score is proportional to the inverse of an eigenvalue.
    x = 0.999**0.5 * normal(100, 1) + 0.001**0.5 * normal(100, 1500, seed=1)
    v = (x - x.mean(0)) / x.std(0, correction=0)
    values = torch.linalg.eigvalsh(v @ v.mT / 100)
    rounded = 8 * torch.finfo(torch.float32).eps * values[-1] / values.median()
    got, exact = backend.adaptive_score(x.float())[0], backend.adaptive_score(x)[0]
    assert 0.05 < rounded < 0.2
    assert (got - exact).norm() < rounded * exact.norm()


@for_each_dtype
@for_each_backend("adaptive_score")
def test_equal_samples_have_no_score(backend: Backend, dtype: torch.dtype) -> None:
    x = torch.full((2, 9, 3), 5.0, dtype=dtype)
    x[1] = normal(9, 3, dtype=dtype)
    scores, lam, base, risk, error, sigma, left_out, departure, divergence = backend.adaptive_score(
        x
    )
    assert left_out[0] == 0
    assert not scores[0].any() and not departure[0].any() and not divergence[0].any()
    assert lam[0] == torch.inf
    assert base[0] == risk[0] == error[0] == sigma[0] == 0
    assert scores[1].any()


@for_each_dtype
@for_each_backend("adaptive_score")
def test_columns_have_their_own_unit_and_origin(backend: Backend, dtype: torch.dtype) -> None:
    x = samples("two modes", 40, 3).to(dtype)
    unit = torch.tensor([2.0**-40, 1.0, 2.0**40], dtype=dtype)
    scores, lam, *_ = backend.adaptive_score(x)
    scaled, same, *_ = backend.adaptive_score(x * unit)
    assert same == lam
    assert torch.equal(scaled * unit, scores)


@for_each_dtype
@for_each_backend("adaptive_score")
def test_samples_near_the_ends_of_the_range_have_finite_scores(
    backend: Backend, dtype: torch.dtype
) -> None:
    x = normal(40, 3, dtype=dtype)
    largest = torch.finfo(dtype).max / 8
    for scale in (largest, 1 / largest):
        scores = backend.adaptive_score(x / 4 * scale)[0]
        assert scores.isfinite().all()
        assert scores.any() or scale > 1  # a score below the smallest number is 0
