"""Penalties on the information that a representation has about a nuisance."""

import pytest
import torch
from torch import Tensor

from mige_ext.experiments.removal.methods import METHODS, Club, shuffled
from mige_ext.experiments.removal.nuisances import (
    Batch,
    Images,
    Structural,
)
from tests.experiments.removal.inputs import draw, normal

pytestmark = pytest.mark.usefixtures("one_thread")  # the networks are too small for more threads
PENALIZED = [name for name, method in METHODS.items() if method.make]
# Methods that see which s belongs to which z.
UNINFORMED = ("mige-permuted", "contraction", "entropy", "center")
INFORMED = [name for name in PENALIZED if name not in UNINFORMED]


def planted(problem: Structural, count: int = 256, seed: int = 0) -> tuple[Tensor, Batch]:
    """z with noise, whose first column contains s, and whose second column contains s²."""
    batch = draw(problem, count, seed)
    z = normal(count, 4, seed=seed)
    z[:, :1] += batch.s
    z[:, 1:2] += batch.s.square()
    return (z - z.mean(0)) / z.std(0), batch


def linear_r2(z: Tensor, s: Tensor) -> float:
    """Fraction of the variance of s that is linear in z."""
    left = s - z @ torch.linalg.lstsq(z, s).solution
    return 1 - (left.var() / s.var()).item()


@pytest.mark.parametrize("method", INFORMED)
def test_steps_down_the_penalty_reduce_dependence(method: str) -> None:
    problem = Structural()
    make = METHODS[method].make
    assert make is not None
    z, batch = planted(problem)
    before = linear_r2(z, batch.s)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        penalty = make(problem, 4)
        z.requires_grad_()
        for _ in range(30):  # trains the networks of penalties that have networks
            penalty(z, batch)
        for _ in range(10):
            z.requires_grad_()
            (gradient,) = torch.autograd.grad(penalty(z, batch), z)
            z = z.detach() - 0.1 * gradient / gradient.square().mean().sqrt()
            z = (z - z.mean(0)) / z.std(0)  # as BatchNorm would
    assert linear_r2(z, batch.s) < 0.9 * before


@pytest.mark.parametrize("method", PENALIZED)
def test_penalties_are_scalars_with_gradients_in_z_alone(method: str, digits: Images) -> None:
    make = METHODS[method].make
    assert make is not None
    with torch.random.fork_rng():
        torch.manual_seed(0)
        batch = draw(digits, 64)
        z = (normal(64, 4) ** 3).requires_grad_()  # not Gaussian, for contraction
        value = make(digits, 4)(z, batch)
    assert value.shape == ()
    (gradient,) = torch.autograd.grad(value, z)
    assert gradient.isfinite().all() and gradient.abs().max() > 0


def test_contraction_does_not_depend_on_the_nuisance_or_the_label(digits: Images) -> None:
    make = METHODS["contraction"].make
    assert make is not None
    gradients = []
    for seed in (0, 1):
        z = (normal(64, 4) ** 3).requires_grad_()
        (gradient,) = torch.autograd.grad(make(digits, 4)(z, draw(digits, 64, seed)), z)
        gradients.append(gradient)
    assert torch.equal(*gradients)


def test_descent_of_contraction_sharpens_clusters() -> None:
    make = METHODS["contraction"].make
    assert make is not None
    side = normal(256, 2).sign()
    z, batch = side + 0.4 * normal(256, 2, seed=1), draw(Structural(), 256)

    def within(z: Tensor) -> float:
        return (z - side * (z * side).mean(0)).square().mean().item()

    before = within(z)
    for _ in range(5):
        z.requires_grad_()
        (gradient,) = torch.autograd.grad(make(Structural(), 2)(z, batch), z)
        z = z.detach() - 0.03 * len(z) * gradient
        z = (z - z.mean(0)) / z.std(0)
    assert within(z) < 0.5 * before


def test_shuffled_keeps_the_values_of_each_label_and_nothing_else() -> None:
    label = torch.arange(900) % 3
    s = torch.stack([label, torch.arange(900)], 1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first, second = shuffled(s, label), shuffled(s, label)
    assert torch.equal(first[:, 0], label)
    assert torch.equal(first[:, 1].sort().values, s[:, 1])
    assert not torch.equal(first, second)
    for of in range(3):
        before, after = s[label == of, 1], first[label == of, 1]
        pairs = torch.stack([before, after]).double()
        assert abs(torch.corrcoef(pairs)[0, 1]) < 0.2


@pytest.mark.parametrize("given_label", [False, True])
def test_the_permuted_control_removes_no_dependence(given_label: bool) -> None:
    problem = Structural()
    problem.given_label = given_label
    make = METHODS["mige-permuted"].make
    assert make is not None
    batch = draw(problem, 256)
    # A Gaussian z has no clusters, so the gradient has little besides noise.
    z = batch.s + 0.5 * normal(256, 1)
    z = ((z - z.mean(0)) / z.std(0)).requires_grad_()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        gradients = {}
        for method in ("mige", "mige-permuted"):
            penalty = METHODS[method].build(z.device, problem, 1)
            assert penalty is not None
            drawn = [torch.autograd.grad(penalty(z, batch), z)[0] for _ in range(8)]
            gradients[method] = torch.stack(drawn).mean(0)
    towards = {name: (g * batch.s).sum().item() for name, g in gradients.items()}
    assert towards["mige"] > 0
    assert abs(towards["mige-permuted"]) < 0.2 * towards["mige"]


def test_club_is_its_mean_over_all_pairs(digits: Images) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        club = Club(digits, 4)
    z, batch = normal(32, 4), draw(digits, 32)
    mean, log_variance = club.moments(z)
    variance = log_variance.exp()
    log_q = -(batch.s[None] - mean[:, None]).square() / (2 * variance[:, None])  # up to log σ
    pairs = log_q.sum(-1)
    torch.testing.assert_close(club.penalty(z, batch), pairs.diagonal().mean() - pairs.mean())


def test_all_grids_have_the_same_size() -> None:
    searched = {name for name, method in METHODS.items() if method.strengths != (0.0,)}
    assert searched == set(METHODS) - {"none", "leace"}
    assert {len(METHODS[name].strengths) for name in searched} == {4}
