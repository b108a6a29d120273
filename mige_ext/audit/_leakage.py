"""What the strongest of several attackers finds in finished codes.

An attacker predicts probabilities q(c | z) of the classes c of s, which bound the mutual
information from below (Barber and Agakov, 2003)::

    I(z; s) ≥ E[log q'(s | z) − log p(s)],     q'(c | z) ∝ p(c) (q(c | z) / p₀(c))ᵗ

p₀ has the frequencies in the rows that the attacker is fitted to, and p has the frequencies in the
rows for which the attacker predicts s. The *gain* is the mean of log q'(s | z) − log p(s).

Each attacker has one exponent t ≥ 0. A value below 1 corrects an attacker whose predictions are too
certain. t is the exponent with the largest gain on the validation rows, multiplied by
1 − (standard error / gain)⁴, or 0 if the gain is not larger than its standard error. The factor is
about 1 for a clear gain, and gives an attacker that has learned nothing about 0 nats.

The attackers, t and the choice of the strongest attacker do not use the test rows, so the choice
does not inflate the bound.
"""

import math
from collections.abc import Collection, Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from mige_ext import _checks
from mige_ext._precision import no_autocast
from mige_ext.audit._attackers import Prediction, Views, attackers, views
from mige_ext.audit._inputs import divide
from mige_ext.audit._records import ATTACKERS, Attack, Leakage

_LARGEST_POWER = 4.0


def leakage(
    z: Any,
    s: Any,
    *,
    test: Any = 0.25,
    bins: int = 16,
    attackers: Sequence[str] = ATTACKERS,
    epochs: int = 10,
    seed: int = 0,
    progress: bool = True,
) -> Leakage:
    """Measure what strong attackers find about s in finished codes z.

    The result is a lower bound of the mutual information in nats, for the strongest of six
    attackers::

        I(z; s) ≥ H(s) − cross-entropy of an attacker that predicts s from z

    The attackers are perceptrons of two sizes on standardized and on whitened z, the nearest
    neighbors in whitened z, and gradient-boosted trees. The strongest attacker is chosen on a fifth
    of the training rows, called the validation rows, and measured on the test rows. The choice
    therefore does not bias the result upward. If s is independent of z, the expected result is at
    most 0, and most results are exactly 0.

    For a continuous s the attackers predict which of 16 bins of equal probability contains s. The
    bound is then at most log 16 = 2.77 nats. The attackers also predict s itself, which gives R².

    Args:
        z: codes, (N, d), an array or a tensor of numbers. Encode data that the encoder was not
            trained on, because an encoder reveals more about its training data.
        s: what the codes should not reveal. Floats, (N,) or (N, k), are continuous. Integers or
            booleans, (N,), are categorical.
        test: fraction of the rows that are drawn at random as test rows; or a pair (z, s) of
            separate test rows. Pass a pair if several rows belong together, such as the rows of one
            person.
        bins: number of bins of a continuous s, a power of two.
        attackers: kinds of attackers, a part of ``ATTACKERS``.
        epochs: passes of the perceptrons over the training rows. For fewer than 10,000 rows a pass
            is repeated until it has 20 steps.
        seed: seed of the division, of the weights and of the order of the rows.
        progress: whether to show a progress bar if the output is a terminal.

    Returns:
        The results of the strongest attacker, and of all attackers.

    Raises:
        TypeError: an argument has another type, for example z or s contains names.
        ValueError: z and s differ in length or are not finite; there are fewer than 50 training
            rows or 10 test rows; s has only one value; s is floating-point with at most ``bins``
            values (pass integers); or the test rows have none of the classes of the training rows.
        ImportError: scikit-learn or tqdm (the extra ``audit``) is missing.

    Cost:
        For N training rows in d dimensions, the perceptrons take about epochs × N × (800 + 3d)
        kflop. The nearest neighbors of N' rows take 2 N N' d flop. There are up to 100 boosted
        trees for each class or bin. 10,000 rows of 8 dimensions take about 10 seconds on one core
        with two classes, and 20 seconds with 16 bins.

    The perceptrons and the neighbors run on the device of z. The trees run on the CPU with as many
    threads as torch. The same seed on the same machine gives the same result.

        >>> import torch, mige_ext
        >>> generator = torch.Generator().manual_seed(0)
        >>> s = torch.randn(400, generator=generator)
        >>> z = torch.stack([s, torch.randn(400, generator=generator)], 1)
        >>> found = mige_ext.audit.leakage(z, s > 0, attackers=["trees"])
        >>> found.nats > 0.5  # the entropy of s > 0 is log 2 = 0.69 nats
        True
    """
    kinds = _check_options(bins, attackers, epochs, seed, progress)
    attacks = []
    # The perceptrons are trained, whatever mode the caller is in.
    # New tensors are made on the CPU, for any default device.
    with torch.inference_mode(False), torch.enable_grad(), torch.device("cpu"):
        parts = divide(z, s, test, bins, torch.Generator().manual_seed(int(seed)))
        device, classes = parts.test.z.device, parts.classes
        fit, validation, target = views(parts.fit, [parts.validation, parts.test])
        frequencies = _frequencies(fit, classes)
        forked = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
        with no_autocast(parts.test.z), forked:
            torch.manual_seed(int(seed))
            for name, attacker in _with_bar(kinds, classes, epochs, int(seed), progress):
                predictions = attacker(fit, [validation, target])
                attacks.append(_measure(name, predictions, validation, target, frequencies))
    strongest = max(attacks, key=lambda attack: attack.validation_nats)
    best = max(attacks, key=lambda attack: attack.validation_score)
    occurring = _frequencies(target, classes)
    return Leakage(
        nats=strongest.nats,
        standard_error=strongest.standard_error,
        r2=best.r2,
        accuracy_above_chance=best.accuracy_above_chance,
        attacker=strongest.attacker,
        entropy=float(-torch.xlogy(occurring, occurring).sum()),
        test_rows=len(target.label),
        attacks=tuple(attacks),
    )


