"""The spectral filters with their functions g_λ, and matrices and samples to test them on."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from mige_ext import IMQ, RBF, SSGE, Landweber, NuMethod, SpectralFilter, Stein, Tikhonov, reference
from tests.support import oracles
from tests.support.inputs import normal

M, D = 30, 3
LAM, ETA = 1e-2, 0.1


@dataclass(frozen=True)
class Filter:
    """An estimator as a function of its keywords, and its g_λ(μ) for an (ascending) spectrum."""

    make: Callable[..., SpectralFilter]
    function: Callable[[Tensor], Tensor]
    cut_off: bool = False


FILTERS = {
    "cut-off": Filter(
        lambda **k: SSGE(rank=12, **k),
        lambda mu: torch.where(torch.arange(len(mu)) >= len(mu) - 12, 1 / mu, 0.0),
        cut_off=True,
    ),
    "tikhonov": Filter(lambda **k: Tikhonov(lam=LAM, **k), lambda mu: 1 / (mu + LAM)),
    "stein": Filter(lambda **k: Stein(eta=ETA, **k), lambda mu: 1 / (mu + ETA / M)),
    "landweber": Filter(
        lambda **k: Landweber(steps=40, step_size=0.7, **k),
        lambda mu: oracles.landweber_filter(mu, 40, 0.7),
    ),
    "nu": Filter(
        lambda **k: NuMethod(steps=6, nu=1.5, **k), lambda mu: oracles.nu_filter(mu, 6, 1.5)
    ),
}
for_each_filter = pytest.mark.parametrize("kind", FILTERS.values(), ids=FILTERS.keys())
for_each_kernel = pytest.mark.parametrize("kernel", [RBF(), IMQ()], ids=["RBF", "IMQ"])
for_each_value = pytest.mark.parametrize("curl_free", [False, True], ids=["diagonal", "curl-free"])


def from_matrices(kind: Filter, kernel: Any, curl_free: bool, x: Tensor, q: Any) -> Tensor:
    """The score from dense matrices, by the formulas of the papers, in the dtype of x."""
    function = kind.function
    if kind.cut_off and not curl_free:  # K = φ I has each eigenvalue D times

        def function(mu: Tensor) -> Tensor:
            return torch.where(torch.arange(len(mu)) >= len(mu) - 12 * D, 1 / mu, 0.0)

    return oracles.filtered(
        function, x, q, kernel=type(kernel).__name__, curl_free=curl_free,
        bandwidth=reference.distance_quantile(x), cut_off=kind.cut_off,
    )  # fmt: skip


def spectrum(kernel: Any, curl_free: bool, x: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues of L, (Md,) ascending, and ζ, (M, d)."""
    sigma = reference.distance_quantile(x)
    k, divergence = oracles.matrix_kernel(type(kernel).__name__, curl_free, x, x, sigma)
    n = x.numel()
    return torch.linalg.eigvalsh(k.transpose(1, 2).reshape(n, n) / len(x)), divergence.mean(1)


def relative(error: Tensor, size: Tensor) -> float:
    return (error.norm() / size.norm()).item()


def skewed(m: int = M, d: int = D, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    """Samples with unequal variances and an offset, which are not normal."""
    x = normal(m, d, seed=seed) * torch.linspace(0.5, 2, d, dtype=torch.float64)
    return (x + 0.3 * x.square() + 1).to(dtype)
