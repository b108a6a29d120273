"""The families of the accuracy benchmark: distributions by name, in two halves.

In this code, a family is one distribution: a kind (docs/glossary.md) with a dimension, such as
``bimodal-5``.

Settings of the estimators may be chosen on the half "chosen". The half "held-out" only tests them.
Both halves have the same kinds with other dimensions and parameters.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Generator

from benchmarks.accuracy.distributions import (
    ASINH,
    CUBE_ROOT,
    DTYPE,
    SQUARE,
    Banana,
    Bimodal,
    CorrelatedGaussian,
    Distribution,
    GaussianMixture,
    Laplace,
    Student,
    Transform,
    Transformed,
    normal,
)

Half: TypeAlias = Literal["chosen", "held-out"]


def random_mixture(d: int, components: int, seed: int) -> GaussianMixture:
    """A mixture of random shapes with means at distance 3 from the origin."""
    g = Generator().manual_seed(seed)
    means = 3 * torch.nn.functional.normalize(normal(components, d, generator=g), dim=-1)
    shape = normal(components, d, d, generator=g) / (2 * math.sqrt(d))
    shape = shape + 0.7 * torch.eye(d, dtype=DTYPE)
    weights = torch.full((components,), 1 / components, dtype=DTYPE)
    return GaussianMixture(weights, means, shape @ shape.mT)


def digits_mixture(d: int, seed: int) -> GaussianMixture:
    """Ten Gaussians, fitted to d principal components of scikit-learn's 1,797 digits."""
    from sklearn.datasets import load_digits
    from sklearn.decomposition import PCA
    from sklearn.mixture import GaussianMixture as Fit

    images = load_digits().data / 16
    components = PCA(d, svd_solver="full").fit_transform(images)
    fit = Fit(10, random_state=seed).fit(components)
    weights, means, covariances = map(
        torch.from_numpy, (fit.weights_, fit.means_, fit.covariances_)
    )
    return GaussianMixture(weights, means, covariances)


@dataclass(frozen=True)
class Family:
    """A distribution with a name.

    Attributes:
        name: Kind and dimension, such as ``bimodal-5``.
        half: The half that the family belongs to.
        make: Function that makes the distribution.
    """

    name: str
    half: Half
    make: Callable[[], Distribution]

    @cached_property
    def distribution(self) -> Distribution:
        """The distribution, which is made at the first use and then kept."""
        return self.make()


def _families() -> dict[str, Family]:
    def gaussian(rho: float) -> Callable[[int], Distribution]:
        return lambda d: CorrelatedGaussian(d, rho)

    def transformed(transform: Transform, rho: float) -> Callable[[int], Distribution]:
        return lambda d: Transformed(CorrelatedGaussian(d, rho), transform)

    table: list[tuple[str, Half, Callable[[int], Distribution], tuple[int, ...]]] = [
        ("gaussian", "chosen", gaussian(0.7), (4, 20, 64)),
        ("gaussian", "held-out", gaussian(0.6), (10, 40, 60)),
        ("asinh", "chosen", transformed(ASINH, 0.7), (4, 20)),
        ("asinh", "held-out", transformed(ASINH, 0.6), (10, 40)),
        ("square", "chosen", transformed(SQUARE, 0.7), (10,)),
        ("square", "held-out", transformed(SQUARE, 0.6), (20,)),
        ("cuberoot", "chosen", transformed(CUBE_ROOT, 0.7), (20,)),
        ("cuberoot", "held-out", transformed(CUBE_ROOT, 0.6), (10,)),
        ("bimodal", "chosen", lambda d: Bimodal(d, 1.5), (2, 10)),
        ("bimodal", "held-out", lambda d: Bimodal(d, 1.25), (5, 20)),
        ("mixture", "chosen", lambda d: random_mixture(d, 4, seed=5), (5, 20)),
        ("mixture", "held-out", lambda d: random_mixture(d, 3, seed=7), (10, 32)),
        ("student", "chosen", lambda d: Student(d, 5), (3,)),
        ("student", "held-out", lambda d: Student(d, 4), (10,)),
        ("banana", "chosen", lambda d: Banana(d, 0.5), (2,)),
        ("banana", "held-out", lambda d: Banana(d, 0.4), (10,)),
        ("laplace", "chosen", Laplace, (10,)),
        ("laplace", "held-out", Laplace, (5,)),
        ("digits", "chosen", lambda d: digits_mixture(d, seed=0), (8,)),
        ("digits", "held-out", lambda d: digits_mixture(d, seed=1), (16,)),
    ]
    families = [
        Family(f"{kind}-{d}", half, partial(make, d))
        for kind, half, make, dimensions in table
        for d in dimensions
    ]
    return {family.name: family for family in families}


FAMILIES = _families()


def stream(name: str, m: int, seed: int) -> torch.Generator:
    """The random generator of one data set, independent of all other data sets."""
    state = np.random.SeedSequence([seed, m, *name.encode()]).generate_state(1)
    return torch.Generator().manual_seed(int(state[0]))