def _check_options(
    bins: int, kinds: Sequence[str], epochs: int, seed: int, progress: bool
) -> list[str]:
    if not _checks.is_integer(bins, 2) or bins & (bins - 1):
        raise ValueError(f"bins must be a power of two, at least 2, got {bins!r}")
    _checks.require_count("epochs", epochs)
    _checks.require_seed("seed", seed)
    _checks.require_bool("progress", progress)
    listed = isinstance(kinds, Collection) and not isinstance(kinds, str)
    if not (listed and kinds and all(kind in ATTACKERS for kind in kinds)):
        raise ValueError(
            f"attackers must be a list with at least one of {list(ATTACKERS)}, got {kinds!r}"
        )
    missing = [
        name
        for module, name, needed in (
            ("sklearn", "scikit-learn", "trees" in kinds),
            ("tqdm", "tqdm", progress),
        )
        if needed and find_spec(module) is None
    ]
    if missing:
        raise ImportError(
            f"mige_ext.audit needs {' and '.join(missing)}, the extra `audit`. In the source tree: "
            "pip install --no-build-isolation '.[audit]'"
        )
    return list(kinds)


def _with_bar(kinds: Sequence[str], classes: int, epochs: int, seed: int, progress: bool) -> Any:
    """The attackers, with a progress bar that is shown on a terminal only."""
    every = list(attackers(kinds, classes, epochs, seed))
    if not progress:
        return every
    from tqdm import tqdm

    return tqdm(every, desc="attackers", leave=False, disable=None)


def _frequencies(rows: Views, classes: int) -> Tensor:
    return torch.bincount(rows.label, minlength=classes).double() / len(rows.label)


# --- one attacker ---------------------------------------------------------------------------------


