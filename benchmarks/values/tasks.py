"""Tasks with a known mutual information: the tasks of benchmark-mi, and tasks of this file.

The constants of ``estimate_mutual_information`` were chosen on the tasks of benchmark-mi with an
even number ("even"). Its three methods were chosen on all tasks of benchmark-mi. The tasks of this
file ("own") had no influence on any choice.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.values.samples import key

Array = NDArray[np.float64]
#: A function of the number of samples n and a seed, which returns x, (n, d_x), and z, (n, d_z).
Sample = Callable[[int, int], tuple[Array, Array]]


@dataclass(frozen=True)
class Task:
    """A distribution of pairs.

    Attributes:
        name: Name in the table.
        source: "even" or "odd" for tasks of benchmark-mi, by their number; "own" for tasks of this
            file, "copula" for Gaussian pairs, "independent" for independent pairs.
        truth: The mutual information in nats.
        sample: Function that draws samples.
    """

    name: str
    source: str
    truth: float
    sample: Sample


def of_package(path: Path) -> tuple[Task, ...]:
    """The tasks in a file that ``samples.py`` wrote."""
    arrays = np.load(path)
    names = [name.removesuffix("|truth") for name in arrays.files if name.endswith("|truth")]

    def sample(name: str, n: int, seed: int) -> tuple[Array, Array]:
        x, z = (arrays[key(name, n, seed, variable)] for variable in "xz")
        return x, z

    def task(number: int, name: str) -> Task:
        half = "odd" if number % 2 else "even"
        return Task(
            name, half, float(arrays[f"{name}|truth"]), lambda n, seed: sample(name, n, seed)
        )

    return tuple(task(number, name) for number, name in enumerate(names))


# --- Gaussian and independent pairs ---------------------------------------------------------------


def gaussian(source: str, d: int, rho: float) -> Task:
    """Pairs with correlation ρ between the i-th columns of x and z."""

    def sample(n: int, seed: int) -> tuple[Array, Array]:
        x, noise = np.random.default_rng([seed, d]).standard_normal((2, n, d))
        return x, rho * x + math.sqrt(1 - rho**2) * noise

    name = f"gaussian-{d}-{d}-{rho:g}" if rho else f"independent-{d}-{d}"
    return Task(name, source, -d / 2 * math.log(1 - rho**2), sample)


# --- tasks of our own -----------------------------------------------------------------------------

_GRID = np.linspace(-8, 8, 1601)


def _grid_information(conditional: Array, z: Array) -> float:
    """I(x; z) for x ~ N(0, 1), from p(z | x) with a row per x in ``_GRID`` and a column per z."""
    weight = np.exp(-(_GRID**2) / 2)
    weight /= weight.sum()
    marginal = weight @ conditional
    # Densities below the range of float64 add nothing.
    least = np.finfo(np.float64).tiny
    ratio = np.maximum(conditional, least) / np.maximum(marginal, least)
    terms = conditional * np.log(ratio)
    return float(np.trapezoid(weight @ terms, z))


def _normal(z: Array, mean: Array, deviation: Array | float) -> Array:
    normalized = (z - mean[:, None]) / np.reshape(deviation, (-1, 1))
    return np.exp(-(normalized**2) / 2) / np.reshape(deviation, (-1, 1)) / math.sqrt(2 * math.pi)


def _channel(
    name: str, d: int, truth: float, output: Callable[[Array, Array, Array], Array]
) -> Task:
    """A task with d independent pairs of columns, z = output(x, noise, random signs)."""

    def sample(n: int, seed: int) -> tuple[Array, Array]:
        generator = np.random.default_rng([seed, len(name)])
        x, noise = generator.standard_normal((2, n, d))
        return x, output(x, noise, generator.choice([-1.0, 1.0], (n, d)))

    return Task(name, "own", d * truth, sample)


def _uniform(n: int, seed: int) -> tuple[Array, Array]:
    x, noise = np.random.default_rng([seed, 1]).random((2, n, 1))
    return x, x + (noise - 0.5) / 2


def _scale_mixture(n: int, seed: int, d: int) -> tuple[Array, Array]:
    generator = np.random.default_rng([seed, d, 7])
    radius = np.sqrt(generator.exponential(size=(n, 1)))
    x, z = generator.standard_normal((2, n, d)) * radius
    return x, z


def _scale_mixture_information(d: int) -> float:
    """I(x; z), computed as the mean log-ratio of densities over 100,000 samples."""
    x, z = _scale_mixture(100_000, 0, d)
    log_scale = np.linspace(-16, 4, 401)

    def log_density(v: Array) -> Array:
        squares = (v**2).sum(1)[:, None] / 2
        total = np.zeros(len(v))
        for w in log_scale:  # ∫ e^{−s} s^{−k/2} e^{−r²/2s} ds, with s = e^w
            s = math.exp(w)
            total += np.exp(-s + w * (1 - v.shape[1] / 2) - squares[:, 0] / s)
        return np.log(total * (log_scale[1] - log_scale[0])) - v.shape[1] / 2 * math.log(
            2 * math.pi
        )

    return float((log_density(np.hstack([x, z])) - log_density(x) - log_density(z)).mean())


@cache
def own() -> tuple[Task, ...]:
    """Tasks on which no setting of an estimator was chosen."""
    z = np.sinh(np.linspace(-9, 9, 3001))
    square = _grid_information(_normal(z, _GRID**2, 0.3), z)
    scale = _grid_information(_normal(z, 0 * _GRID, np.exp(_GRID)), z)
    sign = _grid_information((_normal(z, 0.9 * _GRID, 0.4) + _normal(z, -0.9 * _GRID, 0.4)) / 2, z)
    return (
        gaussian("own", 10, 0.4),
        Task("uniform-noise-1-1", "own", math.log(2) + 0.25, _uniform),
        _channel("square-1-1", 1, square, lambda x, noise, _: x**2 + 0.3 * noise),
        _channel("square-4-4", 4, square, lambda x, noise, _: x**2 + 0.3 * noise),
        _channel("scale-1-1", 1, scale, lambda x, noise, _: np.exp(x) * noise),
        _channel("scale-3-3", 3, scale, lambda x, noise, _: np.exp(x) * noise),
        _channel("sign-1-1", 1, sign, lambda x, noise, signs: 0.9 * signs * x + 0.4 * noise),
        _channel("sign-3-3", 3, sign, lambda x, noise, signs: 0.9 * signs * x + 0.4 * noise),
        Task(
            "laplace-2-2",
            "own",
            _scale_mixture_information(2),
            lambda n, seed: _scale_mixture(n, seed, 2),
        ),
        Task(
            "laplace-6-6",
            "own",
            _scale_mixture_information(6),
            lambda n, seed: _scale_mixture(n, seed, 6),
        ),
    )


#: Gaussian copulas, for the coverage of the standard error.
COPULAS = tuple(
    gaussian("copula", d, rho)
    for d, rho in ((1, 0.5), (1, 0.9), (3, 0.5), (5, 0.8), (10, 0.5), (20, 0.3))
)
INDEPENDENT: Sequence[Task] = tuple(gaussian("independent", d, 0.0) for d in (1, 2, 4, 8, 16, 32))
