"""Rival penalties on cases with known answers: definitions, independence, planted dependence."""

import math

import pytest
import torch
from torch import Tensor

from mige_ext.experiments.removal.dependence import distance_correlation, group_discrepancy, hsic
from mige_ext.experiments.removal.methods import Reversal, SlicedInformation
from mige_ext.experiments.removal.nuisances import Batch, Structural
from tests.experiments.removal.inputs import normal

pytestmark = pytest.mark.usefixtures("one_thread")  # the networks are too small for more threads


def batch_of(s: Tensor, bins: Tensor | None = None) -> Batch:
    bins = (s[:, 0] > 0).long() if bins is None else bins
    return Batch(s, torch.zeros(len(s)).long(), s, bins)


# --- kernels --------------------------------------------------------------------------------------


def test_a_collapsed_code_does_not_stop_an_experiment() -> None:
    z, batch = torch.zeros(64, 2, requires_grad=True), batch_of(normal(64, 1))
    group_discrepancy(z, batch).backward()
    assert z.grad is not None
    assert z.grad.isfinite().all()
    assert hsic(z, batch).isnan()  # such a run counts as diverged


# --- distance correlation -------------------------------------------------------------------------


def test_distance_correlation_is_its_definition() -> None:
    z, s = normal(20, 3).double(), normal(20, 2, seed=1).double()

    def centered(x: Tensor) -> list[list[float]]:
        n = len(x)
        d = [[float((x[i] - x[j]).norm()) for j in range(n)] for i in range(n)]
        mean = [sum(row) / n for row in d]
        return [[d[i][j] - mean[i] - mean[j] + sum(mean) / n for j in range(n)] for i in range(n)]

    def product(a: list[list[float]], b: list[list[float]]) -> float:
        return sum(x * y for left, right in zip(a, b, strict=True) for x, y in zip(left, right))  # noqa: B905

    a, b = centered(z), centered(s)
    expected = product(a, b) / math.sqrt(product(a, a) * product(b, b))
    assert distance_correlation(z, batch_of(s)).item() == pytest.approx(expected, rel=1e-9)


def test_distance_correlation_is_1_for_equal_samples_and_small_for_independent_ones() -> None:
    s = normal(1000, 1).double()
    assert distance_correlation(3 * s + 1, batch_of(s)).item() == pytest.approx(1, abs=1e-9)
    assert distance_correlation(normal(1000, 1, seed=1).double(), batch_of(s)).item() < 0.01
    assert distance_correlation(s.square(), batch_of(s)).item() > 0.1  # not linear


# --- MMD ------------------------------------------------------------------------------------------


def test_the_discrepancy_of_groups_is_its_definition() -> None:
    z, bins = normal(30, 2).double(), torch.arange(30) % 3
    bins[:5] = 4  # class 3 has no sample
    distances = torch.cdist(z, z)
    # the median of the distances of different samples, as mige_ext.ops computes it
    sigma = distances[~torch.eye(30).bool()].median()
    gram = (-distances.square() / (2 * sigma**2)).exp()
    expected = 0.0
    for c in bins.unique():
        own = bins == c
        mmd = gram[own][:, own].mean() - 2 * gram[own].mean() + gram.mean()
        expected += float(own.double().mean() * mmd)
    assert group_discrepancy(z, batch_of(z, bins)).item() == pytest.approx(expected, rel=0.05)


def test_equal_groups_have_no_discrepancy_and_separate_groups_a_large_one() -> None:
    half, bins = normal(50, 2), torch.arange(100) // 50
    z = torch.cat([half, half])
    assert abs(group_discrepancy(z, batch_of(z, bins)).item()) < 1e-6
    apart = z + 5 * bins[:, None]
    assert group_discrepancy(apart, batch_of(z, bins)).item() > 0.1


# --- sliced information ---------------------------------------------------------------------------


def trained(penalty: SlicedInformation, z: Tensor, s: Tensor) -> float:
    value = torch.zeros(())
    for _ in range(60):
        value = penalty(z, batch_of(s))
    return value.item()


def test_slices_find_a_dependence_that_is_not_linear_and_little_between_independent_samples() -> (
    None
):
    z = normal(400, 4)
    direction = torch.tensor([0.6, 0.8, 0.0, 0.0])
    s = (z @ direction).square()[:, None]
    s = (s - s.mean()) / s.std()
    found, nothing = (
        trained(SlicedInformation(Structural(), 4), z, of) for of in (s, normal(400, 1, seed=9))
    )
    assert found > 10 * nothing and found > 0.5
    assert nothing < 0.05


def test_a_correlation_of_whitened_polynomials_is_1_for_the_same_line() -> None:
    penalty = SlicedInformation(Structural(), 1)
    features = penalty.polynomials(normal(200, 1), torch.ones(2, 1))
    same = penalty.correlation(features, -features)
    assert features.shape == (2, 200, penalty.DEGREE)
    torch.testing.assert_close(same, torch.ones(2), atol=0.02, rtol=0)  # the ridge shrinks it


# --- gradient reversal ----------------------------------------------------------------------------


def test_the_weight_of_reversal_grows_and_is_saved() -> None:
    reversal = Reversal(Structural(), 2)
    s = normal(64, 1)
    batch, z = batch_of(s), normal(64, 2).requires_grad_()
    assert len(list(reversal.network.children())) == 3
    gradients = []
    for calls in (0, 50, 400):
        reversal.calls.fill_(calls)
        (gradient,) = torch.autograd.grad(reversal.penalty(z, batch), z)
        (plain,) = torch.autograd.grad(-reversal.loss(z, batch), z)
        gradients.append((gradient.norm() / plain.norm()).item())
    expected = [2 / (1 + math.exp(-10 * (calls + 1) / 400)) - 1 for calls in (0, 50, 400)]
    assert gradients == pytest.approx(expected, rel=1e-4)
    assert reversal.state_dict()["calls"] == 401
