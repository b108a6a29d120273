"""Mutual information with categories: ``I(s; z)`` of a class s, and information given a class y.

Let ŝ be the score of all samples, and ŝ_c the score of the samples in class c. The gradient of
``I(s; z) = H(z) − Σ_c p(c) H(z | c)`` with respect to a sample z_i of class c is
``(ŝ_c(z_i) − ŝ(z_i)) / M``. By Bayes' theorem, ``ŝ_c(z) − ŝ(z) = ∇_z log p(c | z)``. With
``marginal="paired"``, Gaussian classifiers give this difference
(:mod:`mige_ext.scores.categorical`). Otherwise an estimator gives the two scores.

On CUDA the host waits several times in each call for the number of classes and their sizes.
"""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor

from mige_ext import _checks, _misuse, _recording
from mige_ext._functions import refuse_vmap
from mige_ext._gradients import entropy_and_gradient, information_with
from mige_ext._precision import at_least_float32
from mige_ext._surrogate import Compute, MutualInformation, may_need_gradient, surrogate
from mige_ext._warnings import may_warn, warn_once, without_warning
from mige_ext.distributed import global_batch
from mige_ext.information._common import checked_estimator
from mige_ext.scores.base import ScoreEstimator, stein_sum
from mige_ext.scores.categorical import class_departure

#: Classes with fewer samples add nothing to the information, and their samples get no gradient.
LEAST_SAMPLES = 3
#: More classes, with fewer than FEW_SAMPLES samples on average, give a warning.
MANY_CLASSES, FEW_SAMPLES = 16, 8


def is_category(x: object) -> bool:
    """Whether an argument is a category: a tensor of integers or of booleans."""
    return isinstance(x, Tensor) and not (x.dtype.is_floating_point or x.dtype.is_complex)


def information_of_category(
    s: Tensor,
    z: Tensor,
    given: Tensor | None,
    estimator: ScoreEstimator | None,
    marginal: str,
    group: "dist.ProcessGroup | None",
) -> Tensor:
    """The surrogate of I(s; z), or of I(s; z | y) with y = ``given``, for a category s.

    The arguments are those of :func:`.mutual_information`, in which s is called x.
    """
    checked = checked_estimator(estimator)
    if marginal == "paired" and estimator is not None:
        raise ValueError(
            'estimator must be None for a category x with marginal="paired", got '
            f'{estimator!r}: use marginal="own" for scores within the classes'
        )
    s, z, given = _prepared(s, z, given, group)
    _misuse.warn_without_gradient(z=z)
    _misuse.warn_of_values(z=z)
    _recording.begin("mutual_information")
    cells, conditions = _cells(s, given)
    least = 2 if marginal == "paired" else LEAST_SAMPLES
    owner = "x has" if given is None else "x and given together have"
    _warn_of_small_classes(cells, len(conditions), least, owner)
    if marginal == "paired":
        return surrogate(MutualInformation, partial(_classifier, cells, conditions), z)
    within = conditions[cells]
    others = _permuted(cells, within) if marginal == "matched" else within
    return surrogate(MutualInformation, partial(_scores_within, checked, others, cells), z)


def conditional_information(
    x: Tensor,
    z: Tensor,
    given: Tensor,
    estimator: ScoreEstimator,
    marginal: str,
    group: "dist.ProcessGroup | None",
    projected: Callable[[Tensor], Tensor],
) -> Tensor:
    """The surrogate of ``I(x; z | y) = Σ_y p(y) I(x; z | y)`` for x and z with a density."""
    check = partial(_checks.require_paired, "x", x, "z", z, may_be_category=True)
    x, z, labels = _prepared(x, z, given, group, check)
    assert labels is not None
    _misuse.warn_without_gradient(x=x, z=z)
    _misuse.warn_of_equal(x, z)
    _misuse.warn_of_values(x=x, z=z, few_values=True)
    _recording.begin("mutual_information")
    x = projected(x)
    compute = information_with(marginal, estimator, may_need_gradient(x), may_need_gradient(z))
    values, ids = labels.unique(return_inverse=True)
    _warn_of_small_classes(ids, len(values), LEAST_SAMPLES, "given has")
    within = partial(_within_classes, compute, _rows_by_size(ids))
    return surrogate(MutualInformation, within, x, z)


# --- arguments ------------------------------------------------------------------------------------


