"""Samples of several processes as one batch, for ``group=`` of the information functions.

With R ranks, rank r holding N_r of the N samples, every rank gets its own rows of the gradient of
the surrogate of all N samples, times R. DistributedDataParallel averages gradients over the ranks,
``1/R Σ_r``, so that parameters get the gradient of the global surrogate, a mean over N samples; and
where every N_r is N/R, a rank's share is scaled like a mean over its own samples, as any loss that
DDP is used with. Without DDP: average the gradients of parameters yourself.

There are two ways, and the estimator decides:

- **all-gather**, any estimator: every rank gets all N samples and computes their scores, exactly
  those of one process. A rank receives N·d values of each tensor; time and memory are those of N
  samples, on every rank.
- **all-reduce**, :class:`~mige_ext.Landmarks`: the landmarks are chosen among all samples, the
  rows that one process would choose, and the statistics are summed. A rank sends and receives m·d
  values for the landmarks and 8·(m + 1)(m + d + 1) bytes for the statistics, whatever N is.

Before, the ranks tell each other what they hold (some 100 bytes of pickle each, two collectives):
numbers of samples may differ, and an argument that is refused on one rank is refused on all, so
that none waits for the others. The host waits for that, which keeps ``group=`` out of CUDA graphs
and of ``torch.compile(fullgraph=True)``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mige_ext import _checks
from mige_ext.scores.base import AdditiveStatistics, DistributedScoreEstimator, ScoreEstimator


@dataclass(frozen=True, eq=False)
class Share:
    """What part of a global batch this rank holds.

    Attributes:
        group: the process group.
        sizes: N_r, the number of samples on every rank.
        rank: r, of this process in the group.
    """

    group: dist.ProcessGroup
    sizes: tuple[int, ...]
    rank: int

    @classmethod
    def of(
        cls, group: dist.ProcessGroup, check: Callable[[], None], axis: int = -2, **tensors: Tensor
    ) -> "Share":
        """Tells the other ranks of this one's tensors, and hears of theirs.

        Args:
            group: the process group; every rank of it must call.
            check: raises what is wrong with the arguments of this rank.
            axis: where the samples are counted.
            tensors: the arguments, by name.

        Raises:
            TypeError: ``group`` is no process group that this process belongs to.
            ValueError: on every rank, if an argument of one is refused, or if the ranks' arguments
                differ in more than the number of samples, or are fewer than two samples.
        """
        _require_group(group)
        error: Exception | None = None
        try:
            check()
            for name, tensor in tensors.items():
                if _checks.looking_is_free(tensor):
                    _checks.require_finite(**{name: tensor})
        except (TypeError, ValueError) as refused:
            error = refused
        mine = str(error) if error else [_described(tensor, axis) for tensor in tensors.values()]
        everyone: list[Any] = [None] * dist.get_world_size(group)
        dist.all_gather_object(everyone, mine, group=group)
        if error is not None:
            raise error
        for rank, theirs in enumerate(everyone):
            if isinstance(theirs, str):
                raise ValueError(f"refused on rank {rank} of group: {theirs}")
            for name, this, other in zip(tensors, everyone[0], theirs, strict=True):
                if this[1:] != other[1:]:
                    raise ValueError(
                        f"{name} must be alike on all ranks of group but for the number of samples "
                        f"M, got {_words(this)} on rank 0 and {_words(other)} on rank {rank}"
                    )
        share = cls(group, tuple(theirs[0][0] for theirs in everyone), dist.get_rank(group))
        if share.total < 2:
            raise ValueError(
                f"{' and '.join(tensors)} must hold at least 2 samples on all ranks of group "
                f"together, got {share.total}"
            )
        return share

    @property
    def total(self) -> int:
        """N."""
        return sum(self.sizes)

    @property
    def offset(self) -> int:
        """Number of samples on the ranks before this one."""
        return sum(self.sizes[: self.rank])

    @property
    def weight(self) -> float:
        """``R N_r / N``, which makes the mean over the ranks of means over samples one over all."""
        return len(self.sizes) * self.sizes[self.rank] / self.total

    def gather(self, samples: Tensor) -> Tensor:
        """The samples of all ranks, (..., N_r, d) -> (..., N, d), in the order of the ranks.

        Its derivative takes this rank's rows and multiplies them by R; nothing is sent back.
        """
        gathered: Tensor = _Gather.apply(samples, self)
        return gathered


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, samples: Tensor, share: Share) -> Tensor:
        ctx.share = share
        rows = samples.shape[-2]
        # Padded, because a collective takes tensors of one size.
        padded = samples.new_zeros((*samples.shape[:-2], max(share.sizes), samples.shape[-1]))
        padded.narrow(-2, 0, rows).copy_(samples)
        parts = [torch.empty_like(padded) for _ in share.sizes]
        dist.all_gather(parts, padded, group=share.group)
        return torch.cat([p.narrow(-2, 0, n) for p, n in zip(parts, share.sizes, strict=True)], -2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        share = ctx.share
        mine = grad.narrow(-2, share.offset, share.sizes[share.rank])
        return mine * len(share.sizes), None


@dataclass(frozen=True, eq=False)
class EstimatorAcross:
    """A :class:`DistributedScoreEstimator` of the samples of all ranks, as an estimator.

    Its scores are multiplied by :attr:`Share.weight`, because who calls it divides them by the
    number of this rank's samples.
    """

    estimator: DistributedScoreEstimator
    share: Share

    def score(self, samples: Tensor) -> Tensor:
        """Scores at this rank's samples, (..., N_r, d) -> (..., N_r, d)."""
        share = self.share
        scores = self.estimator.score_distributed(
            samples,
            offset=share.offset,
            total=share.total,
            all_reduce=lambda sums: dist.all_reduce(sums, group=share.group),
        )
        return scores * share.weight


