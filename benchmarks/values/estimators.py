"""The estimators that the benchmark compares."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from scipy.spatial import cKDTree
from scipy.special import digamma
from torch import Tensor

import mige_ext as mige
from benchmarks.values.tasks import Array
from mige_ext import bounds
from mige_ext.values.ranks import ranked

_STEPS, _EVERY, _PATIENCE, _BATCH = 2000, 50, 8, 128


@dataclass(frozen=True)
class Estimated:
    """A value in nats, with the standard error and the detail of estimators that have them."""

    value: float
    standard_error: float = float("nan")
    detail: str = ""


def values(x: Array, z: Array, seed: int) -> Estimated:
    """``estimate_mutual_information``."""
    found = mige.estimate_mutual_information(torch.from_numpy(x), torch.from_numpy(z), seed=seed)
    return Estimated(float(found.value), float(found.standard_error), found.methods[0])


def gaussian(x: Array, z: Array, _: int) -> Estimated:
    """The Gaussian formula on normal scores (normal quantiles of the ranks), without its bias."""
    from mige_ext.values.gaussian import gaussian_part

    return Estimated(float(gaussian_part(*_normal_scores(x, z)).candidate.value))


def ksg(x: Array, z: Array, _: int, k: int = 10) -> Estimated:
    """The estimate of Kraskov, Stögbauer and Grassberger, on columns with variance 1."""
    jitter = np.random.default_rng(0)
    blocks = [(v - v.mean(0)) / v.std(0) for v in (x, z)]
    blocks = [v + 1e-10 * jitter.standard_normal(v.shape) for v in blocks]
    both = np.hstack(blocks)
    radius = cKDTree(both).query(both, k + 1, p=np.inf)[0][:, k] - 1e-12
    counts = [cKDTree(v).query_ball_point(v, radius, p=np.inf, return_length=True) for v in blocks]
    return Estimated(float(digamma(k) + digamma(len(x)) - np.mean(sum(map(digamma, counts)))))


def critic(bound: str, x: Array, z: Array, seed: int) -> Estimated:
    """MINE or InfoNCE on normal scores: the highest value on a held-out quarter of the samples.

    The value is computed every 50 steps, and training ends after 8 values without a new maximum. A
    negative result is replaced by 0.
    """
    torch.manual_seed(seed)
    u, v = (scores.float() for scores in _normal_scores(x, z))
    order = torch.randperm(len(u))
    held_out, rows = order[: len(u) // 4], order[len(u) // 4 :]
    kind = bounds.JointCritic if bound == "MINE" else bounds.SeparableCritic
    model = kind(u.shape[1], v.shape[1], hidden=64)
    adam = torch.optim.Adam(model.parameters(), 2e-3)
    average, best, since, steps = None, -torch.inf, 0, 0
    while steps < _STEPS and since < _PATIENCE:
        for _ in range(_EVERY):
            batch = rows[torch.randperm(len(rows))[:_BATCH]]
            if bound == "MINE":
                joint, marginal = model(u[batch], v[batch]), model(u[batch], v[batch].roll(1, 0))
                value, average = bounds.mine(joint, marginal, average)
            else:
                value = bounds.infonce(model(u[batch][:, None], v[batch][None]))
            adam.zero_grad()
            (-value).backward()
            adam.step()
        steps += _EVERY
        found = _evaluated(bound, model, u[held_out], v[held_out])
        best, since = (found, 0) if found > best else (best, since + 1)
    return Estimated(max(float(best), 0.0), detail=f"{steps} steps")


@torch.no_grad()
def _evaluated(bound: str, model: torch.nn.Module, u: Tensor, v: Tensor) -> float:
    parts = [rows for rows in torch.arange(len(u)).split(_BATCH) if len(rows) > 1]
    found = []
    for rows in parts:
        scores = model(u[rows][:, None], v[rows][None])
        if bound == "MINE":
            found.append(bounds.donsker_varadhan(*bounds.split_pairs(scores)))
        else:
            found.append(bounds.infonce(scores))
    return float(torch.stack(found).mean())


def _normal_scores(x: Array, z: Array) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    u, v = (torch.special.ndtri(ranked(torch.from_numpy(s), generator)) for s in (x, z))
    return u, v


VALUES = "mige_ext"
#: Estimators by name, as functions of x, z and a seed.
ESTIMATORS: dict[str, Callable[[Array, Array, int], Estimated]] = {
    VALUES: values,
    "KSG": ksg,
    "Gaussian": gaussian,
    "MINE": partial(critic, "MINE"),
    "InfoNCE": partial(critic, "InfoNCE"),
}