def _prepared(
    x: Tensor,
    z: Tensor,
    given: Tensor | None,
    group: "dist.ProcessGroup | None",
    check_samples: Callable[[int], None] | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The arguments of all ranks, with categories as int64 of shape (..., M)."""

    def check(least: int) -> None:
        _refuse_tracing(x, z, given)
        if check_samples is not None:
            check_samples(least)
        else:
            _checks.require_samples("z", z, least)
            _require_category("x", x, z)
        if given is not None:
            _require_category("given", given, z)
        _checks.require_finite(**({} if check_samples is None else {"x": x}), z=z)

    if group is None:
        check(2)
        return _integers(x), z, None if given is None else _integers(given)
    tensors = {"x": x, "z": z, **({} if given is None else {"given": given})}
    columns = {
        name: _integers(tensor).unsqueeze(-1) if is_category(tensor) else tensor
        for name, tensor in tensors.items()
        if isinstance(tensor, Tensor)
    }
    batch = global_batch(group, check, -2, **columns)
    assert batch is not None
    gathered = {
        name: batch.gather(tensor).squeeze(-1) if is_category(tensor) else batch.gather(tensor)
        for name, tensor in columns.items()
    }
    return gathered["x"], gathered["z"], gathered.get("given")


def _require_category(name: str, value: object, z: Tensor) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
    if not is_category(value):
        raise TypeError(f"{name} must have an integer or boolean dtype, got {value.dtype}")
    if value.is_nested:
        raise TypeError(f"{name} must be a dense tensor, got a nested one")
    if value.layout != torch.strided:
        raise TypeError(f"{name} must be a dense tensor, got layout {value.layout}")
    _checks.require_same_device(name, value, "z", z)
    if value.shape != z.shape[:-1]:
        expected = f"shape {tuple(z.shape[:-1])} for z of shape {_checks.shape(z)}"
        if name == "x" and value.dim() == z.dim():
            raise ValueError(
                f"{name} must have a floating-point dtype, got {value.dtype}, unless {name} is a "
                f"category, which must have {expected}, got {_checks.shape(value)}"
            )
        raise ValueError(
            f"{name} must have the leading dimensions and the samples of z, {expected}, "
            f"got {_checks.shape(value)}"
        )


def _refuse_tracing(*tensors: Tensor | None) -> None:
    if torch.compiler.is_compiling():
        raise RuntimeError(
            "mutual_information with a category (an integer x, or given) does not work under "
            "torch.compile, because it reads the number of classes: call it outside the compiled "
            "function"
        )
    present = [tensor for tensor in tensors if isinstance(tensor, Tensor)]
    refuse_vmap(*present)
    if any(tensor.is_cuda for tensor in present) and torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            "mutual_information with a category cannot be captured in a CUDA graph, because the "
            "host reads the number of classes"
        )


def _integers(value: Tensor) -> Tensor:
    return value.long() if is_category(value) else value


# --- classes --------------------------------------------------------------------------------------


def _cells(s: Tensor, given: Tensor | None) -> tuple[Tensor, Tensor]:
    """The cell of each sample, (..., M), and the condition of each cell, (K).

    A *cell* is a pair (c, y) of a class and a condition. Cells and conditions are numbered from 0.
    """
    classes, ids = s.unique(return_inverse=True)
    if given is None:
        return ids, torch.zeros_like(classes)
    conditions, condition_ids = given.unique(return_inverse=True)
    pairs, cells = (ids * len(conditions) + condition_ids).unique(return_inverse=True)
    return cells, pairs % len(conditions)


def _per_group(ids: Tensor) -> Tensor:
    """The integers as one row, (..., M) -> (G·M), shifted so that groups share no integer."""
    if ids.numel() == 0:
        return ids.flatten()
    rows = ids.reshape(-1, ids.shape[-1])
    first = torch.arange(len(rows), device=ids.device).unsqueeze(-1) * (ids.amax() + 1)
    return (rows + first).flatten()


def _rows_by_size(ids: Tensor) -> list[Tensor]:
    """For each size n of a class, ascending, the rows of the k classes of this size, (k, n).

    ``ids`` has the class of each sample, (..., M), and every group has its own classes. Classes of
    fewer than :data:`LEAST_SAMPLES` samples are left out.
    """
    if ids.numel() == 0:
        return []
    labels = _per_group(ids)
    order = labels.argsort(stable=True)
    counts = labels.unique(return_counts=True)[1].cpu()
    starts = counts.cumsum(0) - counts
    places = [
        starts[counts == n].unsqueeze(-1) + torch.arange(n, device="cpu")
        for n in counts.unique().tolist()
        if n >= LEAST_SAMPLES
    ]
    return [order[each.to(ids.device)] for each in places]


def _warn_of_small_classes(ids: Tensor, count: int, least: int, owner: str) -> None:
    """Warn of small classes, for example because numbers were given as integers.

    ``ids`` are integers from 0 to ``count`` − 1. Classes need ``least`` samples for a gradient.
    ``owner`` begins the warnings, such as "x has".
    """
    # With few classes, one class must be large enough, and the sizes need not be counted.
    small = (least - 1) * count >= ids.shape[-1] and may_warn("small classes")
    many = count > MANY_CLASSES and may_warn("many classes")
    if ids.numel() == 0 or not (small or many):
        return
    sizes = _per_group(ids).unique(return_counts=True)[1]  # every group has its own classes
    if small and int(sizes.max()) < least:
        warn_once(
            "small classes",
            f"{owner} no class of at least {least} samples, so the gradient is 0. Integers are a "
            "category: give numbers with a floating-point dtype, or merge classes",
        )
    elif many and len(sizes) * FEW_SAMPLES > ids.numel():
        warn_once(
            "many classes",
            f"{owner} {len(sizes)} classes in {ids.numel()} samples, on average fewer than "
            f"{FEW_SAMPLES} samples in a class. Integers are a category: give a quantity, such as "
            "an age, with a floating-point dtype (docs/removing.md), or merge classes",
        )


def _permuted(cells: Tensor, within: Tensor) -> Tensor:
    """The cells, permuted at random within each group and condition ``within``."""
    flat, conditions = cells.flatten(), _per_group(within)
    shuffled = torch.randperm(len(flat), device=flat.device)
    source = shuffled[conditions[shuffled].argsort(stable=True)]
    permuted = torch.empty_like(flat)
    permuted[conditions.argsort(stable=True)] = flat[source]
    return permuted.reshape(cells.shape)


# --- values and gradients -------------------------------------------------------------------------


def _classifier(cells: Tensor, conditions: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """The surrogate of I(s; z | y) and its gradient, from the Gaussian classifiers."""
    samples = at_least_float32(z)
    m, d = z.shape[-2:]
    if z.numel() == 0:
        return samples.sum(), torch.zeros_like(samples)
    flat = samples.reshape(-1, m, d)
    departure = class_departure(flat, cells.reshape(-1, m), conditions)
    gradient = -departure / flat.shape[:-1].numel()
    return stein_sum(flat, gradient).sum(), gradient.reshape(z.shape)


def _scores_within(
    estimator: ScoreEstimator, others: Tensor, cells: Tensor, z: Tensor
) -> tuple[Tensor, Tensor]:
    """The surrogate of I(s; z | y) = H(z | y) − H(z | s, y), and its gradient.

    H(z | y) is estimated within the classes ``others``, and H(z | s, y) within the cells.
    """
    value, gradient = z.new_zeros(()), torch.zeros_like(at_least_float32(z))
    # A sample gets a gradient only if both of its classes have scores: one alone would be a bias.
    counted = torch.ones(z.shape[:-1], dtype=torch.bool, device=z.device)
    for sign, ids, term in ((1, others, "z"), (-1, cells, "z given x")):
        classes = _rows_by_size(ids)
        compute = partial(entropy_and_gradient, estimator, term=term)
        part, part_gradient = _within_classes(compute, classes, z)
        value, gradient = value + sign * part, gradient + sign * part_gradient
        in_classes = torch.zeros(ids.numel(), dtype=torch.bool, device=z.device)
        for rows in classes:
            in_classes[rows.flatten()] = True
        counted &= in_classes.reshape(ids.shape)
    return value, torch.where(counted.unsqueeze(-1), gradient, 0.0)


def _within_classes(
    compute: Compute, classes: list[Tensor], *tensors: Tensor
) -> tuple[Tensor, ...]:
    """The mean of a surrogate over the classes, weighted by their frequencies, and its gradients.

    Args:
        compute: a function of tensors (k, n, d), which returns the mean of the surrogate over the k
            groups and its gradients.
        classes: the rows of the classes (:func:`_rows_by_size`).
        tensors: (..., M, d).
    """
    flat = [at_least_float32(tensor).reshape(-1, tensor.shape[-1]) for tensor in tensors]
    value = flat[0].new_zeros(())
    gradients = [torch.zeros_like(tensor) for tensor in flat]
    for rows in classes:
        weight = rows.numel() / len(flat[0])
        # Only the largest classes may cause a warning, because small classes are usual.
        with without_warning("few samples") if rows is not classes[-1] else nullcontext():
            part, *parts = compute(*(tensor[rows] for tensor in flat))
        value = value + weight * part
        for gradient, each in zip(gradients, parts, strict=True):
            gradient[rows] = weight * each.to(gradient.dtype)
    return value, *(
        gradient.reshape(tensor.shape) for gradient, tensor in zip(gradients, tensors, strict=True)
    )
