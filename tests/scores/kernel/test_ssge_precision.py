"""Parity of SSGE with the oracle in float64, and with the best eager PyTorch in float32.

A hard cut of the spectrum is ill-conditioned in float32. If J ends between two close eigenvalues,
rounding mixes their eigenvectors. If a fraction of the trace is close to the threshold, rounding
changes J. Any solver then has errors of 1e-4 to 1e-2, and for a single data set the ratio of the
errors of two solvers is random. The tests therefore compare medians over data sets.
"""

import pytest
import torch
from torch import Tensor

from mige_ext import SSGE, ops, reference
from tests.support.inputs import normal

SIZES = [(64, 8), (64, 64), (128, 16), (256, 16), (256, 64)]
SEEDS = range(9)


def eager_ssge(x: Tensor, threshold: float, power: int = 1) -> tuple[Tensor, Tensor]:
    """The fastest plain PyTorch: two products for H, ``kthvalue`` for the median, ``eigh``."""
    m = x.shape[0]
    x = x - x.mean(0)
    distances = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    i, j = torch.triu_indices(m, m, 1)
    pairs = distances[i, j]
    sigma = pairs.kthvalue((len(pairs) + 1) // 2).values
    k = (-distances.square() / (2 * sigma**2)).exp()
    h = (k.sum(1, keepdim=True) * x - k @ x) / sigma**2
    values, vectors = torch.linalg.eigh(k)
    kept = int((values.flip(0).cumsum(0) < threshold * m).sum()) + 1
    values, vectors = values[m - kept :], vectors[:, m - kept :]
    return -vectors @ ((vectors.mT @ h) / values.unsqueeze(1) ** power), sigma


def relative(got: Tensor, exact: Tensor) -> float:
    return ((got.double() - exact).norm() / exact.norm()).item()


@pytest.mark.parametrize("threshold", [0.9, 0.99])
@pytest.mark.parametrize(("m", "d"), SIZES)
def test_float64_score_agrees_with_the_oracle_to_1e_9(m: int, d: int, threshold: float) -> None:
    for seed in range(2):
        x = normal(m, d, seed=seed)
        exact, _, sigma, rank = reference.ssge(x, threshold=threshold)
        estimator = SSGE(threshold=threshold)
        assert relative(estimator.score(x), exact) <= 1e-9
        diagnostics = estimator.diagnose(x)
        assert diagnostics.rank == rank
        assert relative(diagnostics.bandwidth, sigma) <= 1e-9


@pytest.mark.parametrize(("m", "d"), SIZES)
def test_float64_score_elsewhere_agrees_with_the_oracle_to_1e_9(m: int, d: int) -> None:
    x, q = normal(m, d), normal(40, d, seed=1)
    w, _, sigma, _ = reference.ssge(x, threshold=0.9, power=2)
    exact = reference.rbf_product(q, x, w, bandwidth=sigma)
    assert relative(SSGE(threshold=0.9).fit(x).score(q), exact) <= 1e-9


def test_the_eager_form_is_the_same_estimator() -> None:
    x = normal(64, 16)
    assert relative(eager_ssge(x, 0.99)[0], reference.ssge(x, threshold=0.99)[0]) <= 1e-9


@pytest.mark.parametrize("threshold", [0.9, 0.99])
@pytest.mark.parametrize(("m", "d"), SIZES)
def test_float32_score_loses_at_most_twice_what_eager_pytorch_loses(
    m: int, d: int, threshold: float
) -> None:
    losses = []
    for seed in SEEDS:
        x = normal(m, d, dtype=torch.float32, seed=seed)
        exact, _ = eager_ssge(x.double(), threshold)
        native = relative(SSGE(threshold=threshold).score(x), exact)
        losses.append((native, relative(eager_ssge(x, threshold)[0], exact)))
    native_loss, eager_loss = torch.tensor(losses).median(0).values
    assert native_loss <= 2 * eager_loss


@pytest.mark.parametrize(("m", "d"), [(64, 8), (128, 16), (256, 64)])
def test_float32_score_elsewhere_loses_at_most_twice_what_eager_pytorch_loses(
    m: int, d: int
) -> None:
    losses = []
    for seed in SEEDS:
        x = normal(m, d, dtype=torch.float32, seed=seed)
        q = normal(40, d, dtype=torch.float32, seed=100 + seed)

        def elsewhere(x: Tensor, q: Tensor) -> Tensor:
            w, sigma = eager_ssge(x, 0.9, power=2)
            distances = torch.cdist(q, x, compute_mode="donot_use_mm_for_euclid_dist")
            return (-distances.square() / (2 * sigma**2)).exp() @ w

        exact = elsewhere(x.double(), q.double())
        native = relative(SSGE(threshold=0.9).fit(x).score(q), exact)
        losses.append((native, relative(elsewhere(x, q), exact)))
    native_loss, eager_loss = torch.tensor(losses).median(0).values
    assert native_loss <= 2 * eager_loss


def test_autocast_does_not_reach_the_derivative_of_an_operator() -> None:
    def gradient(inside: bool) -> Tensor:
        x = normal(40, 5, dtype=torch.float32).requires_grad_()
        loss = (ops.squared_distances(x) * normal(40, 40, dtype=torch.float32, seed=1)).sum()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=inside):
            loss.backward()
        assert x.grad is not None
        return x.grad

    assert torch.equal(gradient(True), gradient(False))
