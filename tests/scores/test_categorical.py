"""The Gaussian classifiers behind the gradient of I(s; z) for a category s.

A cell is a pair of a class and a condition, and `conditions` has the condition of each cell.
"""

import math

import pytest
import torch
from torch import Tensor

from mige_ext.scores.categorical import SCALE_SAMPLES, STRENGTHS, _Classes, class_departure
from tests.support.accuracy import rounding
from tests.support.inputs import normal


def classes_of(z: Tensor, cells: Tensor, conditions: Tensor) -> _Classes:
    owners = torch.arange(len(conditions))
    return _Classes.of(z.unsqueeze(0), cells.unsqueeze(0), owners, conditions, STRENGTHS)


def evidence_by_refits(fitted: _Classes, cells: Tensor, conditions: Tensor) -> Tensor:
    """The evidence of every candidate: all Gaussians are fitted without each sample, in turn."""
    z, residual = fitted.centered[0], fitted.residual[0]
    m, d = z.shape
    sizes = torch.bincount(cells, minlength=len(conditions))
    freedom = m - int((sizes > 0).sum())
    total = torch.zeros(2 * len(STRENGTHS), dtype=z.dtype)
    for i in range(m):
        others = torch.arange(m) != i
        n = int(sizes[cells[i]])
        loss = n / (n - 1) * torch.outer(residual[i], residual[i])
        pooled = (freedom * torch.eye(d, dtype=z.dtype) - loss) / (freedom - 1)
        logits = []
        for k in range(len(conditions)):
            of = z[others & (cells == k)]
            if conditions[k] != conditions[cells[i]] or len(of) == 0:
                continue
            centered = of - of.mean(0)
            scatter, freedom_k = centered.mT @ centered, len(of) - 1
            scale = (scatter.trace() + SCALE_SAMPLES * d) / ((freedom_k + SCALE_SAMPLES) * d)
            for t in (1.0, scale):
                for nu in STRENGTHS:
                    prior = nu * d
                    covariance = (
                        t * pooled if math.isinf(nu)
                        else (scatter + prior * t * pooled) / (freedom_k + prior)
                    )  # fmt: skip
                    density = torch.distributions.MultivariateNormal(of.mean(0), covariance)
                    logits.append(density.log_prob(z[i]) + math.log(len(of) + 0.5))
        own = int((conditions[: cells[i]] == conditions[cells[i]]).sum())
        table = torch.stack(logits).reshape(-1, len(total))
        total += table.log_softmax(0)[own]
    return total


@pytest.mark.parametrize("conditions", [[0, 0, 0, 0], [0, 1, 0, 1]], ids=["one", "two"])
@pytest.mark.parametrize("d", [1, 3])
def test_the_evidence_is_that_of_fits_without_each_sample(d: int, conditions: list[int]) -> None:
    cells = torch.arange(30) % 4
    z = normal(30, d) + 1.5 * normal(4, d, seed=1)[cells]
    given = torch.tensor(conditions)
    fitted = classes_of(z, cells, given)
    expected = evidence_by_refits(fitted, cells, given)
    got = fitted.evidence()[0]
    assert (got - expected).norm() <= rounding(z.dtype, 30 * 30) * expected.norm()


def test_the_evidence_of_the_frequencies_is_that_of_the_other_samples() -> None:
    cells = torch.tensor([0] * 6 + [1] * 3 + [2])
    counts = torch.tensor([6.5, 3.5, 1.5]).double()
    expected = sum(
        math.log((counts[c] - 1) / (counts.sum() - 1)) for c in cells.tolist()
    )  # fmt: skip
    got = classes_of(normal(10, 2), cells, torch.zeros(3).long()).evidence_of_frequencies()
    assert abs(float(got) - expected) < 1e-12 * abs(expected)


def test_two_modes_of_a_class_are_found() -> None:
    cells = (torch.arange(80) >= 40).long()
    mode = torch.arange(80) % 2
    axis = torch.nn.functional.one_hot(cells, 3).double()
    z = (12.0 * mode - 6).unsqueeze(-1) * axis + normal(80, 3)
    modes = classes_of(z, cells, torch.zeros(2).long()).modes()[0]
    assert torch.equal(modes // 2, cells)
    for c in (0, 1):
        found = modes[cells == c] % 2
        assert torch.equal(found, mode[cells == c]) or torch.equal(found, 1 - mode[cells == c])


def test_classes_with_two_modes_have_the_gradient_of_their_mixture() -> None:
    # XOR: each class has two modes, on an axis of its own.
    cosines = []
    for seed in range(3):
        cells, mode = torch.arange(240) % 2, torch.arange(240) // 2 % 2
        means = 2.2 * torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]], dtype=torch.float64)
        means = torch.cat((means, torch.zeros(4, 4).double()), 1)
        z = (means[2 * cells + mode] + normal(240, 6, seed=seed)).requires_grad_()
        logits = -torch.cdist(z, means).square() / 2
        own = logits.unflatten(1, (2, 2)).logsumexp(-1)
        posterior = own.gather(1, cells.unsqueeze(1)).squeeze(1) - logits.logsumexp(-1)
        (exact,) = torch.autograd.grad(posterior.sum(), z)
        got = -class_departure(z.detach()[None], cells[None], torch.zeros(2).long())[0]
        cosines.append(torch.nn.functional.cosine_similarity(got.flatten(), exact.flatten(), 0))
    assert torch.stack(cosines).min() > 0.85
