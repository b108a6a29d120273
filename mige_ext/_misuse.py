"""Warnings about the arguments of the information functions.

Values are read on the CPU only, because reading on CUDA would make the host wait. A look at an
argument reads 16 values of one column in about 10 microseconds, and reads more values only if two
of the 16 are equal. In a loop of short steps, most calls do not look.
"""

from time import monotonic

import torch
from torch import Tensor, is_grad_enabled

from mige_ext import _checks
from mige_ext._warnings import may_warn, warn_once

# Samples that a look reads. With fewer samples there is no warning about few values.
_FIRST_LOOK = 16
# Samples that a second look reads, if two of the 16 values are equal. Before a warning, all samples
# are read.
_SECOND_LOOK = 64
# After _LOOKS looks at arguments of one name and shape, there is no look for _PAUSE seconds. One
# look is not enough, because a training step may have several codes of one shape.
_LOOKS, _PAUSE = 8, 0.05
# The number of looks since the last pause, and the time of the last look, by name and shape.
_looks: dict[tuple[str, torch.Size], tuple[int, float]] = {}


def warn_without_gradient(**tensors: Tensor | None) -> None:
    """Warn if no argument requires a gradient, although gradients are enabled."""
    if not is_grad_enabled() or any(t is not None and t.requires_grad for t in tensors.values()):
        return
    if not may_warn("gradient"):
        return
    names = [name for name, tensor in tensors.items() if tensor is not None]
    both = f"neither {' nor '.join(names)} requires a"
    who = both if len(names) > 1 else f"{names[0]} requires no"
    warn_once(
        "gradient",
        f"{who} gradient, and the value of a surrogate means nothing, only its gradient does: do "
        "not detach the representation, or use torch.no_grad() if you need no gradient",
    )


def warn_of_values(*, few_values: bool = False, **samples: Tensor) -> None:
    """Warn if all samples are equal; with ``few_values`` also if they take few distinct values."""
    collapsed, few_values = may_warn("collapsed"), few_values and may_warn("few values")
    if not (collapsed or few_values):
        return
    for name, tensor in samples.items():
        m = tensor.shape[-2]
        if m < 2 or not tensor.numel() or not _is_due(name, tensor):
            continue
        if not _checks.looking_is_free(tensor):
            continue
        tensor = tensor.detach()
        count = min(m, _FIRST_LOOK)
        step = m // count * tensor.stride(-2)
        distinct = len(set(tensor.as_strided((count,), (step,)).tolist()))
        if distinct == 1 and collapsed:
            _warn_if_collapsed(name, tensor)
        if few_values and distinct < count == _FIRST_LOOK:
            _warn_if_few_values(name, tensor)
        # A filter that turns warnings into errors skips this line, so every call raises the error.
        _count_look(name, tensor)


def _is_due(name: str, samples: Tensor) -> bool:
    looks, last = _looks.get((name, samples.shape), (0, 0.0))
    return looks < _LOOKS or monotonic() - last >= _PAUSE


def _count_look(name: str, samples: Tensor) -> None:
    if len(_looks) > 1000:  # bounds the memory if every batch has another shape
        _looks.clear()
    looks, _ = _looks.get((name, samples.shape), (0, 0.0))
    _looks[name, samples.shape] = looks % _LOOKS + 1, monotonic()


def warn_of_swapped_draws(draws: int, inputs: int) -> None:
    """Warn if there are more draws than inputs: the two dimensions are probably swapped."""
    if draws > inputs and may_warn("swapped"):
        warn_once(
            "swapped",
            f"z has {draws} draws for each of {inputs} inputs, more draws than inputs: its shape "
            "is (..., N, K, d) with N inputs and K draws. If the draws come first, transpose z",
        )


def _warn_if_collapsed(name: str, samples: Tensor) -> None:
    if bool((samples == samples.narrow(-2, 0, 1)).all()):
        warn_once(
            "collapsed",
            f"all samples of {name} are equal: {name} has collapsed, and its scores are 0. Fix the "
            "scale of a representation (a BatchNorm without affine parameters), and lower the "
            "weight of the information in the loss",
        )


def _warn_if_few_values(name: str, samples: Tensor) -> None:
    first = samples[(0,) * (samples.dim() - 2)]
    m = first.shape[0]
    looked_at = min(m, _SECOND_LOOK)
    rows = first[torch.arange(looked_at) * (m - 1) // (looked_at - 1)]  # from the first to the last
    if 4 * rows[:, 0].unique().numel() > looked_at or 4 * rows.unique(dim=0).shape[0] > looked_at:
        return
    if 4 * first[:, 0].unique().numel() > m:
        return
    distinct = first.unique(dim=0).shape[0]  # of all samples
    if distinct > 1 and 4 * distinct <= m:
        warn_once(
            "few values",
            f"{name} takes {distinct} distinct values in {m} samples: it has no density, "
            f"which the scores need. If {name} is a category, mutual_information takes it as "
            "integers of shape (..., M) (docs/categories.md). Otherwise add a little noise to "
            f"{name}",
        )
