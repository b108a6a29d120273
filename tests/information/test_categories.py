"""Mutual information with categories: I(s; z) for a class s, and information given a class y."""

import math
import warnings
from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

import mige_ext as mige
from tests.support.accuracy import rounding
from tests.support.gradients import gradient
from tests.support.inputs import normal

pytestmark = pytest.mark.filterwarnings("ignore::mige_ext.MigeWarning")

Marginal = Literal["paired", "own", "matched"]
for_each_marginal = pytest.mark.parametrize("marginal", ["paired", "own"])


def field(s: Tensor, z: Tensor, **how: Any) -> Tensor:
    """``M`` times the gradient in z, for z (..., M, d)."""
    z = z.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(mige.mutual_information(s, z, **how), z)
    return gradient * z.shape[:-1].numel()


def cosine(a: Tensor, b: Tensor) -> float:
    return torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), 0).item()


def classes(m: int, count: int, seed: int = 0) -> Tensor:
    return torch.randint(count, (m,), generator=torch.Generator().manual_seed(seed))


def shifted(m: int, d: int, count: int = 2, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Classes s of equal covariance, their samples z, and the exact field ``∇ log p(s | z)``."""
    s, means = classes(m, count, seed), 1.4 * normal(count, d, seed=99)
    z = means[s] + normal(m, d, seed=seed + 1)
    posterior = (z @ means.mT - means.square().sum(-1) / 2).softmax(-1)
    return s, z, means[s] - posterior @ means


# --- the gradient ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("d", "count"), [(2, 2), (6, 3), (16, 2)])
def test_the_gradient_of_gaussian_classes_agrees_with_the_closed_form(d: int, count: int) -> None:
    # A class mean has the error √(d/n) in whitened units, and the field is linear in the means.
    for seed in range(3):
        s, z, exact = shifted(512, d, count, seed)
        error = (field(s, z) - exact).norm() / exact.norm()
        signal = exact.square().sum(-1).mean().sqrt().item()
        assert error < 2 * math.sqrt(d * count / 512) / min(signal, 1.0)


@pytest.mark.parametrize("d", [2, 8])
def test_classes_of_different_scale_agree_with_the_closed_form(d: int) -> None:
    s = classes(512, 2)
    scale = torch.tensor([1.0, 0.6], dtype=torch.float64)
    z = scale[s].unsqueeze(-1) * normal(512, d, seed=1)
    logits = -z.square().sum(-1, keepdim=True) / (2 * scale**2) - d * scale.log()
    posterior = logits.softmax(-1)
    exact = -z * (1 / scale[s] ** 2 - (posterior / scale**2).sum(-1)).unsqueeze(-1)
    assert cosine(field(s, z), exact) > 0.9


def test_no_dependence_gives_a_gradient_near_zero() -> None:
    norms = [
        field(classes(256, 3, seed), normal(256, 4, seed=seed)).square().sum(-1).mean()
        for seed in range(5)
    ]
    assert torch.stack(norms).max() < 0.05


def test_ascent_separates_the_classes_and_descent_mixes_them() -> None:
    s, z, _ = shifted(256, 3)

    def distance(step: float) -> Tensor:
        moved = z + step * field(s, z)
        return (moved[s == 1].mean(0) - moved[s == 0].mean(0)).norm()

    assert distance(0.2) > distance(0.0) > distance(-0.2)


def test_own_is_the_score_of_z_minus_the_scores_within_the_classes() -> None:
    s, z, _ = shifted(96, 3)
    expected = mige.DEFAULT_ESTIMATOR.score(z)
    for c in (0, 1):
        expected[s == c] -= mige.DEFAULT_ESTIMATOR.score(z[s == c])
    got = field(s, z, marginal="own")
    assert (got + expected).norm() <= rounding(z.dtype, 96) * expected.norm()


def test_own_uses_the_estimator() -> None:
    s, z, _ = shifted(64, 2)
    estimator = mige.GaussianScore(covariance="mle")
    expected = estimator.score(z)
    for c in (0, 1):
        expected[s == c] -= estimator.score(z[s == c])
    got = field(s, z, marginal="own", estimator=estimator)
    assert (got + expected).norm() <= rounding(z.dtype, 64) * expected.norm()


def test_matched_has_a_mean_of_zero_without_dependence() -> None:
    # With random classes, the two entropies have the same distribution.
    s, z = classes(64, 2), normal(64, 2)
    torch.manual_seed(0)
    draws = [field(s, z, marginal="matched") for _ in range(40)]
    own = field(s, z, marginal="own")
    sums = torch.stack([(draw * z).sum() for draw in draws])
    assert sums.mean().abs() < 4 * sums.std() / math.sqrt(40) + (own * z).sum().abs()
    assert sums.std() > 0


@for_each_marginal
def test_the_gradient_is_divided_by_the_number_of_samples(marginal: Marginal) -> None:
    s, z, _ = shifted(64, 2)
    z = z.requires_grad_()
    once = gradient(mige.mutual_information(s, z, marginal=marginal), z)
    groups = mige.mutual_information(s.expand(3, 64), z.expand(3, 64, 2), marginal=marginal)
    assert (gradient(groups, z) - once).norm() <= rounding(z.dtype, 64) * once.norm()


# --- invariance -----------------------------------------------------------------------------------

CALLS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "paired": lambda s, z: field(s, z),
    "own": lambda s, z: field(s, z, marginal="own"),
    "given": lambda s, z: field(s % 2, z, given=s // 2),
    "own-given": lambda s, z: field(s % 2, z, marginal="own", given=s // 2),
}
for_each_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())


def assert_close(got: Tensor, expected: Tensor, n: int = 4096) -> None:
    assert expected.norm() > 0
    assert (got - expected).norm() <= rounding(expected.dtype, n) * expected.norm()


@pytest.mark.parametrize("labels", [[3, -7, 10**12, 0], [0, 1, 2, 255]], ids=["any", "bytes"])
@pytest.mark.parametrize("marginal", ["paired", "own"])
def test_labels_may_be_any_integers(labels: list[int], marginal: Marginal) -> None:
    s, z, _ = shifted(96, 3, 4)
    dtype = torch.uint8 if max(labels) < 256 else torch.int64
    renamed = torch.tensor(labels, dtype=dtype)[s]
    assert_close(field(renamed, z, marginal=marginal), field(s, z, marginal=marginal))


@for_each_marginal
def test_booleans_are_two_classes(marginal: Marginal) -> None:
    s, z, _ = shifted(96, 3)
    assert torch.equal(field(s == 1, z, marginal=marginal), field(s, z, marginal=marginal))


@for_each_call
def test_the_order_of_the_samples_does_not_matter(call: Callable[..., Tensor]) -> None:
    s, z, _ = shifted(96, 3, 4)
    order = torch.randperm(96, generator=torch.Generator().manual_seed(0))
    assert_close(call(s[order], z[order]), call(s, z)[order])


@for_each_call
def test_groups_are_independent(call: Callable[..., Tensor]) -> None:
    (s, z, _), (t, w, _) = shifted(48, 3, 4), shifted(48, 3, 3, seed=5)
    both = call(torch.stack([s, t]).unsqueeze(1), torch.stack([z, w]).unsqueeze(1))
    assert_close(both[0, 0], call(s, z))
    assert_close(both[1, 0], call(t, w))


def test_the_classifier_is_equivariant_under_linear_maps() -> None:
    s, z, _ = shifted(128, 3)
    a = normal(3, 3, seed=4) + 2 * torch.eye(3, dtype=torch.float64)
    expected = field(s, z) @ torch.linalg.inv(a).mT
    got = field(s, z @ a + 5)
    # Only the small ridges of the whitening depend on the coordinates.
    assert (got - expected).norm() < 0.05 * expected.norm()


@pytest.mark.parametrize("marginal", ["paired", "own"])
def test_the_units_of_z_do_not_matter(marginal: Marginal) -> None:
    s, z, _ = shifted(64, 3)
    assert_close(field(s, 2.0**40 * z, marginal=marginal) * 2.0**40, field(s, z, marginal=marginal))


def test_half_precision_gets_gradients_in_its_own_dtype() -> None:
    s, z, _ = shifted(64, 3)
    exact = field(s, z.bfloat16().double())
    got = field(s, z.bfloat16())
    assert got.dtype == torch.bfloat16
    assert (got.double() - exact).norm() < 0.02 * exact.norm()


# --- small classes --------------------------------------------------------------------------------


@pytest.mark.parametrize("marginal", ["paired", "own", "matched"])
def test_the_default_dtype_does_not_matter(marginal: Marginal) -> None:
    s, z, _ = shifted(60, 3)
    torch.manual_seed(0)
    expected = field(s, z.float(), marginal=marginal)
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    try:
        assert torch.equal(field(s, z.float(), marginal=marginal), expected)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("marginal", ["paired", "own", "matched"])
def test_no_groups_have_no_gradient(marginal: Marginal) -> None:
    s, z = torch.zeros(0, 64).long(), normal(0, 64, 2)
    assert field(s, z, marginal=marginal).shape == (0, 64, 2)
    assert field(s, z, marginal=marginal, given=s).shape == (0, 64, 2)


def test_one_class_has_no_information() -> None:
    z = normal(32, 3)
    marginals: list[Marginal] = ["paired", "own"]
    for marginal in marginals:
        got = field(torch.full((32,), 5), z, marginal=marginal)
        assert got.abs().max() <= rounding(z.dtype, 32) * 32


def test_a_class_for_each_sample_gives_a_finite_gradient() -> None:
    z = normal(16, 3)
    assert field(torch.arange(16), z).isfinite().all()
    assert torch.equal(field(torch.arange(16), z, marginal="own"), torch.zeros(16, 3).double())


def test_samples_of_classes_of_one_or_two_get_no_gradient_from_scores() -> None:
    s, z, _ = shifted(64, 3)
    s[:3] = torch.tensor([7, 8, 8])
    got = field(s, z, marginal="own")
    assert torch.equal(got[:3], torch.zeros(3, 3).double())
    assert (got[3:].norm(dim=-1) > 0).all()


def test_a_rare_class_does_not_disturb_the_others() -> None:
    s, z, exact = shifted(256, 3)
    s = s.clone()
    s[0] = 9
    assert cosine(field(s, z)[1:], exact[1:]) > 0.9


def test_half_as_many_dimensions_as_samples_give_a_useful_gradient() -> None:
    cosines = []
    for seed in range(5):
        s = classes(64, 2, seed)
        sign = 2.0 * s.double().unsqueeze(-1) - 1
        shift = 1.5 * torch.nn.functional.normalize(normal(32, seed=seed), dim=0)
        z = normal(64, 32, seed=seed + 9) + sign * shift
        exact = (sign - (z @ shift).tanh().unsqueeze(-1)) * shift
        cosines.append(cosine(field(s, z), exact))
    assert min(cosines) >= 0
    assert sum(cosines) > 1


@for_each_marginal
def test_more_dimensions_than_samples_give_finite_gradients(marginal: Marginal) -> None:
    s, z, _ = shifted(24, 40)
    assert field(s, z, marginal=marginal).isfinite().all()


# --- given ----------------------------------------------------------------------------------------


def test_given_removes_the_information_that_the_condition_explains() -> None:
    # s and y are equal up to noise, and z is independent of s given y.
    y = classes(512, 2)
    s = torch.where(torch.rand(512, generator=torch.Generator().manual_seed(0)) < 0.1, 1 - y, y)
    z = 2 * y.unsqueeze(-1) + normal(512, 3)
    assert field(s, z, given=y).square().sum(-1).mean() < 0.05
    assert field(s, z).square().sum(-1).mean() > 0.2


@pytest.mark.parametrize("estimator", [None, mige.SSGE()], ids=["default", "SSGE"])
@pytest.mark.parametrize("marginal", ["paired", "own"])
def test_given_is_the_weighted_sum_over_the_classes(marginal: Marginal, estimator: Any) -> None:
    y, x = classes(96, 3), normal(96, 2)
    z = (x + normal(96, 2, seed=1)).requires_grad_()
    how = {"marginal": marginal, "estimator": estimator}
    got = gradient(mige.mutual_information(x, z, given=y, **how), z)
    parts = [(y == c).double().mean() * mige.mutual_information(x[y == c], z[y == c], **how)
             for c in range(3)]  # fmt: skip
    assert_close(got, gradient(torch.stack(parts).sum(), z))


def test_given_reaches_both_arguments_and_the_projection() -> None:
    x = normal(64, 6).requires_grad_()
    z = (x.detach()[:, :2] + normal(64, 2, seed=1)).requires_grad_()
    projection = mige.RandomProjection(k=3)
    mige.mutual_information(x, z, given=classes(64, 2), projection=projection).backward()
    assert x.grad is not None and z.grad is not None
    assert x.grad.shape == x.shape and (x.grad != 0).any() and (z.grad != 0).any()


def test_given_one_condition_changes_nothing() -> None:
    s, z, _ = shifted(64, 3)
    one = torch.zeros(64, dtype=torch.bool)
    for marginal in ("paired", "own"):
        how: Any = {"marginal": marginal}
        assert_close(field(s, z, given=one, **how), field(s, z, **how))


def test_conditions_of_two_samples_add_nothing() -> None:
    x, z = normal(40, 2), normal(40, 2, seed=1) + normal(40, 2)
    y = torch.cat([torch.tensor([4, 4]), torch.ones(38, dtype=torch.long)])
    got = field(x, z, given=y)
    assert torch.equal(got[:2], torch.zeros(2, 2).double())
    assert_close(got[2:], field(x[2:], z[2:]))


# --- errors ---------------------------------------------------------------------------------------

S, Z = classes(16, 2), normal(16, 3)
ERRORS: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "projection": (
        lambda: mige.mutual_information(S, Z, projection=mige.RandomProjection(k=2)),
        ValueError, r"x must have a floating-point dtype, .* because projection is Random"),
    "estimator": (
        lambda: mige.mutual_information(S, Z, estimator=mige.SSGE()),
        ValueError, r"estimator must be None .*got SSGE.*marginal=\"own\""),
    "no estimator": (
        lambda: mige.mutual_information(S, Z, marginal="own", estimator=3),  # type: ignore[arg-type]
        TypeError, r"estimator must have a method score"),
    "column": (
        lambda: mige.mutual_information(S.unsqueeze(-1), Z), ValueError,
        r"x must have a floating-point dtype, got torch.int64, unless .*\(16,\).*, got \(16, 1\)"),
    "rows": (lambda: mige.mutual_information(S[:4], Z), ValueError,
             r"x must have .* shape \(16,\) for z of shape \(16, 3\), got \(4,\)"),
    "category z": (lambda: mige.mutual_information(S, S), TypeError,
                   r"z must have a floating-point dtype, got torch.int64"),
    "category last": (lambda: mige.mutual_information(Z, S), TypeError,
                      r"z must have a floating-point dtype, .*; a category is the first argument"),
    "given floats": (lambda: mige.mutual_information(S, Z, given=S.float()), TypeError,
                     r"given must have an integer or boolean dtype, got torch.float32"),
    "given list": (lambda: mige.mutual_information(Z, Z, given=[1]),  # type: ignore[arg-type]
                   TypeError, r"given must be a torch.Tensor, got list"),
    "given rows": (lambda: mige.mutual_information(Z, Z, given=S[:3]), ValueError,
                   r"given must have .* shape \(16,\) .*got \(3,\)"),
    "given device": (lambda: mige.mutual_information(Z, Z, given=S.to("meta")), ValueError,
                     r"given must be on the device of z, cpu, got meta"),
    "vmap": (lambda: torch.func.vmap(mige.mutual_information)(S.expand(2, 16), Z.expand(2, 16, 3)),
             NotImplementedError, r"do not work under torch.func.vmap"),
    "compile": (lambda: torch.compile(
                    mige.mutual_information, backend="eager", fullgraph=True)(S, Z),
                Exception, r"does not work under torch.compile"),
}  # fmt: skip


@pytest.mark.parametrize("case", ERRORS)
def test_invalid_calls_are_refused_by_name(case: str) -> None:
    call, error, message = ERRORS[case]
    with pytest.raises(error, match=message):
        call()


def test_functional_gradients_agree_with_autograd() -> None:
    s, z, _ = shifted(32, 2)
    got = torch.func.grad(lambda z: mige.mutual_information(s, z))(z)
    assert torch.equal(got * 32, field(s, z))


def test_a_record_has_the_scores_of_each_size() -> None:
    s, z, _ = shifted(40, 2)
    s = torch.arange(40) // 30
    with mige.recording() as log:
        mige.mutual_information(s, z, marginal="own")
        mige.mutual_information(s, z)
    assert [record.name for record in log] == ["mutual_information"] * 2
    assert {"z", "z given x"} <= set(log[0].terms)


def test_matched_samples_in_a_class_of_one_do_not_bias_the_gradient() -> None:
    s = torch.cat([torch.zeros(32).long(), torch.arange(1, 33)])
    sums = []
    for seed in range(60):
        torch.manual_seed(seed)
        z = normal(64, 2, seed=seed).requires_grad_()
        estimator = mige.GaussianScore("mle")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", mige.MigeWarning)
            mige.mutual_information(s, z, marginal="matched", estimator=estimator).backward()
        assert z.grad is not None
        sums.append((z.grad * z.detach()).sum() / 2)
    # For z independent of s the expected gradient is 0. The score within the sample's own class
    # alone would give -.25.
    assert torch.stack(sums).mean().abs() < 0.05
