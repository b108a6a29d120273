"""How much a frozen representation z still tells about a nuisance s: a strong attacker's answer.

An attacker guesses the bin of s, one of 16 of equal probability, and s itself. Its cross-entropy on
codes that it has not seen bounds the mutual information from below,

    I(z; s) ≥ I(z; bin) ≥ log 16 − cross-entropy,

and is reported in nats, beside the share R² of the variance of s that it explains. A bound is as
good as its attacker, and a weak one flatters: one that sees z standardised, but not whitened,
misses what is hidden in directions of little variance. So several attack, and the strongest counts:

* perceptrons of two sizes, on z standardised and on z whitened by its principal components,
  stopped early;
* the nearest neighbours of whitened z.

The strongest is the one that does best on a part of its own training codes that it was not fitted
to; only its figures on the codes under attack are looked at, so that the bound is not inflated.
"""

import copy
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mige_ext.experiments.common.training import seeded
from mige_ext.experiments.removal.nuisances import BINS

#: Units of each of the two hidden layers.
SIZES = (64, 256)
NEIGHBOURS = 100
_BATCH = 500
_RATE = 3e-3


class Codes(NamedTuple):
    """N frozen representations with what they should not tell."""

    z: Tensor  # (N, d)
    s: Tensor  # (N, k)
    bin: Tensor  # (N,) int64, 0 ... BINS - 1


class Leak(NamedTuple):
    """What the strongest attacker finds.

    Attributes:
        nats: lower bound of I(z; s), not below 0: one can always guess blindly.
        r2: share of the variance of s that is explained, mean over the dimensions of s, likewise.
        attacker: the strongest in nats.
    """

    nats: float
    r2: float
    attacker: str


class _Guess(NamedTuple):
    """What an attacker says about codes."""

    log_p: Tensor  # (N, BINS), of the bin
    s: Tensor  # (N, k)

    def nats(self, codes: Codes) -> float:
        return math.log(BINS) - F.nll_loss(self.log_p, codes.bin).item()

    def r2(self, codes: Codes) -> float:
        error = (self.s - codes.s).square().mean(0)
        return (1 - error / codes.s.var(0, unbiased=False)).mean().item()


def attack(
    train: Codes, targets: Sequence[Codes], *, epochs: int = 10, seed: int = 0
) -> list[Leak]:
    """Attack frozen codes.

    Args:
        train: codes that attackers learn from; a fifth of them stops them early and ranks them.
        targets: other codes to attack.
        epochs: of the perceptrons.
        seed: of their weights and batches.

    Returns:
        The leak of each target.

    Cost:
        About epochs × N × 0.9 MFLOP for N training codes, and N N' (d + 1) flop for the neighbours
        of N' codes.
    """
    held_out = len(train.z) // 5
    fit, rank = _rows(train, slice(held_out, None)), _rows(train, slice(held_out))
    views = {"standardised": _standardiser(fit.z), "whitened": _whitener(fit.z)}
    guesses: dict[str, list[_Guess]] = {}
    with seeded(seed, fit.z.device):
        for view, (mean, matrix) in views.items():
            seen = [codes._replace(z=(codes.z - mean) @ matrix) for codes in (fit, rank, *targets)]
            for size in SIZES:
                guesses[f"MLP {size}, {view}"] = _perceptron(seen[0], seen[1:], size, epochs)
    with torch.no_grad():
        guesses[f"{NEIGHBOURS} neighbours"] = [_neighbours(seen[0], codes) for codes in seen[1:]]
    in_nats = max(guesses, key=lambda name: guesses[name][0].nats(rank))
    in_r2 = max(guesses, key=lambda name: guesses[name][0].r2(rank))
    return [
        Leak(
            max(guesses[in_nats][i].nats(codes), 0.0),
            max(guesses[in_r2][i].r2(codes), 0.0),
            in_nats,
        )
        for i, codes in enumerate(targets, start=1)
    ]


# Views of z: a mean and a matrix


def _standardiser(z: Tensor) -> tuple[Tensor, Tensor]:
    return z.mean(0), torch.diag(1 / z.std(0).clamp(min=torch.finfo(z.dtype).tiny))


def _whitener(z: Tensor) -> tuple[Tensor, Tensor]:
    """Principal components at unit variance; those that are rounding errors stay small."""
    values, vectors = torch.linalg.eigh(z.mT.double().cov())
    least = values[-1] * torch.finfo(z.dtype).eps
    return z.mean(0), (vectors * values.clamp(min=least).rsqrt()).to(z.dtype)


# Attackers


def _perceptron(fit: Codes, targets: Sequence[Codes], size: int, epochs: int) -> list[_Guess]:
    """One network for the bin and for s, as it was after its best epoch on the first target."""
    outputs = BINS + fit.s.shape[1]
    network = nn.Sequential(
        nn.Linear(fit.z.shape[1], size),
        nn.ReLU(),
        nn.Linear(size, size),
        nn.ReLU(),
        nn.Linear(size, outputs),
    ).to(fit.z.device)
    adam = torch.optim.Adam(network.parameters(), _RATE, fused=True)
    steps = epochs * math.ceil(len(fit.z) / _BATCH)
    decay = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: 1 - step / (steps + 1))

    def guess(codes: Codes) -> _Guess:
        logits, s = network(codes.z).split([BINS, outputs - BINS], 1)
        return _Guess(logits.log_softmax(1), s)

    best, weights = -math.inf, copy.deepcopy(network.state_dict())
    for _ in range(epochs):
        for rows in torch.randperm(len(fit.z)).to(fit.z.device).split(_BATCH):
            batch = _rows(fit, rows)
            made = guess(batch)
            loss = F.nll_loss(made.log_p, batch.bin) + F.mse_loss(made.s, batch.s)
            adam.zero_grad()
            loss.backward()
            adam.step()
            decay.step()
        with torch.no_grad():
            nats = guess(targets[0]).nats(targets[0])
        if nats > best:
            best, weights = nats, copy.deepcopy(network.state_dict())
    network.load_state_dict(weights)
    with torch.no_grad():
        return [guess(codes) for codes in targets]


def _neighbours(fit: Codes, codes: Codes) -> _Guess:
    """Shares of the bins among the nearest neighbours, one added to each; the mean of their s."""
    k = min(NEIGHBOURS, len(fit.z))
    log_p, s = [], []
    for z in codes.z.split(1000):
        nearest = torch.cdist(z, fit.z).topk(k, largest=False, sorted=False).indices
        counts = F.one_hot(fit.bin[nearest], BINS).sum(1) + 1
        log_p.append((counts / (k + BINS)).log())
        s.append(fit.s[nearest].mean(1))
    return _Guess(torch.cat(log_p), torch.cat(s))


def _rows(codes: Codes, rows: Tensor | slice) -> Codes:
    return Codes(*(column[rows] for column in codes))