def all_reduce(running: AdditiveStatistics, group: dist.ProcessGroup) -> None:
    """Sums the statistics of all ranks, in place, so that each can solve for all samples.

    For fits that are split over processes: give every rank the same landmarks
    (``Landmarks.start_with(z)``), its own samples (``partial_fit``), and call this once.

    Args:
        running: of the same landmarks on every rank.
        group: the process group; every rank of it must call.

    Raises:
        TypeError: ``group`` is no process group that this process belongs to.

    Cost:
        8·(m + 1)(m + d + 1) bytes a group of samples, sent and received.
    """
    _require_group(group)
    dist.all_reduce(running.moments, group=group)


def across(
    estimator: ScoreEstimator, share: Share, *tensors: Tensor
) -> tuple[ScoreEstimator, tuple[Tensor, ...]]:
    """The estimator and the tensors from which the surrogate of the global batch is made."""
    if isinstance(estimator, DistributedScoreEstimator):
        return EstimatorAcross(estimator, share), tensors
    return estimator, tuple(share.gather(tensor) for tensor in tensors)


def _described(tensor: Tensor, axis: int) -> tuple[int, str, str, bool]:
    """The number of samples, the dtype, the other dimensions, and whether a gradient is wanted.

    The last, because the entropy of an argument is estimated only where its gradient is.
    """
    sizes = [str(size) for size in tensor.shape]
    sizes[axis] = "M"
    wanted = tensor.requires_grad and torch.is_grad_enabled()
    return tensor.shape[axis], str(tensor.dtype), f"({', '.join(sizes)})", wanted


def _words(described: tuple[int, str, str, bool]) -> str:
    _, dtype, shape, wanted = described
    return f"{dtype} {shape} {'with' if wanted else 'without'} gradient"


def _require_group(group: object) -> None:
    if not dist.is_available() or not isinstance(group, dist.ProcessGroup):
        raise TypeError(f"group must be a torch.distributed.ProcessGroup or None, got {group!r}")
    if dist.get_rank(group) < 0:
        raise TypeError("group must be one that this process belongs to")
