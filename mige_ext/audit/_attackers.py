"""The attackers of an audit: perceptrons, nearest neighbors and boosted trees.

Every attacker is fitted to one set of rows. For the validation and test rows it predicts the class
or bin of s, and for a continuous s also the value.
"""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mige_ext.audit._inputs import Rows

HIDDEN_SIZES = (64, 256)  # units of each of the two hidden layers of a perceptron
NEIGHBORS = 100
_BATCH = 500
_LEAST_STEPS = 20  # fewest steps of a perceptron in an epoch
_LEARNING_RATE = 3e-3
_TREES = {"max_iter": 100, "learning_rate": 0.1, "early_stopping": True, "n_iter_no_change": 5}


class Prediction(NamedTuple):
    """The prediction of an attacker for N rows."""

    log_p: Tensor  # (N, C), log probabilities of the classes
    s: Tensor | None  # (N, k), the predicted values of a continuous s


class Views(NamedTuple):
    """One set of rows, with two linear maps of z in float32."""

    standardized: Tensor  # (N, d), unit variance in every column
    whitened: Tensor  # (N, r), unit covariance, without directions that have no variance
    label: Tensor  # (N,)
    s: Tensor | None  # (N, k) float32, unit variance in every column


#: A function that fits an attacker to the first argument and predicts the rows of the second.
Attacker = Callable[[Views, Sequence[Views]], list[Prediction]]


def views(fit: Rows, others: Sequence[Rows]) -> list[Views]:
    """Standardize and whiten z, and standardize s, with the moments of the rows ``fit``.

    Whitened codes show the attackers what z encodes in directions of little variance.
    """
    least, largest = _bounds(fit.z)
    fit, *others = (replace(rows, z=rows.z.clamp(least, largest)) for rows in (fit, *others))
    mean, scale = fit.z.mean(0), _scale(fit.z)
    values, vectors = torch.linalg.eigh((fit.z / scale).mT.cov().reshape(2 * [fit.z.shape[1]]))
    kept = values > values[-1] * 1e-12  # above the rounding errors of float32
    if not bool(kept.any()):  # constant codes
        kept[-1], values = True, torch.ones_like(values)
    whitening = vectors[:, kept] * values[kept].rsqrt()

    def view(rows: Rows) -> Views:
        standardized = (rows.z - mean) / scale
        s = rows.s
        if s is not None and fit.s is not None:
            s = ((s - fit.s.mean(0)) / _scale(fit.s)).float()
        return Views(standardized.float(), (standardized @ whitening).float(), rows.label, s)

    return [view(rows) for rows in (fit, *others)]


def _bounds(x: Tensor) -> tuple[Tensor, Tensor]:
    """Bounds of each column, which only extreme outliers exceed.

    The bounds lie beyond the .5 % and 99.5 % quantiles, by ten times the distance of these two
    quantiles. Without bounds, a single outlier makes the standardized values of all other rows
    nearly equal.
    """
    beyond = 1 + len(x) // 200
    low = x.kthvalue(beyond + 1, dim=0).values
    high = x.kthvalue(len(x) - beyond, dim=0).values
    room = torch.where(high > low, 10 * (high - low), torch.inf)
    return low - room, high + room


def _scale(x: Tensor) -> Tensor:
    """Standard deviations of the columns; 1 for a constant column."""
    deviation = x.std(0)
    return torch.where(deviation > 0, deviation, 1.0)


def attackers(
    kinds: Sequence[str], classes: int, epochs: int, seed: int
) -> Iterator[tuple[str, Attacker]]:
    """The attackers of the given kinds, with their names."""
    if "perceptrons" in kinds:
        for view in ("standardized", "whitened"):
            for size in HIDDEN_SIZES:
                yield (
                    f"MLP {size}, {view}",
                    _Perceptron(view, size, classes, epochs),
                )
    if "neighbors" in kinds:
        yield f"{NEIGHBORS} neighbors", _Neighbors(classes)
    if "trees" in kinds:
        yield "boosted trees", _Trees(classes, seed)


