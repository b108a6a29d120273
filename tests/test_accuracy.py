"""The accuracy benchmark: exact scores, filters that are the estimators', and what it writes."""

import pytest
import torch
from conftest import rounding

from benchmarks.distributions import Distribution, Transformed
from benchmarks.families import FAMILIES

for_each_family = pytest.mark.parametrize("name", FAMILIES)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- distributions --------------------------------------------------------------------------------


def within_standard_errors(terms: torch.Tensor, exact: torch.Tensor | float) -> bool:
    """Whether the means of terms over their first dimension are the exact values.

    Five standard errors: one value in two million is farther off by chance.
    """
    error = terms.std(0) / len(terms) ** 0.5
    return bool(((terms.mean(0) - exact).abs() <= 5 * error).all())


@for_each_family
def test_score_is_the_gradient_of_the_log_density(name: str) -> None:
    distribution = FAMILIES[name].distribution
    z = distribution.sample(50, generator()).requires_grad_()
    (exact,) = torch.autograd.grad(distribution.log_density(z).sum(), z)
    got = distribution.score(z.detach())
    assert got.shape == z.shape == (50, distribution.d) and got.dtype == torch.float64
    assert (got - exact).abs().max() <= rounding(z.dtype, z.shape[1]) * exact.abs().max()


@for_each_family
def test_samples_and_score_fit_together_by_steins_identity(name: str) -> None:
    # E[s] = 0 and −E[s uᵀ] = g I: wrong for samples of any other density.
    distribution = FAMILIES[name].distribution
    draw = distribution.draw(4000, generator())
    score = distribution.score(draw.samples)
    assert within_standard_errors(score, 0.0)
    exact = distribution.gradient * torch.eye(distribution.d, dtype=torch.float64)
    assert within_standard_errors(-score.unsqueeze(2) * draw.inputs.unsqueeze(1), exact)


def score_of_y(distribution: Distribution, y: torch.Tensor) -> torch.Tensor:
    """The score of the second half of a pair: of a standard normal, or of its transform."""
    if isinstance(distribution, Transformed):
        t = distribution.transform
        return t.bend(y) - t.inverse(y) * t.slope(y)
    return -y


@pytest.mark.parametrize("kind", ["gaussian", "asinh", "square", "cuberoot", "bimodal"])
def test_the_derivative_of_the_information_is_that_of_the_true_scores(kind: str) -> None:
    for family in FAMILIES.values():
        if family.name.startswith(kind):
            distribution = family.distribution
            draw = distribution.draw(20000, generator())
            assert draw.tangent is not None and distribution.derivative is not None
            terms = (distribution.score(draw.samples) * draw.tangent).sum(1)
            if distribution.paired:  # dI = dH(y) − dH(x, y), and only y moves
                y, moved = (v[:, distribution.d // 2 :] for v in (draw.samples, draw.tangent))
                terms = terms - (score_of_y(distribution, y) * moved).sum(1)
            else:
                terms = -terms
            assert within_standard_errors(terms, distribution.derivative)


def test_the_halves_have_the_same_kinds() -> None:
    kinds = [
        {name.split("-")[0] for name, family in FAMILIES.items() if family.half == half}
        for half in ("chosen", "held-out")
    ]
    assert kinds[0] == kinds[1]
