"""The authors' release: its outputs, its conventions, and its defects that are fixed."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mige_ext import entropy, ops, reference
from mige_ext.compat import (
    MutualInformationGradientEstimator,
    SpectralScoreEstimator,
    entropy_surrogate,
)
from tests.support.accuracy import rounding
from tests.support.inputs import for_each_dtype, normal

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "authors_release_fp64.npz")
CASES = sorted({key.split("/")[0] for key in GOLDEN})
SCORES = [case for case in CASES if f"{case}/score" in GOLDEN]
TOYS = [case for case in CASES if f"{case}/dI_drho" in GOLDEN]


def golden(key: str) -> Tensor:
    return torch.from_numpy(GOLDEN[key])


# --- the stored outputs of the release ------------------------------------------------------------


def test_every_stored_case_is_compared() -> None:
    assert set(SCORES) | set(TOYS) == set(CASES)
    assert len(SCORES) == 6 and len(TOYS) == 2


@pytest.mark.parametrize("case", SCORES)
def test_scores_are_those_of_the_release(case: str) -> None:
    estimator = SpectralScoreEstimator(**json.loads(str(GOLDEN[f"{case}/args"])))
    query = golden(f"{case}/query") if f"{case}/query" in GOLDEN else None
    got = estimator.compute_gradients(golden(f"{case}/samples"), query)
    exact = golden(f"{case}/score")
    assert got.shape == exact.shape
    assert (got - exact).abs().max() <= 1e-8 * exact.abs().max()


@pytest.mark.parametrize("case", TOYS)
def test_mutual_information_gradients_are_those_of_the_release(case: str) -> None:
    rho = torch.tensor(float(case.split("rho")[1]), dtype=torch.float64, requires_grad=True)
    x, noise = golden(f"{case}/x"), golden(f"{case}/noise")
    estimator = MutualInformationGradientEstimator(n_eigen_threshold=0.99)
    estimator(x, rho * x + (1 - rho**2).sqrt() * noise).backward()
    exact = golden(f"{case}/dI_drho").item()
    assert rho.grad is not None
    assert abs(rho.grad.item() - exact) <= 1e-8 * abs(exact)
    assert math.copysign(1, exact) == math.copysign(1, GOLDEN[f"{case}/true"])


# --- conventions ----------------------------------------------------------------------------------


def release_bandwidth(points: Tensor) -> Tensor:
    """The median of the release, from a sort of all n² distances."""
    distances = reference.squared_distances(points).sqrt().flatten().sort(descending=True).values
    return distances[points.shape[0] ** 2 // 2 - 1]


def score_with_rank(samples: Tensor, rank: int, query: Tensor | None = None) -> Tensor:
    """The score of the release with a given J."""
    points = samples if query is None else torch.cat([samples, query])
    sigma = release_bandwidth(points)
    if query is None:
        return reference.ssge(samples, sigma, rank=rank)[0]
    coefficients = reference.ssge(samples, sigma, rank=rank, power=2)[0]
    return reference.rbf_product(query, samples, coefficients, bandwidth=sigma)


def assert_close(got: Tensor, exact: Tensor) -> None:
    """Assert equality up to the tolerance of the stored outputs."""
    assert (got - exact).abs().max() <= 1e-8 * exact.abs().max()


@pytest.mark.parametrize("m", [2, 3, 5, 12, 33, 64])
def test_the_bandwidth_is_the_median_with_the_zero_diagonal(m: int) -> None:
    x = normal(m, 16)
    # With one eigenvector, the score of two samples is 0, and only rounding errors are compared.
    rank = 2 if m == 2 else 1
    got = SpectralScoreEstimator(n_eigen=rank).compute_gradients(x)
    assert_close(got, score_with_rank(x, rank))
    # The median of the pairs is larger.
    if m > 11:
        assert release_bandwidth(x) < ops.distance_quantile(x)


def test_the_bandwidth_is_that_of_samples_and_query_together() -> None:
    x, q = normal(30, 4), 10 * normal(9, 4, seed=1)
    got = SpectralScoreEstimator(n_eigen=4).compute_gradients(x, q)
    assert_close(got, score_with_rank(x, 4, q))


@pytest.mark.parametrize("threshold", [0.7, 0.9, 0.99])
def test_the_rank_counts_the_fractions_below_the_threshold(threshold: float) -> None:
    x = normal(64, 16)
    k = reference.rbf_gram(x, bandwidth=release_bandwidth(x))
    fraction = torch.linalg.eigvalsh(k).flip(0).cumsum(0) / 64
    rank = int((fraction < threshold).sum())
    got = SpectralScoreEstimator(n_eigen_threshold=threshold).compute_gradients(x)
    assert_close(got, score_with_rank(x, rank))


def test_a_batch_has_the_rank_of_its_mean_spectrum() -> None:
    x = torch.stack([normal(64, 16), normal(64, 16, seed=1) * torch.linspace(0.1, 2, 16)])
    spectra = torch.stack([
        torch.linalg.eigvalsh(reference.rbf_gram(g, bandwidth=release_bandwidth(g))) for g in x
    ]).flip(-1)  # fmt: skip
    ranks = [int((s.cumsum(0) / s.sum() < 0.9).sum()) for s in [*spectra, spectra.mean(0)]]
    assert len(set(ranks)) == 3, "the case distinguishes the ranks"
    got = SpectralScoreEstimator(n_eigen_threshold=0.9).compute_gradients(x)
    for g in range(2):
        assert_close(got[g], score_with_rank(x[g], ranks[2]))


def test_all_eigenvalues_are_kept_by_default() -> None:
    x = normal(20, 64)
    got = SpectralScoreEstimator().compute_gradients(x)
    assert_close(got, score_with_rank(x, 20))


def test_eta_is_added_to_the_diagonal() -> None:
    x, q = normal(20, 6), normal(7, 6, seed=1)
    sigma = release_bandwidth(x)
    k = reference.rbf_gram(x, bandwidth=sigma) + 0.3 * torch.eye(20, dtype=x.dtype)
    h = reference.rbf_gradient_sum(x, bandwidth=sigma)
    estimator = SpectralScoreEstimator(eta=0.3)
    assert_close(estimator.compute_gradients(x), -torch.linalg.solve(k, h))
    assert estimator.compute_gradients(x, q).isfinite().all()


def test_the_surrogate_has_the_sign_of_minus_entropy() -> None:
    z = normal(30, 4).requires_grad_()
    estimator = SpectralScoreEstimator(n_eigen_threshold=0.9)
    (got,) = torch.autograd.grad(entropy_surrogate(estimator, z), z)
    assert_close(got, estimator.score(z) / 30)
    (ours,) = torch.autograd.grad(entropy(z, estimator=estimator), z)
    assert_close(got, -ours)
    with torch.no_grad():
        assert ((z - z.mean(0)) * got).sum() < 0


def test_mutual_information_is_joint_minus_marginal_surrogates() -> None:
    x, y = normal(30, 4).requires_grad_(), normal(30, 2, seed=1).requires_grad_()
    mutual = MutualInformationGradientEstimator(n_eigen_threshold=0.9)
    score = SpectralScoreEstimator(n_eigen_threshold=0.9).score
    got_x, got_y = torch.autograd.grad(mutual(x, y), (x, y))
    joint = score(torch.cat([x, y], -1))
    assert_close(got_x, (joint[:, :4] - score(x)) / 30)
    assert_close(got_y, (joint[:, 4:] - score(y)) / 30)


# --- fixed defects --------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [{"n_eigen": 3}, {"n_eigen_threshold": 0.8}], ids=str)
def test_settings_are_remembered_after_the_first_call(arguments: dict[str, float]) -> None:
    estimator = SpectralScoreEstimator(**arguments)  # type: ignore[arg-type]
    x = normal(30, 4)
    first = estimator.compute_gradients(x)
    estimator.compute_gradients(normal(12, 2))
    assert torch.equal(estimator.compute_gradients(x), first)
    assert not torch.equal(SpectralScoreEstimator().compute_gradients(x), first)


def test_a_threshold_below_the_first_fraction_keeps_one_eigenvalue() -> None:
    x = normal(30, 4)
    got = SpectralScoreEstimator(n_eigen_threshold=1e-6).compute_gradients(x)
    assert_close(got, score_with_rank(x, 1))


@for_each_dtype
def test_eta_takes_the_dtype_of_the_samples(dtype: torch.dtype) -> None:
    x = normal(20, 3, dtype=dtype)
    got = SpectralScoreEstimator(eta=0.1).compute_gradients(x)
    assert got.dtype == dtype
    exact = SpectralScoreEstimator(eta=0.1).compute_gradients(x.double())
    # K + η I has the condition (20 + η) / η at most.
    assert (got.double() - exact).norm() <= rounding(dtype, 20) * 20.1 / 0.1 * exact.norm()


# --- behavior -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_low_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    x, q = normal(20, 3, dtype=dtype), normal(7, 3, dtype=dtype, seed=1)
    estimator = SpectralScoreEstimator(n_eigen=4)
    assert torch.equal(estimator.score(x), estimator.score(x.float()))
    expected = estimator.compute_gradients(x.float(), q.float())
    assert torch.equal(estimator.compute_gradients(x, q), expected)


@for_each_dtype
def test_autocast_does_not_lower_the_precision(dtype: torch.dtype) -> None:
    x, q = normal(20, 3, dtype=dtype), normal(7, 3, dtype=dtype, seed=1)
    estimator = SpectralScoreEstimator(n_eigen_threshold=0.9)
    expected = estimator.score(x), estimator.compute_gradients(x, q)
    with torch.autocast("cpu", torch.bfloat16):
        got = estimator.score(x), estimator.compute_gradients(x, q)
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == dtype and torch.equal(a, b)


def test_scores_carry_no_gradient() -> None:
    x = normal(20, 3).requires_grad_()
    estimator = SpectralScoreEstimator(n_eigen=4)
    assert not estimator.compute_gradients(x).requires_grad
    assert not estimator.compute_gradients(x, x).requires_grad
    assert torch.equal(estimator.score(x), estimator.compute_gradients(x.detach()))


@pytest.mark.parametrize("batch", [(0,), (2, 3)], ids=str)
def test_leading_dimensions_are_a_batch(batch: tuple[int, ...]) -> None:
    x, q = normal(*batch, 12, 3), normal(*batch, 7, 3, seed=1)
    estimator = SpectralScoreEstimator(n_eigen=4)
    assert estimator.score(x).shape == x.shape
    elsewhere = estimator.compute_gradients(x, q)
    assert elsewhere.shape == q.shape
    for i in np.ndindex(batch):
        assert_close(estimator.score(x)[i], score_with_rank(x[i], 4))
        assert_close(elsewhere[i], score_with_rank(x[i], 4, q[i]))
