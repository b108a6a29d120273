"""The samples of several processes as one batch, for ``group=`` of the information functions.

R ranks have N samples together, and rank r has N_r samples. The gradient of a surrogate
(:mod:`mige_ext.information`) of all N samples has one row for each sample. Each rank computes the
rows of its own samples, multiplied by R, because DistributedDataParallel (DDP) averages the
gradients of the parameters over the ranks. Without DDP, average the gradients of the parameters
yourself.

The estimator decides how the ranks cooperate:

- **all-reduce**, for an estimator with the method ``score_distributed``, such as
  :class:`.Landmarks`: each rank sums over its samples, and the sums of all ranks are added.
- **all-gather**, for every other estimator: every rank receives all N samples, and computes exactly
  the scores that one process would compute, with the time and the memory of N samples.

Each call first exchanges shapes and errors (two collectives of about 100 bytes a rank). Ranks may
therefore have different numbers of samples, and an invalid argument raises on every rank. The host
waits for this exchange, so ``group=`` works neither in CUDA graphs nor under
``torch.compile(fullgraph=True)``.

Every rank must call the same number of times. A rank without data calls with samples of shape
(..., 0, d). The backward pass of :func:`.code_information` sums gradients with respect to the scale
of the code over the ranks, so every rank must run it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from mige_ext import _checks, _recording
from mige_ext._functions import Function, apply, refuse_vmap, visible
from mige_ext._precision import at_least_float32, in_units, positive, power_of_two
from mige_ext._torch_compat import is_transforming
from mige_ext.scores.base import AdditiveStatistics, DistributedScoreEstimator, ScoreEstimator


@dataclass(frozen=True, eq=False)
class GlobalBatch:
    """A batch of samples that is divided among the ranks of a process group."""

    group: "dist.ProcessGroup"  #: the process group
    sizes: tuple[int, ...]  #: N_r, the number of samples on every rank
    rank: int  #: r, the rank of this process in the group

    @property
    def total(self) -> int:
        """N, the number of samples on all ranks."""
        return sum(self.sizes)

    @property
    def offset(self) -> int:
        """Number of samples on the ranks before this one."""
        return sum(self.sizes[: self.rank])

    @property
    def weight(self) -> float:
        """``R N_r / N``, the weight of this rank's mean in the mean over all samples."""
        return len(self.sizes) * self.sizes[self.rank] / self.total

    @property
    def has_first(self) -> bool:
        """Whether the first of all samples is on this rank."""
        return self.offset == 0 and self.sizes[self.rank] > 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum over the ranks.

        The backward pass sums the gradients over the ranks. A factor R is not needed, because
        :meth:`gather` or :attr:`weight` applies this factor.
        """
        return _Sum.apply(values, self)

    def largest(self, values: Tensor) -> Tensor:
        """The elementwise maximum over the ranks, in place."""
        dist.all_reduce(values, dist.ReduceOp.MAX, group=self.group)
        return values

    def gather(self, samples: Tensor) -> Tensor:
        """The samples of all ranks, (..., N_r, d) -> (..., N, d), in the order of the ranks.

        The backward pass returns R times this rank's rows of the gradient, without communication.
        """
        return _Gather.apply(samples, self)


def global_batch(
    group: "dist.ProcessGroup | None",
    check: Callable[[int], None],
    axis: int = -2,
    **tensors: Tensor,
) -> GlobalBatch | None:
    """Check the arguments of an information function, on all ranks if there is a group.

    Args:
        group: the process group, every rank of which must call; None for this process alone.
        check: a function; ``check(n)`` raises if an argument is invalid or has fewer than n
            samples.
        axis: the dimension along which the samples are counted.
        tensors: the arguments, by name.

    Returns:
        The batch of all ranks; None without a group.

    Raises:
        TypeError: ``group`` is not a process group, or this process does not belong to it.
        ValueError, TypeError: an argument of this process is invalid, as ``check`` found.
        NotImplementedError: ``torch.func.vmap`` maps over an argument, or any transform of
            ``torch.func`` is active with a group.
        RuntimeError: a rank of ``group`` does not call within the time-out of the group.
        ValueError: an argument is invalid on another rank, the arguments of two ranks differ in
            more than the number of samples, or all ranks together have fewer than two samples.
    """
    if group is None:
        check(2)
        refuse_vmap(*tensors.values())
        return None
    _require_group(group)
    if is_transforming():
        raise NotImplementedError(
            "group does not work under the transforms of torch.func, such as grad and vmap: use "
            "backward or torch.autograd.grad"
        )
    error: Exception | None = None
    try:
        check(0)
        _checks.require_finite(**tensors)
    except (TypeError, ValueError) as invalid:
        error = invalid
    local = str(error) if error else [_described(tensor, axis) for tensor in tensors.values()]
    ranks: list[Any] = [None] * dist.get_world_size(group)
    try:
        dist.all_gather_object(ranks, local, group=group)
    except RuntimeError as failed:
        raise RuntimeError(
            "not every rank of group called the function within the time-out of group: all ranks "
            "must call the function equally often, also inside DistributedDataParallel.join. Give "
            "a rank without data samples of shape (..., 0, d). The communication failed: "
            f"{failed}"
        ) from failed
    if error is not None:
        raise error
    for rank, described in enumerate(ranks):
        if isinstance(described, str):
            raise ValueError(f"invalid argument on rank {rank} of group: {described}")
    counts = [len(described) for described in ranks]
    if min(counts) < max(counts):
        raise ValueError(
            "given must be passed on all ranks of group or on none, got "
            f"{min(counts)} tensors on rank {counts.index(min(counts))} and {max(counts)} on rank "
            f"{counts.index(max(counts))}"
        )
    for rank, described in enumerate(ranks):
        for name, (_, first), (_, other) in zip(tensors, ranks[0], described, strict=True):
            if first != other:
                raise ValueError(
                    f"{name} must differ between the ranks of group only in the number of samples "
                    f"M, got {first} on rank 0 and {other} on rank {rank}"
                )
    sizes = tuple(described[0][0] for described in ranks)
    if sum(sizes) < 2:
        raise ValueError(
            f"{' and '.join(tensors)} must have at least 2 samples on all ranks of group together, "
            f"got {sum(sizes)}"
        )
    return GlobalBatch(group, sizes, dist.get_rank(group))


def distribute(
    estimator: ScoreEstimator, batch: GlobalBatch | None, *tensors: Tensor
) -> tuple[ScoreEstimator, tuple[Tensor, ...]]:
    """Prepare an estimator and tensors, (..., N_r, d), for the surrogate of the global batch.

    Without a batch, nothing changes. An estimator with ``score_distributed`` is wrapped. For every
    other estimator, the samples of all ranks are gathered.
    """
    if batch is None:
        return estimator, tuple(visible(tensor) for tensor in tensors)
    if isinstance(estimator, DistributedScoreEstimator):
        return _GlobalEstimator(estimator, batch), tensors
    return estimator, tuple(batch.gather(tensor) for tensor in tensors)


class Block(NamedTuple):
    """x or z as a part of a pair."""

    samples: Tensor  #: (..., M, d)
    unit: Tensor | None = None  #: the scale by which the samples were divided, (..., 1, 1)
    varying: tuple[Tensor, ...] = ()  #: number of columns that vary, (..., 1, 1), if known


def on_one_scale(estimator: ScoreEstimator, samples: Tensor) -> Block:
    """Standardize x or z of a pair, if the estimator has one bandwidth for all columns.

    :func:`.mutual_information` then does not depend on the unit of x relative to the unit of z.

    Args:
        estimator: the estimator of the pair, as :func:`distribute` returned it.
        samples: x or z, (..., M, d), finite.

    Returns:
        If the estimator has one bandwidth for all columns, the results of
        :func:`standardized_block` for the samples of all ranks. For every other estimator, the
        samples alone.

    Cost:
        O(Md). With an estimator that reduces samples to sums, four collectives of at most d values.
    """
    if not getattr(estimator, "depends_on_scale", False):
        return Block(samples)
    batch = estimator.batch if isinstance(estimator, _GlobalEstimator) else None
    standardized, scale, varying = standardized_block(samples, batch)
    return Block(standardized, positive(scale), (varying,))


def standardized_block(samples: Tensor, batch: GlobalBatch | None) -> tuple[Tensor, Tensor, Tensor]:
    """The samples minus their mean, divided by one scale for all columns.

    The scale is the root mean square deviation over samples and columns, without constant columns.
    The first two results are differentiable, also through mean and scale.

    Args:
        samples: (..., M, d), finite.
        batch: the batch of all ranks, whose mean and scale are used; None for these samples alone.

    Returns:
        The standardized samples, (..., M, d), in float32 or float64, the scale, (..., 1, 1), and
        the number of columns that vary, (..., 1, 1). In a group without a varying column, the
        samples are 0.

    Cost:
        O(Md). With a batch, four collectives of at most d values.
    """
    x = at_least_float32(samples)
    m = max(x.shape[-2] if batch is None else batch.total, 1)
    empty = x.numel() == 0
    size = x.new_zeros((*x.shape[:-2], 1, 1)) if empty else x.detach().abs().amax((-2, -1), True)
    unit = power_of_two(size if batch is None else batch.largest(size))
    x = apply(_InUnits, x, unit)
    # Subtract the first sample: constant columns become exactly 0, and a large mean costs no
    # digits.
    if batch is None:
        first = x.narrow(-2, 0, 1)
    else:
        zero = x.new_zeros((*x.shape[:-2], 1, x.shape[-1]))
        first = batch.sum(x.narrow(-2, 0, 1) if batch.has_first else zero)
    # `first` needs no derivative, because the mean is subtracted next.
    x = x - first.detach()
    total = x.sum(-2, keepdim=True)
    x = x - (total if batch is None else batch.sum(total)) / m
    squares = x.square().sum(-2, keepdim=True)
    variances = (squares if batch is None else batch.sum(squares)) / m
    varying = (variances > 0).sum(-1, keepdim=True)
    variance = variances.sum(-1, keepdim=True) / varying.clamp(min=1)
    scale = torch.where(variance > 0, variance, 1.0).sqrt()
    return x / scale, unit * scale, varying


def all_reduce(statistics: AdditiveStatistics, group: "dist.ProcessGroup") -> None:
    """Sum the statistics of all ranks, in place, so that several processes compute one fit.

    Give every rank the same landmarks (``Landmarks.start_with(z)``) and its own samples
    (``partial_fit``), and call this function once. Each rank can then ``solve`` for all samples.

    Args:
        statistics: the statistics of this rank; every rank has the same landmarks.
        group: the process group, every rank of which must call.

    Raises:
        TypeError: ``group`` is not a process group, or this process does not belong to it.
        ValueError: two ranks have different landmarks.

    Cost:
        With m landmarks, 8·(m + 1)(m + d + 1) + 16md bytes for each group of samples, sent and
        received.
    """
    _require_group(group, or_none="")
    landmarks = statistics.landmarks.double()
    own = torch.stack((landmarks, -landmarks))
    largest = own.clone()
    dist.all_reduce(largest, dist.ReduceOp.MAX, group=group)
    if not torch.equal(largest, own):
        raise ValueError(
            "statistics must have the same landmarks on all ranks of group, got different "
            "landmarks: begin on every rank with start_with(z) and the same z"
        )
    dist.all_reduce(statistics.moments, group=group)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, samples: Tensor, batch: GlobalBatch) -> Tensor:
        ctx.batch = batch
        rows = samples.shape[-2]
        # The collective needs tensors of one size, so the samples are padded to the largest N_r.
        padded = samples.new_zeros((*samples.shape[:-2], max(batch.sizes), samples.shape[-1]))
        padded.narrow(-2, 0, rows).copy_(samples)
        parts = [torch.empty_like(padded) for _ in batch.sizes]
        dist.all_gather(parts, padded, group=batch.group)
        return torch.cat([p.narrow(-2, 0, n) for p, n in zip(parts, batch.sizes, strict=True)], -2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        batch = ctx.batch
        own = grad.narrow(-2, batch.offset, batch.sizes[batch.rank])
        return own * len(batch.sizes), None


class _InUnits(Function):
    """``x / unit``, whose gradient is also finite if ``1 / unit`` overflows."""

    generate_vmap_rule = True

    @staticmethod
    def called(*args: Any) -> str:
        return "a surrogate"

    @staticmethod
    def forward(x: Tensor, unit: Tensor) -> Tensor:
        return x / unit

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return in_units(grad, *ctx.saved_tensors), None


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, batch: GlobalBatch) -> Tensor:
        ctx.batch = batch
        return _summed(values, batch)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _summed(grad, ctx.batch), None


def _summed(values: Tensor, batch: GlobalBatch) -> Tensor:
    values = values.clone()
    dist.all_reduce(values, group=batch.group)
    return values


@dataclass(frozen=True, eq=False)
class _GlobalEstimator:
    """An estimator that gives each rank the scores of its own samples, from the global batch.

    The scores are multiplied by :attr:`GlobalBatch.weight`, because the surrogate divides them by
    the number of this rank's samples instead of N/R.
    """

    estimator: DistributedScoreEstimator
    batch: GlobalBatch

    @property
    def depends_on_scale(self) -> bool:
        return bool(getattr(self.estimator, "depends_on_scale", False))

    def score(self, samples: Tensor) -> Tensor:
        batch = self.batch
        scores = self.estimator.score_distributed(
            samples,
            offset=batch.offset,
            total=batch.total,
            all_reduce=lambda sums: dist.all_reduce(sums, group=batch.group),
        )
        _recording.report_nothing()
        return scores * batch.weight


def _described(tensor: Tensor, axis: int) -> tuple[int, str]:
    """The number of samples, and a description of the tensor that must be equal on all ranks.

    A tensor must require a gradient on all ranks or on none, because only a gradient needs its
    marginal score, and all ranks compute scores together.
    """
    sizes = [str(size) for size in tensor.shape]
    sizes[axis] = "M"
    needed = "with" if tensor.requires_grad and torch.is_grad_enabled() else "without"
    return tensor.shape[axis], f"{tensor.dtype} ({', '.join(sizes)}) {needed} gradient"


def _require_group(group: object, or_none: str = " or None") -> None:
    if not dist.is_available() or not isinstance(group, dist.ProcessGroup):
        raise TypeError(f"group must be a torch.distributed.ProcessGroup{or_none}, got {group!r}")
    if dist.get_rank(group) < 0:
        raise TypeError("group must contain this process, got a group of other processes")
