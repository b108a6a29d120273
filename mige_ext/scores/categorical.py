"""The gradient of log p(c | z) for a class c, averaged over Gaussian classifiers.

A classifier assumes that class c has the density N(μ_c, Σ_c) with a shrunk covariance,

    Σ_c = (S_c + ν t_c Σ) / (n_c − 1 + ν).

n_c is the number of samples in class c, and S_c is their scatter matrix. Σ is the covariance within
the classes plus a ridge, which is d/M times the covariance of all samples. There are 11 candidates
of classifiers:

- Eight candidates combine four values of ν with two values of t_c: 1, and the scale of the class,
  ``(tr(Σ^{−1} S_c) + 2d) / ((n_c + 1) d)``. For ``ν = ∞`` the covariances are ``t_c Σ``.
- Two candidates, one for each value of t_c, split every class into two modes by 2-means. Each mode
  is a Gaussian with ``ν = ∞``, and the class is the mixture of both.
- The last candidate assumes that z is independent of the class.

The *evidence* of a candidate is its leave-one-out log-likelihood: the sum over the samples of the
log-probability of the class, computed without the sample. The gradients of the candidates are
averaged with weights proportional to the exponential of the evidence. The average is therefore near
0 unless a classifier predicts classes better than the frequencies of the classes do.

In coordinates where Σ = I, all Σ_c of a class have the eigenvectors of S_c, and leaving out a
sample changes them by a matrix of rank one. One eigendecomposition for each class therefore gives
the evidence of all candidates in closed form. 2-means is not repeated without each sample, so the
evidence of two modes is too high, and ``SPLIT_COST`` times d is subtracted for each class.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from mige_ext import ops
from mige_ext._memory import check_memory_of_classes
from mige_ext._precision import about_origin, no_autocast, per_group, saturated

#: ν of the candidates, divided by the dimension.
STRENGTHS = (0.5, 2.0, 8.0, math.inf)
#: Samples that the prior adds to the estimate of the scale of a class.
SCALE_SAMPLES = 2
#: Correction of the evidence of candidates with two modes, for each class and dimension.
SPLIT_COST = 0.75
#: Iterations of 2-means.
SPLIT_STEPS = 5


def class_departure(z: Tensor, cells: Tensor, conditions: Tensor) -> Tensor:
    """``ŝ(z | y) − ŝ(z | c, y) = −∇_z log p(c | z, y)`` at the samples.

    A *cell* is a pair of a class c and a condition y.

    Args:
        z: samples, (G, M, d) with M >= 2, in float32 or float64, finite.
        cells: the cell of each sample, (G, M), integers of 0 ... K − 1.
        conditions: the condition of each cell, (K), integers; all equal without a condition.

    Returns:
        (G, M, d), of the dtype of z; 0 in a group with one class in each condition.

    Raises:
        MemoryError: the device has too little free memory.

    Cost:
        O(M K d² + K d³) for each group, and about 12 M K d numbers of memory.
    """
    check_memory_of_classes(z, len(conditions))
    with no_autocast(z):
        samples, _, unit = about_origin(z)
        white, back = _whitened(samples)
        owners = torch.arange(len(conditions), device=z.device)
        whole = _Classes.of(white, cells, owners, conditions, STRENGTHS)
        twice = owners.repeat_interleave(2), conditions.repeat_interleave(2)
        split = _Classes.of(white, whole.modes(), *twice, (math.inf,))
        used = (whole.sizes > 0).sum(-1, keepdim=True).to(white.dtype)
        cost = SPLIT_COST * used * white.shape[-1]
        evidence = whole.evidence(), split.evidence() - cost, whole.evidence_of_frequencies()
        weights = torch.cat(evidence, -1).softmax(-1)
        of_whole, of_split, _ = weights.split([part.shape[-1] for part in evidence], -1)
        departure = whole.departure(of_whole) + split.departure(of_split)
        return saturated(departure @ back.mT / unit)


def _whitened(x: Tensor) -> tuple[Tensor, Tensor]:
    """White samples (..., M, r) with r = min(M, d), and the map to them, (..., d, r)."""
    mean, whitening, _ = ops.ridge_whitening(x)
    white = (x - mean.unsqueeze(-2)) @ whitening
    if x.shape[-1] <= x.shape[-2]:
        return white, whitening
    span = torch.linalg.qr(white.mT).Q  # (d, M); a rotation does not change the gradient
    return white @ span, whitening @ span


def _candidates(
    n: Tensor, trace: Tensor, d: int, strengths: tuple[float, ...]
) -> tuple[Tensor, Tensor]:
    """Factors of ``Σ_c = scatter · S_c + identity · I`` for C candidates, (...) -> (..., C).

    ``n`` are sizes of classes, and ``trace`` the traces of their scatters.
    """
    freedom = (n - 1).clamp(min=0).unsqueeze(-1)
    scale = (trace.clamp(min=0).unsqueeze(-1) + SCALE_SAMPLES * d) / (freedom + SCALE_SAMPLES) / d
    # On CUDA, the host waits if a list is copied, but not if a tensor is filled.
    nu = torch.stack([n.new_full((), strength * d) for strength in strengths])
    scatter = 1 / (freedom + nu)
    identity = torch.where(nu.isinf(), 1.0, nu * scatter)
    return torch.cat((scatter, scatter), -1), torch.cat((identity, identity * scale), -1)


@dataclass(frozen=True, eq=False)
class _Classes:
    """Gaussians in coordinates where Σ = I: one for each cell, or one for each mode of a cell."""

    strengths: tuple[float, ...]  #: ν / d of the candidates
    basis: Tensor  #: map from white samples to the coordinates where Σ = I, (G, r, r)
    member: Tensor  #: the Gaussian of each sample, (G, M)
    sizes: Tensor  #: number of samples of each Gaussian, (G, K)
    rivals: Tensor  #: whether the Gaussian has samples, and the sample's condition, (G, K, M)
    own: Tensor  #: the same for Gaussians of the sample's class, (G, K, M)
    values: Tensor  #: eigenvalues of the scatter of each Gaussian, (G, K, r)
    vectors: Tensor | None  #: eigenvectors of the scatter, (G, K, r, r); None for the identity
    trace: Tensor  #: trace of the scatter, (G, K)
    centered: Tensor  #: samples relative to the overall mean, (G, M, r)
    residual: Tensor  #: samples relative to the mean of their own Gaussian, (G, M, r)
    offset: Tensor  #: samples relative to the mean of each Gaussian, along vectors, (G, K, M, r)

    @classmethod
    def of(
        cls,
        white: Tensor,
        member: Tensor,
        owners: Tensor,
        conditions: Tensor,
        strengths: tuple[float, ...],
    ) -> "_Classes":
        """The Gaussians of white samples (G, M, r).

        ``owners`` has the class of each Gaussian, (K), and ``conditions`` the condition, (K). If
        every ν is infinite, the scatters need no eigendecomposition.
        """
        m, r = white.shape[-2:]
        here = one_hot(member, len(owners)).to(white.dtype).mT  # (G, K, M)
        sizes = here.sum(-1)
        rivals = conditions[member].unsqueeze(-2) == conditions.unsqueeze(-1)
        rivals = rivals & (sizes > 0).unsqueeze(-1)
        own = rivals & (owners[member].unsqueeze(-2) == owners.unsqueeze(-1))
        means = here @ white / sizes.clamp(min=1).unsqueeze(-1)
        residual = white - here.mT @ means
        freedom = per_group(_freedom(sizes, m))
        within, axes = ops.eigh(residual.mT @ residual / freedom)
        basis = axes * (within.clamp(min=0) + r / m).rsqrt().unsqueeze(-2)
        white, residual, means = white @ basis, residual @ basis, means @ basis
        trace = (here @ residual.square()).sum(-1)
        offset = white.unsqueeze(-3) - means.unsqueeze(-2)
        if all(math.isinf(nu) for nu in strengths):
            values, vectors = torch.zeros_like(means), None
        else:
            weighted = here.unsqueeze(-1) * residual.unsqueeze(-3)
            values, vectors = ops.eigh(weighted.mT @ weighted)
            offset = offset @ vectors
        return cls(
            strengths, basis, member, sizes, rivals, own, values.clamp(min=0), vectors, trace,
            white, residual, offset,
        )  # fmt: skip

    def modes(self) -> Tensor:
        """The mode of each sample by 2-means, (G, M): Gaussian k has the modes 2k and 2k + 1.

        2-means starts from the sign of the sample in the widest direction of the Gaussian.
        """
        widest = self._of_member(self.offset).narrow(-1, self.offset.shape[-1] - 1, 1)
        first, modes = 2 * self.member, 2 * self.member + (widest > 0).long().squeeze(-1)
        for _ in range(SPLIT_STEPS):
            here = one_hot(modes, 2 * self.sizes.shape[-1]).to(self.centered.dtype).mT
            means = here @ self.centered / here.sum(-1, keepdim=True).clamp(min=1)
            distances = [
                (self.centered - _gathered(means, first + side)).square().sum(-1) for side in (0, 1)
            ]
            modes = first + (distances[1] < distances[0]).long()
        return modes

    def departure(self, weights: Tensor) -> Tensor:
        """The weighted sum of the negative gradients of C candidates, (G, C) -> (G, M, r)."""
        scatter, identity = self._candidates(self.sizes, self.trace)
        variances = self._variances(scatter, identity)
        distance = self.offset.square() @ (1 / variances)  # (G, K, M, C)
        logits = (self.sizes + 0.5).log().unsqueeze(-1) - variances.log().sum(-2) / 2
        every, own = self._masked(logits.unsqueeze(-2) - distance / 2)
        coefficients = (own.softmax(-3) - every.softmax(-3)) * weights[:, None, None]
        total = coefficients @ (1 / variances).mT * self.offset  # (G, K, M, r)
        if self.vectors is not None:
            total = total @ self.vectors.mT
        return total.sum(-3) @ self.basis.mT

    def evidence_of_frequencies(self) -> Tensor:
        """The evidence of the frequencies of the classes, (G, 1)."""
        logits = (self.sizes + 0.5).log().unsqueeze(-1).expand(self.rivals.shape).unsqueeze(-1)
        own = (self.sizes - 0.5).clamp(min=0.5).log().gather(-1, self.member)
        return self._evidence(logits, own.unsqueeze(-1))

    def evidence(self) -> Tensor:
        """The evidence of each candidate, (G, C).

        Let r be the residual of a sample whose own Gaussian has n samples, and h = n/(n − 1).
        Without the sample, the scatter of this Gaussian is ``S_c − h r rᵀ``, the residual is h r,
        and Σ loses ``h r rᵀ`` too. The Sherman–Morrison formula gives the inverses.
        """
        m = self.residual.shape[-2]
        n = self.sizes.gather(-1, self.member)  # of the sample's own Gaussian, (G, M)
        h = torch.where(n > 1, n / (n - 1).clamp(min=1), 0.0)
        freedom = _freedom(self.sizes, m).unsqueeze(-1)
        left = torch.where(n > 1, freedom - 1, freedom).clamp(min=1)  # without the sample
        residual = self.residual.unsqueeze(-3)
        residual = (
            residual.expand_as(self.offset) if self.vectors is None else residual @ self.vectors
        )

        # For the Gaussians of other samples, leaving out the sample changes only Σ.
        scatter, identity = self._candidates(self.sizes, self.trace)
        inflation = (freedom / (freedom - 1).clamp(min=1)).unsqueeze(-1)
        variances = self._variances(scatter, identity * inflation)
        inverse = 1 / variances
        forms = [f @ inverse for f in _products(self.offset, residual)]  # (G, K, M, C) each
        removed = identity.unsqueeze(-2) * (h / left)[:, None, :, None]
        volume = variances.log().sum(-2).unsqueeze(-2)
        rest = _logits(forms, removed, volume, self.sizes[..., None, None] + 0.5)

        # For the sample's own Gaussian, the scatter changes too. If the Gaussian has no other
        # sample, the overall mean replaces its mean.
        values = _gathered(self.values, self.member)
        trace = self.trace.gather(-1, self.member) - h * self.residual.square().sum(-1)
        scatter, identity = self._candidates(n - 1, trace)  # (G, M, C)
        residual, single = self._of_member(residual), (n == 1).unsqueeze(-1)
        offset = torch.where(single, self.centered * (m / (m - 1)), residual * h.unsqueeze(-1))
        variances = values.unsqueeze(-1) * scatter.unsqueeze(-2)
        variances = variances + (identity * (freedom / left).unsqueeze(-1)).unsqueeze(-2)
        inverse = 1 / variances
        forms = [(f.unsqueeze(-1) * inverse).sum(-2) for f in _products(offset, residual)]
        removed = (scatter + identity / left.unsqueeze(-1)) * h.unsqueeze(-1)
        own = _logits(forms, removed, variances.log().sum(-2), n.unsqueeze(-1) - 0.5)
        return self._evidence(rest, own)

    def _candidates(self, n: Tensor, trace: Tensor) -> tuple[Tensor, Tensor]:
        return _candidates(n, trace, self.residual.shape[-1], self.strengths)

    def _variances(self, scatter: Tensor, identity: Tensor) -> Tensor:
        """Eigenvalues of each Σ_c, (G, K, C) twice -> (G, K, r, C)."""
        return scatter.unsqueeze(-2) * self.values.unsqueeze(-1) + identity.unsqueeze(-2)

    def _masked(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """The logits of ``rivals`` and of ``own``, (G, K, M, C) each, with −∞ elsewhere."""
        masks = self.rivals, self.own
        every, own = (logits.masked_fill(~mask.unsqueeze(-1), -torch.inf) for mask in masks)
        return every, own

    def _of_member(self, values: Tensor) -> Tensor:
        """The values of each sample's own Gaussian, (G, K, M, n) -> (G, M, n)."""
        index = self.member.unsqueeze(-2).unsqueeze(-1)
        return values.gather(-3, index.expand(-1, -1, -1, values.shape[-1])).squeeze(-3)

    def _evidence(self, logits: Tensor, member: Tensor) -> Tensor:
        """The log-likelihood of the classes of all samples, (G, n).

        ``logits`` are of all Gaussians, (G, K, M, n). ``member`` has the logits that replace the
        logits of the sample's own Gaussian, (G, M, n).
        """
        index = self.member.unsqueeze(-2).unsqueeze(-1).expand(-1, -1, -1, logits.shape[-1])
        every, own = self._masked(logits.scatter(-3, index, member.unsqueeze(-3)))
        return (own.logsumexp(-3) - every.logsumexp(-3)).sum(-2)