class _Perceptron:
    """A network with an output for each class and for each column of s.

    The network keeps the weights of the epoch with the least validation cross-entropy.
    """

    def __init__(self, view: str, size: int, classes: int, epochs: int) -> None:
        self.view, self.size, self.classes, self.epochs = view, size, classes, epochs

    def __call__(self, fit: Views, others: Sequence[Views]) -> list[Prediction]:
        z = getattr(fit, self.view)
        sizes = [z.shape[1], self.size, self.size]
        outputs = self.classes + (0 if fit.s is None else fit.s.shape[1])
        hidden = [
            layer
            for inputs, units in pairwise(sizes)
            for layer in (nn.Linear(inputs, units, dtype=z.dtype), nn.ReLU())
        ]
        last = nn.Linear(self.size, outputs, dtype=z.dtype)
        network = nn.Sequential(*hidden, last).to(z.device)
        adam = torch.optim.Adam(network.parameters(), _LEARNING_RATE, fused=True)
        each = max(math.ceil(len(z) / _BATCH), _LEAST_STEPS)
        steps = self.epochs * each
        decay = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: 1 - step / (steps + 1))
        best, weights = math.inf, copy.deepcopy(network.state_dict())
        batches = self._batches(len(z), steps)
        for _ in range(self.epochs):
            for _ in range(each):
                rows = next(batches).to(z.device)
                output = network(z[rows])
                loss = F.cross_entropy(output[:, : self.classes], fit.label[rows])
                if fit.s is not None:
                    loss = loss + F.mse_loss(output[:, self.classes :], fit.s[rows])
                adam.zero_grad()
                loss.backward()
                adam.step()
                decay.step()
            with torch.no_grad():
                loss = F.nll_loss(self._predict(network, others[0]).log_p, others[0].label)
            if loss < best:
                best, weights = float(loss), copy.deepcopy(network.state_dict())
        network.load_state_dict(weights)
        with torch.no_grad():
            return [self._predict(network, rows) for rows in others]

    def _batches(self, count: int, steps: int) -> Iterator[Tensor]:
        made = 0
        while made < steps:
            for rows in torch.randperm(count).split(_BATCH):
                yield rows
                made += 1

    def _predict(self, network: nn.Module, rows: Views) -> Prediction:
        output = torch.cat([network(z) for z in getattr(rows, self.view).split(10_000)])
        s = None if rows.s is None else output[:, self.classes :]
        return Prediction(output[:, : self.classes].log_softmax(1), s)


class _Neighbors:
    """The frequencies of the classes and the mean s of the nearest neighbors in whitened z.

    The frequencies in all rows count as one more neighbor, so no probability is 0.
    """

    def __init__(self, classes: int) -> None:
        self.classes = classes

    def __call__(self, fit: Views, others: Sequence[Views]) -> list[Prediction]:
        k = min(NEIGHBORS, max(1, len(fit.label) // 10))
        counts = torch.bincount(fit.label, minlength=self.classes).to(fit.whitened.dtype)
        frequencies = counts / len(fit.label)
        frequencies = frequencies.clamp(min=0.5 / len(fit.label))
        predictions = []
        for rows in others:
            log_p, s = [], []
            for z in rows.whitened.split(1000):
                nearest = torch.cdist(z, fit.whitened).topk(k, largest=False, sorted=False).indices
                counts = z.new_zeros(len(z), self.classes)
                counts.scatter_add_(1, fit.label[nearest], torch.ones_like(nearest, dtype=z.dtype))
                log_p.append((counts + frequencies).log().log_softmax(1))
                if fit.s is not None:
                    s.append(fit.s[nearest].mean(1))
            predictions.append(Prediction(torch.cat(log_p), torch.cat(s) if s else None))
        return predictions


class _Trees:
    """Gradient-boosted trees of scikit-learn on both views of z."""

    def __init__(self, classes: int, seed: int) -> None:
        self.classes, self.seed = classes, seed

    def __call__(self, fit: Views, others: Sequence[Views]) -> list[Prediction]:
        from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
        from threadpoolctl import threadpool_limits

        columns = [_columns(rows) for rows in (fit, *others)]
        options: dict[str, Any] = {**_TREES, "random_state": self.seed % 2**32}
        device = fit.label.device
        with threadpool_limits(torch.get_num_threads(), user_api="openmp"):
            label, rows = _without_single_rows(fit.label.cpu())
            stopping = {**options, "early_stopping": _can_stop_early(label)}
            trees = HistGradientBoostingClassifier(**stopping).fit(columns[0][rows], label.numpy())
            known = torch.as_tensor(trees.classes_)
            predictions = []
            for z in columns[1:]:
                tiny = torch.finfo(torch.float32).tiny
                p = torch.full((len(z), self.classes), tiny, dtype=torch.float32)
                found = trees.predict_proba(z)[:, : len(known)]  # two columns for a single class
                p[:, known] = torch.as_tensor(found).float()
                p = p.clamp(min=tiny)
                predictions.append(Prediction(p.log().to(device), None))
            if fit.s is None:
                return predictions
            fits = [
                HistGradientBoostingRegressor(**options).fit(columns[0], target)
                for target in fit.s.mT.cpu().numpy()
            ]
            return [
                prediction._replace(
                    s=torch.stack(
                        [torch.as_tensor(of.predict(z)).float().to(device) for of in fits], 1
                    )
                )
                for prediction, z in zip(predictions, columns[1:], strict=True)
            ]


def _without_single_rows(label: Tensor) -> tuple[Tensor, Any]:
    """The labels without classes of one row, and a mask of the rows that are kept.

    To stop early, scikit-learn splits every class in two, which a class of one row does not allow.
    """
    rows = label.bincount()[label] > 1
    return label[rows], rows.numpy()


def _can_stop_early(label: Tensor) -> bool:
    """Whether a tenth of the rows may contain every class, as scikit-learn needs to stop early."""
    return math.ceil(len(label) / 10) >= len(label.unique())


def _columns(rows: Views) -> Any:
    return torch.cat([rows.standardized, rows.whitened], 1).cpu().numpy()