def _measure(
    name: str,
    predictions: Sequence[Prediction],
    validation: Views,
    target: Views,
    frequencies: Tensor,
) -> Attack:
    """The results of an attacker, whose exponent t comes from the validation rows."""
    known = frequencies > 0
    ratios = []
    for prediction in predictions:
        # The probabilities are mixed with the frequencies, so that none is 0.
        rest = 1 / (2 + len(validation.label))
        ratio = ((1 - rest) * prediction.log_p.double().exp() / frequencies + rest).log()
        ratios.append(torch.where(known, ratio, 0.0))
    power = _power(ratios[0], validation.label)
    power *= _reliability(_gains(power * ratios[0], validation.label)[0])
    (seen, seen_right), (gains, right) = (
        _gains(power * ratio, rows.label)
        for ratio, rows in zip(ratios, (validation, target), strict=True)
    )
    r2 = _r2(predictions, validation, target)
    return Attack(
        attacker=name,
        nats=float(gains.mean()),
        standard_error=float(gains.std() / math.sqrt(len(gains))),
        r2=None if r2 is None else r2[1],
        accuracy_above_chance=right if r2 is None else None,
        validation_nats=float(seen.mean()),
        validation_score=seen_right if r2 is None else r2[0],
    )


def _gains(ratio: Tensor, label: Tensor) -> tuple[Tensor, float]:
    """The gain log q'(s|z) − log p(s) of each row, and the accuracy of q' minus the accuracy of p.

    Args:
        ratio: log q(c|z) / p₀(c) of each row and class, (N, C) float64.
        label: class of each row, (N,).
    """
    p = torch.bincount(label, minlength=ratio.shape[1]).double() / len(label)
    scores = ratio + p.log()
    gains = ratio.gather(1, label[:, None])[:, 0] - scores.logsumexp(1)
    if not ratio.any():  # exactly 0, without rounding errors
        gains = torch.zeros_like(gains)
    right = (scores.argmax(1) == label).double().mean() - p.max()
    return gains, float(right)


def _power(ratio: Tensor, label: Tensor) -> float:
    """The exponent t with the largest gain, by bisection, because the gain is concave in t."""
    low, high = 0.0, _LARGEST_POWER
    p = torch.bincount(label, minlength=ratio.shape[1]).double() / len(label)
    own = ratio.gather(1, label[:, None])[:, 0].mean()
    for _ in range(30):
        middle = (low + high) / 2
        weights = (middle * ratio + p.log()).softmax(1)
        rising = own > (weights * ratio).sum(1).mean()
        low, high = (middle, high) if rising else (low, middle)
    return low


def _reliability(gains: Tensor) -> float:
    """The factor of t: about 1 for a clear gain, 0 for a gain within its standard error."""
    gain, error = float(gains.mean()), float(gains.std()) / math.sqrt(len(gains))
    return 1 - (error / gain) ** 4 if gain > error else 0.0


def _r2(
    predictions: Sequence[Prediction], validation: Views, target: Views
) -> tuple[float, float] | None:
    """R² of a continuous s on the validation and test rows, averaged over the columns of s.

    The predictions are centered and scaled by one factor per column, which is at least 0 and
    fitted to the validation rows.
    """
    if validation.s is None or target.s is None:
        return None
    factor: Tensor | None = None
    result = []
    for prediction, s in zip(predictions, (validation.s, target.s), strict=True):
        assert prediction.s is not None
        guess = prediction.s.double() - prediction.s.double().mean(0)
        truth = s.double() - s.double().mean(0)
        if factor is None:
            moment = guess.square().mean(0).clamp(min=torch.finfo(torch.float64).tiny)
            factor = ((guess * truth).mean(0) / moment).clamp(min=0)
        error = (truth - factor * guess).square().mean(0)
        variance = truth.square().mean(0)
        explained = torch.where(variance > 0, 1 - error / variance, 0.0)
        result.append(float(explained.mean()))
    return result[0], result[1]
