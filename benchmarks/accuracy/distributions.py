"""Distributions whose score ``∇ log q`` is known.

d is the dimension of a whole sample. A correlated Gaussian with d = 20 is therefore a pair (x, y)
with ten coordinates each.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

DTYPE = torch.float64


@dataclass(frozen=True)
class Draw:
    """Samples, with the quantities from which their score gives gradients of the information.

    An encoder maps inputs u to the code ``t(v)`` in k dimensions, with ``v = A u + noise`` and a
    function t of each coordinate. The code is y for a pair z = (x, y), and z otherwise. For a
    density without an encoder, u = z and A is the identity matrix.

    Attributes:
        samples: z, (M, d).
        inputs: u, (M, k).
        slope: ``t'(v)``, (M, k).
        tangent: Derivative of the code with respect to a parameter θ of the density, (M, k), with
            fixed random numbers; None without θ.
    """

    samples: Tensor
    inputs: Tensor
    slope: Tensor
    tangent: Tensor | None = None


class Distribution(ABC):
    """A density on ``R^d`` with a sampler and an exact score.

    Attributes:
        d: Dimensions.
        paired: Whether z = (x, y) is a pair, whose information is I(x; y). Otherwise the
            information is I(u; z) (:class:`Draw` defines u and A).
        gradient: g, where g times the identity matrix is the gradient of the information with
            respect to A. Without an encoder, this is the gradient of H(Az), and g = 1.
        derivative: dI/dθ in nats; None without θ.
    """

    d: int
    paired: bool = False
    gradient: float = 1.0
    derivative: float | None = None

    @abstractmethod
    def draw(self, m: int, generator: Generator) -> Draw:
        """Draw M samples with inputs and tangents, float64."""

    @abstractmethod
    def log_density(self, z: Tensor) -> Tensor:
        """``log q(z)`` up to a constant, (M, d) -> (M)."""

    @abstractmethod
    def score(self, z: Tensor) -> Tensor:
        """``∇ log q(z)``, (M, d) -> (M, d)."""

    def sample(self, m: int, generator: Generator) -> Tensor:
        """Draw M samples, (M, d), float64."""
        return self.draw(m, generator).samples


def _without_encoder(z: Tensor) -> Draw:
    return Draw(z, z, torch.ones_like(z))


class Paired(Distribution):
    """A density of pairs z = (x, y), of d/2 dimensions each, with a known score of y."""

    paired = True

    @abstractmethod
    def marginal_score(self, y: Tensor) -> Tensor:
        """The score of y alone, (M, d/2) -> (M, d/2)."""


class CorrelatedGaussian(Paired):
    """z = (x, y) with ``y = ρ x + √(1 − ρ²) ε``, and standard normal x and ε in d/2 dimensions.

    ``s = −(x − ρ y, y − ρ x) / (1 − ρ²)`` and ``dI/dρ = (d/2) ρ / (1 − ρ²)``. With the mean A x of
    y instead of ρ x, ``I = ½ log det(E + A Aᵀ / (1 − ρ²))``, where E is the identity matrix. At
    A = ρE the gradient of I with respect to A is ρE.
    """

    def __init__(self, d: int, rho: float) -> None:
        if d % 2:
            raise ValueError(f"d must be even, got {d}")
        self.d, self.rho, self.gradient = d, rho, rho
        self.derivative = d / 2 * rho / (1 - rho**2)

    def draw(self, m: int, generator: Generator) -> Draw:
        """Draw z with u = x and ``∂y/∂ρ = x − ρ ε / √(1 − ρ²)``."""
        x, noise = normal(m, self.d, generator=generator).chunk(2, -1)
        rest = math.sqrt(1 - self.rho**2)
        z = torch.cat((x, self.rho * x + rest * noise), -1)
        return Draw(z, x, torch.ones_like(x), x - self.rho / rest * noise)

    def log_density(self, z: Tensor) -> Tensor:
        """``−(‖x‖² + ‖y‖² − 2ρ x·y) / 2(1 − ρ²)``."""
        x, y = z.chunk(2, -1)
        form = (x.square() + y.square() - 2 * self.rho * x * y).sum(-1)
        return -form / 2 / (1 - self.rho**2)

    def score(self, z: Tensor) -> Tensor:
        """``−Σ⁻¹ z``."""
        x, y = z.chunk(2, -1)
        return -torch.cat((x - self.rho * y, y - self.rho * x), -1) / (1 - self.rho**2)

    def marginal_score(self, y: Tensor) -> Tensor:
        """``−y``."""
        return -y


@dataclass(frozen=True)
class Transform:
    """A monotone function of each coordinate, ``z = t(v)``, with the inverse ``v = r(z)``.

    The functions are smooth at 0. A power |v|^p would give a score with a pole at 0.

    Attributes:
        forward: t.
        inverse: r.
        slope: r'.
        bend: ``(log r')'``.
    """

    forward: Callable[[Tensor], Tensor]
    inverse: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]
    bend: Callable[[Tensor], Tensor]


#: ``t = asinh(2v)``: short tails, and two modes in each coordinate.
ASINH = Transform(
    forward=lambda v: torch.asinh(2 * v),
    inverse=lambda z: torch.sinh(z) / 2,
    slope=lambda z: torch.cosh(z) / 2,
    bend=torch.tanh,
)

#: ``v = z + z³``: z grows as the cube root of v, with tails that are shorter than Gaussian.
CUBE_ROOT = Transform(
    forward=lambda v: 2 / math.sqrt(3) * torch.sinh(torch.asinh(1.5 * math.sqrt(3) * v) / 3),
    inverse=lambda z: z + z**3,
    slope=lambda z: 1 + 3 * z**2,
    bend=lambda z: 6 * z / (1 + 3 * z**2),
)


def _root(z: Tensor) -> Tensor:
    """The v of ``z = v √(1 + v²)``."""
    return z / ((1 + (1 + 4 * z**2).sqrt()) / 2).sqrt()


def _root_slope(z: Tensor) -> Tensor:
    return ((1 + _root(z) ** 2) / (1 + 4 * z**2)).sqrt()


#: ``t = v √(1 + v²)``: z grows as v², with exponential tails.
SQUARE = Transform(
    forward=lambda v: v * (1 + v**2).sqrt(),
    inverse=_root,
    slope=_root_slope,
    bend=lambda z: (
        _root(z) * _root_slope(z) / (1 + _root(z) ** 2) - 4 * z / (1 + 4 * z**2)
    ),
)  # fmt: skip


class Transformed(Paired):
    """A correlated Gaussian v with transformed coordinates, which does not change I(x; y).

    ``log q(z) = log q_v(r(z)) + Σ log r'(z_c)``, ``s = s_v(r(z)) ∘ r'(z) + (log r')'(z)``.
    """

    def __init__(self, base: CorrelatedGaussian, transform: Transform) -> None:
        self.base, self.transform = base, transform
        self.d, self.gradient, self.derivative = base.d, base.gradient, base.derivative

    def draw(self, m: int, generator: Generator) -> Draw:
        """Draw ``t(v)``, with the tangent of v times ``t'(v) = 1 / r'(z)``."""
        base = self.base.draw(m, generator)
        z = self.transform.forward(base.samples)
        slope = 1 / self.transform.slope(z.chunk(2, -1)[1])
        assert base.tangent is not None
        return Draw(z, base.inputs, slope, base.tangent * slope)

    def log_density(self, z: Tensor) -> Tensor:
        """The log density of v plus the log determinant of the Jacobian."""
        volume = self.transform.slope(z).log().sum(-1)
        return self.base.log_density(self.transform.inverse(z)) + volume

    def score(self, z: Tensor) -> Tensor:
        """``s_v(r(z)) ∘ r'(z) + (log r')'(z)``."""
        t = self.transform
        return self.base.score(t.inverse(z)) * t.slope(z) + t.bend(z)

    def marginal_score(self, y: Tensor) -> Tensor:
        """``−r(y) r'(y) + (log r')'(y)``."""
        t = self.transform
        return self.base.marginal_score(t.inverse(y)) * t.slope(y) + t.bend(y)


class Bimodal(Distribution):
    """Y = aB + ε with B uniform in {−1, 1}^d, which has 2^d modes and a discrete input.

    In each coordinate ``s = −y + a tanh(a y)``. Because I(B; Y) = H(Y) − H(ε),
    ``dI/da = −E[s·B] = d a (1 − E tanh(a (a + ε)))``. For ``Y = A B + ε``, dI/dA is the identity
    matrix times ``(dI/da)/d``.
    """

    def __init__(self, d: int, a: float) -> None:
        self.d, self.a = d, a
        nodes, weights = np.polynomial.hermite_e.hermegauss(150)
        expected = float(weights @ np.tanh(a * (a + nodes)) / math.sqrt(2 * math.pi))
        self.gradient = a * (1 - expected)
        self.derivative = d * self.gradient

    def draw(self, m: int, generator: Generator) -> Draw:
        """Draw Y. B is both the input and ∂Y/∂a."""
        b = 2.0 * torch.randint(2, (m, self.d), generator=generator).to(DTYPE) - 1
        z = self.a * b + normal(m, self.d, generator=generator)
        return Draw(z, b, torch.ones_like(b), b)

    def log_density(self, z: Tensor) -> Tensor:
        """``Σ −y²/2 + log cosh(a y)``."""
        return (-z.square() / 2 + (self.a * z).cosh().log()).sum(-1)

    def score(self, z: Tensor) -> Tensor:
        """``−y + a tanh(a y)``."""
        return -z + self.a * torch.tanh(self.a * z)


class GaussianMixture(Distribution):
    """The mixture ``Σ_k w_k N(μ_k, Σ_k)`` with ``s = −Σ_k p(k|z) Σ_k⁻¹ (z − μ_k)``.

    Args:
        weights: w, (K), with the sum 1.
        means: μ, (K, d).
        covariances: Σ, (K, d, d).
    """

    def __init__(self, weights: Tensor, means: Tensor, covariances: Tensor) -> None:
        self.d = means.shape[-1]
        self.weights, self.means = weights, means
        self.factors = torch.linalg.cholesky(covariances)
        self.precisions = torch.cholesky_inverse(self.factors)

    def draw(self, m: int, generator: Generator) -> Draw:
        """Draw ``μ_k + L_k ε`` with k from the weights."""
        k = torch.multinomial(self.weights, m, replacement=True, generator=generator)
        noise = normal(m, self.d, 1, generator=generator)
        z = self.means[k] + (self.factors[k] @ noise).squeeze(-1)
        return _without_encoder(z)

    def log_density(self, z: Tensor) -> Tensor:
        """The log-sum-exp of the components' log densities."""
        return self._terms(z)[0].logsumexp(-1)

    def score(self, z: Tensor) -> Tensor:
        """The components' scores, weighted by their posterior."""
        logs, scores = self._terms(z)
        return (logs.softmax(-1).unsqueeze(-1) * scores).sum(-2)

    def _terms(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Log densities, (M, K), and scores, (M, K, d), of the components."""
        centered = z.unsqueeze(-2) - self.means
        scores = -torch.einsum("kij,mkj->mki", self.precisions, centered)
        volumes = self.factors.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return self.weights.log() - volumes + (centered * scores).sum(-1) / 2, scores


class Student(Distribution):
    """Student's t with ν degrees of freedom and ``s = −(ν + d) z / (ν + ‖z‖²)``.

    The tails are heavy, the score is bounded, and the Fisher information is finite.
    """

    def __init__(self, d: int, nu: int) -> None:
        self.d, self.nu = d, nu

    def draw(self, m: int, generator: Generator) -> Draw:
        """Draw a normal vector divided by the root of χ²_ν/ν."""
        chi = normal(m, self.nu, generator=generator).square().mean(-1, keepdim=True)
        z = normal(m, self.d, generator=generator) / chi.sqrt()
        return _without_encoder(z)

    def log_density(self, z: Tensor) -> Tensor:
        """``−(ν + d)/2 · log(1 + ‖z‖²/ν)``."""
        return -(self.nu + self.d) / 2 * (z.square().sum(-1) / self.nu).log1p()

    def score(self, z: Tensor) -> Tensor:
        """``−(ν + d) z / (ν + ‖z‖²)``."""
        return -(self.nu + self.d) * z / (self.nu + z.square().sum(-1, keepdim=True))


class Banana(Distribution):
    """A standard normal v with a shifted second coordinate, ``z₂ = v₂ + b (v₁² − 1)``.

    With ``v₂ = z₂ − b (z₁² − 1)``, ``s₁ = −z₁ + 2 b z₁ v₂``, ``s₂ = −v₂``, and ``s_i = −z_i``
    in the other coordinates.
    """

    def __init__(self, d: int, b: float) -> None:
        self.d, self.b = d, b

    def draw(self, m: int, generator: Generator) -> Draw:
        """Draw normal vectors, and shift the second coordinate."""
        z = normal(m, self.d, generator=generator)
        z[:, 1] += self.b * (z[:, 0].square() - 1)
        return _without_encoder(z)

    def log_density(self, z: Tensor) -> Tensor:
        """``−‖v‖²/2``, because the map preserves volumes."""
        rest = z[:, 0].square() + z[:, 2:].square().sum(-1)
        return -(rest + self._straight(z).square()) / 2

    def score(self, z: Tensor) -> Tensor:
        """The score of v times the transposed Jacobian of the map from z to v."""
        v = self._straight(z)
        s = -z
        s[:, 0] += 2 * self.b * z[:, 0] * v
        s[:, 1] = -v
        return s

    def _straight(self, z: Tensor) -> Tensor:
        return z[:, 1] - self.b * (z[:, 0].square() - 1)


class Laplace(Distribution):
    """Independent Laplace coordinates of scale b, with ``s = −sign(z) / b``."""

    def __init__(self, d: int, b: float = 1.0) -> None:
        self.d, self.b = d, b

    def draw(self, m: int, generator: Generator) -> Draw:
        """Draw differences of two exponential variables."""
        u = torch.rand(2, m, self.d, generator=generator, dtype=DTYPE)
        first, second = torch.log1p(-u)
        z = self.b * (first - second)
        return _without_encoder(z)

    def log_density(self, z: Tensor) -> Tensor:
        """``−‖z‖₁ / b``."""
        return -z.abs().sum(-1) / self.b

    def score(self, z: Tensor) -> Tensor:
        """``−sign(z) / b``."""
        return -z.sign() / self.b


def normal(*shape: int, generator: Generator) -> Tensor:
    """Draw standard normal numbers, float64."""
    return torch.randn(*shape, generator=generator, dtype=DTYPE)
