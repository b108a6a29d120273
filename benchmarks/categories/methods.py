"""The methods that the benchmark compares: gradients of I(s; z) for classes s, times M."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

import mige_ext as mige

#: The default of ``mutual_information`` for a category, ``marginal="paired"``.
DEFAULT = "classifiers"
#: Indicators of the classes plus noise, as a continuous variable.
ONE_HOT = "one-hot + noise"

Method = Callable[[Tensor, Tensor], Tensor]


def _information(**how: Any) -> Method:
    def field(s: Tensor, z: Tensor) -> Tensor:
        z = z.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(mige.mutual_information(s, z, **how), z)
        return gradient * len(z)

    return field


def _one_hot(s: Tensor, z: Tensor) -> Tensor:
    """The gradient of I(e; z) for the standardized indicators e of the classes plus noise."""
    indicators = one_hot(s.unique(return_inverse=True)[1]).to(z)
    e = indicators[:, : max(1, indicators.shape[1] if indicators.shape[1] > 2 else 1)]
    e = (e - e.mean(0)) / e.std(0)
    return _information()(e + 0.2 * torch.randn_like(e), z)


def _quadratic(s: Tensor, z: Tensor) -> Tensor:
    """Quadratic discriminant analysis: Gaussian classes with covariances ``(1−α) S_c + α S``.

    S_c is the covariance of class c, and S the covariance within all classes plus a small ridge. α
    is chosen by the log-likelihood of four folds. If no α is better than the class frequencies, the
    gradient is 0.
    """
    ids = s.unique(return_inverse=True)[1]
    fold, count = torch.arange(len(z)) % 4, int(ids.max()) + 1
    frequencies = torch.bincount(ids).to(z) / len(z)
    best, alpha = float(frequencies[ids].log().sum()), None
    for candidate in (0.05, 0.1, 0.2, 0.4, 0.7, 1.0):
        likelihood = 0.0
        for k in range(4):
            here = fold == k
            logits, _ = _gaussians(ids[~here], z[~here], z[here], count, candidate)
            own = logits.log_softmax(1).gather(1, ids[here].unsqueeze(1))
            likelihood += float(own.sum())
        if likelihood > best:
            best, alpha = likelihood, candidate
    if alpha is None:
        return torch.zeros_like(z)
    logits, scores = _gaussians(ids, z, z, count, alpha)
    weights = one_hot(ids, count) - logits.softmax(1)
    return (weights.unsqueeze(-1) * scores).sum(1)


def _gaussians(
    s: Tensor, z: Tensor, points: Tensor, count: int, alpha: float
) -> tuple[Tensor, Tensor]:
    """Logits of the classes, (Q, C), and scores, (Q, C, d), at points, fitted to (s, z)."""
    d = z.shape[1]
    means = torch.stack([(z[s == c] if (s == c).any() else z).mean(0) for c in range(count)])
    residual = z - means[s]
    pooled = residual.mT @ residual / len(z) + 1e-3 * z.var() * torch.eye(d).to(z)
    logits, scores = [], []
    for c in range(count):
        own = residual[s == c]
        n = max(len(own), 1)
        covariance = (1 - alpha) * own.mT @ own / n + alpha * pooled
        score = -torch.linalg.solve(covariance, (points - means[c]).mT).mT
        distance = -((points - means[c]) * score).sum(1)
        logits.append(math.log(n / len(z)) - (distance + torch.logdet(covariance)) / 2)
        scores.append(score)
    return torch.stack(logits, 1), torch.stack(scores, 1)


#: The methods by name. "within classes" is ``marginal="own"``.
METHODS: dict[str, Method] = {
    DEFAULT: _information(),
    "within classes": _information(marginal="own"),
    "within classes, qis": _information(
        marginal="own", estimator=mige.AdaptiveScore(gaussian="qis")
    ),
    "quadratic discriminant": _quadratic,
    ONE_HOT: _one_hot,
}
