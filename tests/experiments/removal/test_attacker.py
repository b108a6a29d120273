"""Attackers find planted leaks, and nothing in noise."""

import pytest
import torch
from torch import Tensor

from mige_ext.experiments.data import images as data
from mige_ext.experiments.removal.attacker import Codes, attack
from mige_ext.experiments.removal.nuisances import (
    NUISANCES,
    Batch,
    Images,
    Structural,
    bins_of,
)

pytestmark = pytest.mark.usefixtures("one_thread")  # the networks are too small for more


@pytest.fixture(scope="module")
def digits() -> Images:
    return Images(data.load("digits"), "rotation")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def draw(problem: Images | Structural, count: int, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(problem.count("train"), (count,), generator=generator)
    return problem.draw("train", rows, generator)


def codes(leak: float, *, hidden: float = 1.0, count: int = 3000, seed: int = 0) -> Codes:
    """z of 4 dimensions; the last tells √2 cos 2πu by this much, at this scale."""
    u = torch.rand(count, 1, generator=torch.Generator().manual_seed(seed))
    s = NUISANCES["rotation"].scale(u)
    z = normal(count, 4, seed=seed + 1)
    z[:, 3] = hidden * (leak * s[:, 0] + z[:, 3]) + z[:, 0] * (hidden != 1)
    return Codes(z, s, bins_of(u))


def test_attackers_find_nothing_in_noise() -> None:
    leak = attack(codes(0), codes(0, seed=7), epochs=3)
    assert leak.nats < 0.01 and leak.r2 < 0.01


@pytest.mark.parametrize("hidden", [1.0, 1e-3])
def test_attackers_find_a_planted_leak_also_in_directions_of_little_variance(
    hidden: float,
) -> None:
    leak = attack(codes(3, hidden=hidden), codes(3, hidden=hidden, seed=7), epochs=6)
    # I(z; s) for cosine plus noise at 3 to 1 is above half a nat; R² of the cosine is 0.9.
    assert leak.nats > 0.5
    assert 0.4 < leak.r2 < 0.5
    if hidden < 1:
        assert "standardized" not in leak.attacker


def test_attacks_are_deterministic_and_leave_the_global_seed_alone() -> None:
    state = torch.get_rng_state()
    first, second = (attack(codes(1), codes(1, seed=7), epochs=1, seed=5) for _ in range(2))
    assert first == second
    assert torch.equal(torch.get_rng_state(), state)
