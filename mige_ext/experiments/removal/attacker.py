"""What a frozen representation z reveals about a nuisance s: a lower bound by strong attackers.

An attacker predicts s itself and the bin of s, one of 16 bins of equal probability. Its
cross-entropy on codes that it has not seen bounds the mutual information from below, in nats::

    I(z; s) ≥ I(z; bin) ≥ log 16 − cross-entropy

A second measure is R², the fraction of the variance of s that the attacker explains. A weak
attacker underestimates both. For example, an attacker that takes standardized but not whitened z
misses what z encodes in directions of little variance. Therefore five attackers are trained:

* perceptrons of two sizes, stopped early, on standardized z and on whitened z;
* the nearest neighbors of whitened z.

A part of the training codes, the ranking codes, is not used to fit any attacker. The strongest
attacker is the one with the best result on the ranking codes. Only its result on the codes under
attack is reported, so the choice does not inflate the bound.
"""

import copy
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mige_ext.experiments.common.methods import descend, perceptron
from mige_ext.experiments.common.training import seeded
from mige_ext.experiments.removal.nuisances import BINS

HIDDEN_SIZES = (64, 256)  # of the perceptrons, which have two hidden layers
NEIGHBORS = 100
_BATCH = 500
_LEARNING_RATE = 3e-3


class Codes(NamedTuple):
    """N frozen representations with the nuisance that they should not reveal."""

    z: Tensor  # (N, d)
    s: Tensor  # (N, k)
    bin: Tensor  # (N,) int64, 0 ... BINS - 1


class Leak(NamedTuple):
    """The leak of codes, as the strongest attacker measures it."""

    nats: float  # lower bound of I(z; s), at least 0, because an attacker can always ignore z
    r2: float  # explained fraction of the variance, mean over the dimensions of s, at least 0
    attacker: str  # the strongest one in nats


class _Prediction(NamedTuple):
    """The prediction of an attacker for N codes."""

    log_p: Tensor  # (N, BINS), log probabilities of the bins
    s: Tensor  # (N, k)

    def nats(self, codes: Codes) -> float:
        return math.log(BINS) - F.nll_loss(self.log_p, codes.bin).item()

    def r2(self, codes: Codes) -> float:
        error = (self.s - codes.s).square().mean(0)
        return (1 - error / codes.s.var(0, unbiased=False)).mean().item()


def attack(train: Codes, target: Codes, *, epochs: int = 10, seed: int = 0) -> Leak:
    """Measure the leak of frozen codes by the strongest of five attackers.

    Args:
        train: codes for training. The first fifth are the ranking codes, which choose the epoch of
            each perceptron and the strongest attacker. The attackers are fitted to the others.
        target: the codes under attack.
        epochs: epochs of the perceptrons.
        seed: seed of the weights and batches of the perceptrons.

    Returns:
        The leak of the target.

    Cost:
        For N training codes in d dimensions, the perceptrons take about epochs × N × (800 + 3d)
        kflop. The neighbors of N' codes take about 2 N N' d flop.
    """
    ranking_size = len(train.z) // 5
    fit, ranking = _rows(train, slice(ranking_size, None)), _rows(train, slice(ranking_size))
    views = {"standardized": _standardizer(fit.z), "whitened": _whitener(fit.z)}
    predictions: dict[str, list[_Prediction]] = {}  # of the ranking codes and of the target
    with seeded(seed, fit.z.device):
        for view, (mean, matrix) in views.items():
            seen, *others = (
                codes._replace(z=(codes.z - mean) @ matrix) for codes in (fit, ranking, target)
            )
            for size in HIDDEN_SIZES:
                predictions[f"MLP {size}, {view}"] = _perceptron(seen, others, size, epochs)
    with torch.no_grad():
        predictions[f"{NEIGHBORS} neighbors"] = [_neighbors(seen, codes) for codes in others]
    best_nats = max(predictions, key=lambda name: predictions[name][0].nats(ranking))
    best_r2 = max(predictions, key=lambda name: predictions[name][0].r2(ranking))
    nats, r2 = predictions[best_nats][1].nats(target), predictions[best_r2][1].r2(target)
    return Leak(max(nats, 0.0), max(r2, 0.0), best_nats)


# Views of z: a mean to subtract and a matrix to multiply with


def _standardizer(z: Tensor) -> tuple[Tensor, Tensor]:
    return z.mean(0), torch.diag(1 / z.std(0).clamp(min=torch.finfo(z.dtype).tiny))


def _whitener(z: Tensor) -> tuple[Tensor, Tensor]:
    """Scale the principal components to unit variance, except components of rounding errors."""
    values, vectors = torch.linalg.eigh(z.mT.double().cov())
    least = values[-1] * torch.finfo(z.dtype).eps
    return z.mean(0), (vectors * values.clamp(min=least).rsqrt()).to(z.dtype)


# Attackers


def _perceptron(fit: Codes, targets: Sequence[Codes], size: int, epochs: int) -> list[_Prediction]:
    """Train one network to predict the bin and s, and predict the targets.

    The prediction uses the weights of the epoch with the best result on the first target.
    """
    outputs = BINS + fit.s.shape[1]
    network = perceptron(fit.z.shape[1], size, size, outputs).to(fit.z.device)
    adam = torch.optim.Adam(network.parameters(), _LEARNING_RATE, fused=True)
    steps = epochs * math.ceil(len(fit.z) / _BATCH)
    decay = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: 1 - step / (steps + 1))

    def predict(codes: Codes) -> _Prediction:
        logits, s = network(codes.z).split([BINS, outputs - BINS], 1)
        return _Prediction(logits.log_softmax(1), s)

    best, weights = -math.inf, copy.deepcopy(network.state_dict())
    for _ in range(epochs):
        for rows in torch.randperm(len(fit.z)).to(fit.z.device).split(_BATCH):
            batch = _rows(fit, rows)
            predicted = predict(batch)
            loss = F.nll_loss(predicted.log_p, batch.bin) + F.mse_loss(predicted.s, batch.s)
            descend(adam, loss)
            decay.step()
        with torch.no_grad():
            nats = predict(targets[0]).nats(targets[0])
        if nats > best:
            best, weights = nats, copy.deepcopy(network.state_dict())
    network.load_state_dict(weights)
    with torch.no_grad():
        return [predict(codes) for codes in targets]


def _neighbors(fit: Codes, codes: Codes) -> _Prediction:
    """Predict the frequencies of the bins among the nearest neighbors, and the mean of their s.

    One is added to the count of each bin. Therefore no probability is 0.
    """
    k = min(NEIGHBORS, len(fit.z))
    log_p, s = [], []
    for z in codes.z.split(1000):
        nearest = torch.cdist(z, fit.z).topk(k, largest=False, sorted=False).indices
        counts = F.one_hot(fit.bin[nearest], BINS).sum(1) + 1
        log_p.append((counts / (k + BINS)).log())
        s.append(fit.s[nearest].mean(1))
    return _Prediction(torch.cat(log_p), torch.cat(s))


def _rows(codes: Codes, rows: Tensor | slice) -> Codes:
    return Codes(*(column[rows] for column in codes))
