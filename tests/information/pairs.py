"""Pairs (x, z) for the tests of values in nats, and the accepted error of an estimate."""

from typing import Any

from torch import Tensor

from tests.support.inputs import normal

#: The accepted error in standard errors. By chance, 1 estimate in 15,000 has a larger error.
ERRORS = 4


def gaussian_pair(m: int, d: int, rho: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Pairs with correlation ρ between the i-th columns: I = −d/2 log(1 − ρ²)."""
    x = normal(m, d, seed=seed)
    return x, rho * x + (1 - rho**2) ** 0.5 * normal(m, d, seed=seed + 1000)


def curved(m: int = 200) -> tuple[Tensor, Tensor]:
    x = normal(m, 2)
    return x, x.square() + x.flip(1) + 0.5 * normal(m, 2, seed=1)


def near(estimate: Any, truth: float, slack: float = 0.0) -> bool:
    return bool((estimate.value - truth).abs() <= ERRORS * estimate.standard_error + slack)
