"""Sliced score matching: its objective, its training, and its independence of global state."""

import pickle
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import jacrev, vmap

import mige_ext as mige
from mige_ext import FittedNetwork, SlicedScoreMatching
from mige_ext.scores.network import _network
from tests.support.accuracy import rounding, same_bits
from tests.support.inputs import for_each_dtype, normal

SMALL: dict[str, Any] = {"hidden": 16, "steps": 40}


def relative(error: Tensor, size: Tensor) -> float:
    return (error.norm() / size.norm()).item()


# --- the objective --------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("variance_reduced", [True, False])
def test_the_objective_is_that_of_sliced_score_matching(
    variance_reduced: bool, layers: int
) -> None:
    z, v = normal(9, 4), normal(9, 4, seed=1).sign()
    sizes = [4, *[8] * layers, 4]
    weights = tuple(normal(a, b, seed=i) for i, (a, b) in enumerate(pairwise(sizes)))
    biases = tuple(normal(1, b, seed=9 + i) for i, b in enumerate(sizes[1:]))
    estimator = SlicedScoreMatching(layers=layers, variance_reduced=variance_reduced)
    got = estimator._objective(z, v, weights, biases)
    s = _network(z, weights, biases)
    jacobian = vmap(jacrev(lambda row: _network(row.unsqueeze(0), weights, biases).squeeze(0)))(z)
    slope = torch.einsum("ma,mab,mb->m", v, jacobian, v)
    square = s.square().sum(-1) if variance_reduced else (s * v).sum(-1).square()
    terms = slope + square / 2
    size = slope.abs().max() + square.max()
    assert (got - terms.mean()).abs() <= rounding(z.dtype, 64) * size


def test_training_lowers_the_objective_and_finds_the_score() -> None:
    # The first column is the mixture ½N(−2, 1) + ½N(2, 1), whose score is −x + 2 tanh 2x.
    x = normal(1024, 2)
    x[:, 0] += 2 * normal(1024, seed=1).sign()
    exact = -x.clone()
    exact[:, 0] += 2 * torch.tanh(2 * x[:, 0])
    untrained, trained = (SlicedScoreMatching(steps=n).fit(x) for n in (1, 200))
    assert trained.diagnostics.loss < untrained.diagnostics.loss
    assert relative(trained.score() - exact, exact) < relative(untrained.score() - exact, exact) / 2
    q = torch.tensor([[0.5, 1.0], [-2.5, -0.5]]).double()
    expected = -q + torch.tensor([[2.0, 0.0]]) * torch.tanh(2 * q)
    assert relative(trained.score(q) - expected, expected) < 0.5


def test_an_untrained_score_is_that_of_a_normal_distribution() -> None:
    x = 3 * normal(200, 2) + 5
    score = SlicedScoreMatching(steps=1, learning_rate=1e-300).score(x)
    expected = -(x - x.mean(0)) / x.var(0, correction=0)
    assert relative(score - expected, expected) <= rounding(x.dtype, 200)


# --- independence ---------------------------------------------------------------------------------


@for_each_dtype
def test_the_seed_determines_the_score_and_the_global_state_stays(dtype: torch.dtype) -> None:
    x = normal(40, 3, dtype=dtype)
    state = torch.get_rng_state()
    first = SlicedScoreMatching(**SMALL).score(x)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    assert torch.equal(SlicedScoreMatching(**SMALL).score(x), first)
    assert not torch.equal(SlicedScoreMatching(seed=1, **SMALL).score(x), first)
    assert not torch.equal(SlicedScoreMatching(projections=2, **SMALL).score(x), first)
    assert first.dtype == dtype


def test_it_trains_where_gradients_are_off() -> None:
    x = normal(40, 3, dtype=torch.float32).requires_grad_()
    estimator = SlicedScoreMatching(**SMALL)
    expected = estimator.score(x.detach()), estimator.fit(x.detach()).score(x.detach() + 1)
    for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode,
                 lambda: torch.autocast("cpu", torch.bfloat16)):  # fmt: skip
        with mode():
            got = estimator.score(x), estimator.fit(x).score(x + 1)
        assert same_bits(got, expected) and not any(t.requires_grad for t in got)
    with torch.inference_mode():
        inference = x.detach() + 0
    assert torch.equal(estimator.score(inference), expected[0])


