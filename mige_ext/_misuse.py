"""Warnings about the arguments of the information functions.

Values are read on the CPU only, because on CUDA the host would wait. A first read of 16 samples
takes 10 to 20 µs. More samples are read only if two of the 16 values of a column are equal, and
most calls in a loop of short steps read none.
"""

from time import monotonic

import torch
from torch import Tensor, is_grad_enabled

from mige_ext import _checks
from mige_ext._warnings import may_warn, warn_once

# Numbers of samples that are read first and next. Then all samples are read.
_FIRST_SAMPLES, _MORE_SAMPLES = 16, 64
# Of an argument with more columns, such as images, only the first column is read.
_MOST_COLUMNS = 8
# After _READS reads of arguments of one name and shape, such arguments are not read for _PAUSE
# seconds. (A training step may have several codes of one shape.)
_READS, _PAUSE = 8, 0.05
# The number of reads since the last pause, and the time of the last read, by name and shape.
_reads: dict[tuple[str, torch.Size], tuple[int, float]] = {}


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
        f"{who} gradient, but only the gradient of a surrogate has a meaning: do not detach the "
        "representation, or use torch.no_grad() if you need no gradient",
    )


def warn_of_equal(x: Tensor, z: Tensor) -> None:
    """Warn if x and z have the same values, because their mutual information is then infinite."""
    if x.shape != z.shape or not x.numel() or not may_warn("equal"):
        return
    if x is not z and not _share_memory(x, z):
        if not (_is_due("x and z", x) and _checks.can_read(x) and _checks.can_read(z)):
            return
        _count_read("x and z", x)
        if not torch.equal(x.detach(), z.detach()):
            return
    warn_once(
        "equal",
        "x and z have the same values, so I(x; z) is infinite: give two different variables. To "
        "maximize the entropy of z, use entropy(z). For a code z = E(x), use code_information",
    )


def _share_memory(x: Tensor, z: Tensor) -> bool:
    """Whether both are ordinary tensors with the same memory, strides and dtype."""
    if not (_checks.has_values(x) and _checks.has_values(z)):
        return False
    layouts = ((t.data_ptr(), t.stride(), t.dtype, t.device) for t in (x, z))
    return not x.is_meta and next(layouts) == next(layouts)


def warn_of_values(*, few_values: bool = False, **samples: Tensor) -> None:
    """Warn if all samples are equal, or (with ``few_values``) take few distinct values."""
    for name, tensor in samples.items():
        collapsed = may_warn(f"collapsed {name}")
        few = few_values and may_warn(f"few values of {name}")
        m = tensor.shape[-2]
        if not (collapsed or few) or m < 2 or not tensor.numel() or not _is_due(name, tensor):
            continue
        if not _checks.can_read(tensor):
            continue
        tensor = tensor.detach()
        count = min(m, _FIRST_SAMPLES)
        strides = m // count * tensor.stride(-2), tensor.stride(-1)
        columns = tensor.shape[-1] if tensor.shape[-1] <= _MOST_COLUMNS else 1
        rows = tensor.as_strided((count, columns), strides).tolist()
        distinct = [len(set(column)) for column in zip(*rows, strict=True)]
        if distinct[0] == 1 and collapsed:
            _warn_if_collapsed(name, tensor)
        if few and min(distinct) < count == _FIRST_SAMPLES:
            _warn_if_few_values(name, tensor)
        # If a filter turns warnings into errors, this line is not reached, and every call raises.
        _count_read(name, tensor)


def _is_due(name: str, samples: Tensor) -> bool:
    reads, last = _reads.get((name, samples.shape), (0, 0.0))
    return reads < _READS or monotonic() - last >= _PAUSE


def _count_read(name: str, samples: Tensor) -> None:
    if len(_reads) > 1000:  # bounds the memory if every batch has another shape
        _reads.clear()
    reads, _ = _reads.get((name, samples.shape), (0, 0.0))
    _reads[name, samples.shape] = reads % _READS + 1, monotonic()


def warn_of_swapped_draws(draws: int, inputs: int) -> None:
    """Warn if there are more draws than inputs: the two dimensions are probably swapped."""
    if draws > inputs and may_warn("swapped"):
        warn_once(
            "swapped",
            f"z has {draws} draws for each of {inputs} inputs, more draws than inputs: z has the "
            "shape (..., N, K, d) with N inputs and K draws. If the draws come first, transpose z",
        )


def _warn_if_collapsed(name: str, samples: Tensor) -> None:
    if bool((samples == samples.narrow(-2, 0, 1)).all()) and bool(samples.isfinite().all()):
        warn_once(
            f"collapsed {name}",
            f"all samples of {name} are equal: {name} has collapsed, and its scores are 0. Fix the "
            "scale of a representation, as BatchNorm without affine parameters does, and lower the "
            "weight of the information in the loss",
        )


def _warn_if_few_values(name: str, samples: Tensor) -> None:
    """Warn if the rows, or the values of one of a few columns, take few distinct values."""
    first = samples[(0,) * (samples.dim() - 2)]
    m, d = first.shape
    count = min(m, _MORE_SAMPLES)
    # Rows from the first to the last, which are looked at before all rows are.
    sample = torch.arange(count, device=first.device) * (m - 1) // (count - 1)
    if not bool(first[sample].isfinite().all()):
        return
    advice = f"mutual_information integers of shape (..., {m}) (docs/categories.md)"
    distinct = _few_distinct(first[:, :1], sample) and _few_distinct(first, sample)
    if distinct:
        warn_once(
            f"few values of {name}",
            f"{name} takes {distinct} distinct values in {m} samples, so {name} has no density and "
            f"no score. If {name} is a category, give {advice}. Otherwise add a little noise to "
            f"{name}",
        )
        return
    for column in range(d if d <= _MOST_COLUMNS else 0):
        distinct = _few_distinct(first[:, column], sample)
        if distinct:
            warn_once(
                f"few values of {name}",
                f"column {column} of {name} takes {distinct} distinct values in {m} samples, so "
                f"{name} has no density and no score. If the column is a category, give {advice} "
                "for it, in a call of its own. Otherwise add noise to the column",
            )
            return


def _few_distinct(values: Tensor, sample: Tensor) -> int:
    """The number of distinct values or rows, (M) or (M, d), if it is from 2 to M / 4; otherwise 0.

    The rows ``sample`` are looked at first.
    """
    if 4 * values[sample].unique(dim=0).shape[0] > len(sample):
        return 0
    distinct = values.unique(dim=0).shape[0]
    return distinct if 1 < distinct <= len(values) / 4 else 0