def _gathered(values: Tensor, member: Tensor) -> Tensor:
    """The values of each sample's Gaussian ``member``, (G, K, r) and (G, M) -> (G, M, r)."""
    return values.gather(-2, member.unsqueeze(-1).expand(-1, -1, values.shape[-1]))


def _freedom(sizes: Tensor, m: int) -> Tensor:
    """M minus the number of Gaussians with samples, at least 1: (G, K) -> (G)."""
    return (m - (sizes > 0).sum(-1)).clamp(min=1).to(sizes.dtype)


def _products(offset: Tensor, residual: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The products whose sums over coordinates are the ``forms`` of :func:`_logits`."""
    return offset.square(), offset * residual, residual.square()


def _logits(forms: list[Tensor], removed: Tensor, volume: Tensor, sizes: Tensor) -> Tensor:
    """``log size + log N(x; 0, Σ − removed · r rᵀ)`` without a constant.

    ``forms`` are ``xᵀΣ⁻¹x``, ``xᵀΣ⁻¹r`` and ``rᵀΣ⁻¹r``, (..., M, C), and ``volume`` is log |Σ|.
    """
    distance, cross, loss = forms
    left = (1 - removed * loss).clamp(min=1e-3)
    return sizes.log() - (distance + removed * cross.square() / left + volume + left.log()) / 2