def test_it_says_that_it_cannot_be_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    with pytest.raises(RuntimeError, match=r"^SlicedScoreMatching .* cannot be compiled"):
        SlicedScoreMatching(**SMALL).score(normal(40, 3))


@pytest.mark.parametrize("batch", [(3,), (2, 2), (0,)], ids=str)
def test_leading_dimensions_are_groups(batch: tuple[int, ...]) -> None:
    x, q = normal(*batch, 30, 3), normal(*batch, 5, 3, seed=1)
    estimator = SlicedScoreMatching(hidden=8, steps=10)
    fitted = estimator.fit(x)
    scores, elsewhere = fitted.score(), fitted.score(q)
    assert scores.shape == x.shape and elsewhere.shape == q.shape
    assert fitted.diagnostics.loss.shape == fitted.diagnostics.calibration.shape == batch
    for index in torch.cartesian_prod(*(torch.arange(n) for n in batch)).reshape(-1, len(batch)):
        i = tuple(index.tolist())
        alone = estimator.fit(x[i])
        # Adam divides gradients by their size, so small gradients have the same effect as large
        # ones.
        bound = rounding(x.dtype, 90) * 10 / torch.finfo(x.dtype).eps ** 0.25
        assert relative(scores[i] - alone.score(), scores[i]) <= bound
        assert relative(elsewhere[i] - alone.score(q[i]), elsewhere[i]) <= bound


@for_each_dtype
def test_size_and_offset_of_the_samples_do_not_matter(dtype: torch.dtype) -> None:
    shift = 2.0**10
    x = (normal(40, 3, dtype=dtype) + shift) - shift
    score = SlicedScoreMatching(**SMALL).score
    expected = score(x)
    assert torch.equal(score(x * 2.0**100), expected / 2.0**100)
    assert relative(score(x + shift) - expected, expected) <= torch.finfo(dtype).eps ** 0.5


@pytest.mark.parametrize("value", [0.0, 0.1, 1e30])
@for_each_dtype
def test_constant_columns_and_equal_samples_have_score_zero(
    dtype: torch.dtype, value: float
) -> None:
    x = normal(20, 3, dtype=dtype)
    x[:, 1] = value
    score = SlicedScoreMatching(**SMALL).score(x)
    assert not score[:, 1].any() and score[:, [0, 2]].all() and score.isfinite().all()
    fitted = SlicedScoreMatching(**SMALL).fit(torch.full((7, 3), value, dtype=dtype))
    assert not fitted.score().any() and not fitted.score(x).any()


# --- settings and fits ----------------------------------------------------------------------------


def test_settings_are_values() -> None:
    assert SlicedScoreMatching(seed=3) == SlicedScoreMatching(seed=3) != SlicedScoreMatching()
    twin = pickle.loads(pickle.dumps(SlicedScoreMatching(hidden=3)))
    assert twin == SlicedScoreMatching(hidden=3)
    assert isinstance(SlicedScoreMatching(), mige.ScoreEstimator)


@pytest.mark.parametrize("layers", [1, 12])
def test_fits_can_be_pickled_and_restored_from_their_state(layers: int) -> None:
    x, q = normal(2, 20, 3), normal(2, 5, 3, seed=1)
    fitted = SlicedScoreMatching(hidden=4, layers=layers, steps=3).fit(x)
    state = fitted.state_dict()
    assert all(isinstance(value, Tensor) for value in state.values())
    assert state["weights.1"] is fitted.weights[1]
    for twin in (pickle.loads(pickle.dumps(fitted)), FittedNetwork.from_state_dict(state)):
        assert len(twin.weights) == len(twin.biases) == layers + 1
        assert torch.equal(twin.score(q), fitted.score(q))
        assert torch.equal(twin.diagnostics.loss, fitted.diagnostics.loss)
