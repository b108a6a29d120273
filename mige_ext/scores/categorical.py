"""The gradient of log p(c | z) for a class c, from Gaussian classifiers that are averaged.

A class c of z has the density N(μ_c, Σ_c), and its covariance is shrunk. With n_c samples in class
c, the scatter S_c of these samples, and the covariance Σ within the classes,

    Σ_c = (S_c + ν t_c Σ) / (n_c − 1 + ν)

Σ includes a ridge, d/M times the covariance of all samples.

Eight candidates combine four values of ν with two values of t_c. For ``ν = ∞`` the covariances are
``t_c Σ``. With ``t_c = 1`` all classes shrink toward Σ. The alternative is the scale of the class,
``t_c = (tr(Σ^{−1} S_c) + 2d) / ((n_c + 1) d)``.

A ninth candidate says that z is independent of the class. The *evidence* of a candidate is the
log-likelihood of the class of each sample, computed without this sample. The gradients of the
candidates are averaged with weights proportional to the exponential of the evidence. The gradient
is therefore near 0 unless a classifier predicts classes of unseen samples better than their
frequencies do.

In coordinates where Σ = I, all candidates of a class have the eigenvectors of S_c. A sample changes
each covariance by a matrix of rank one. One eigendecomposition for each class therefore gives the
evidence of all candidates in closed form.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from mige_ext import ops
from mige_ext._precision import about_origin, no_autocast, per_group, saturated

#: ν of the candidates, divided by the dimension.
STRENGTHS = (0.5, 2.0, 8.0, math.inf)
#: Samples that the prior adds to the estimate of the scale of a class.
SCALE_SAMPLES = 2


def class_departure(z: Tensor, cells: Tensor, conditions: Tensor) -> Tensor:
    """``ŝ(z | y) − ŝ(z | c, y) = −∇_z log p(c | z, y)`` at the samples.

    A *cell* is a pair of a class c and a condition y. The classes compete within their condition.

    Args:
        z: samples, (G, M, d) with M >= 2, in float32 or float64, finite.
        cells: the cell of each sample, (G, M), integers of 0 ... K − 1.
        conditions: the condition of each cell, (K), integers. Without a condition they are equal.

    Returns:
        (G, M, d), of the dtype of z. It is 0 in a group with one class in each condition.

    Cost:
        O(M K d² + K d³) for each group, and O(M K d) memory.
    """
    with no_autocast(z):
        samples, _, unit = about_origin(z)
        white, back = _whitened(samples)
        classes = _Classes.of(white, cells, conditions)
        departure = classes.departure() @ (back @ classes.basis).mT
        return saturated(departure / unit)


def _whitened(x: Tensor) -> tuple[Tensor, Tensor]:
    """White samples of at most M columns, and the map to them: (..., M, r) and (..., d, r)."""
    mean, whitening, _ = ops.ridge_whitening(x)
    white = (x - mean.unsqueeze(-2)) @ whitening
    if x.shape[-1] <= x.shape[-2]:
        return white, whitening
    span = torch.linalg.qr(white.mT).Q  # (d, M); every quantity below is invariant to rotations
    return white @ span, whitening @ span


@dataclass(frozen=True, eq=False)
class _Candidate:
    """Factors of ``Σ_c = scatter · S_c + identity · I``, in coordinates where Σ = I."""

    strength: float  #: ν
    has_scale: bool  #: whether t_c is estimated

    def factors(self, n: Tensor, trace: Tensor, d: int) -> tuple[Tensor, Tensor]:
        """Both factors for classes of n samples, whose scatter has this trace."""
        freedom = (n - 1).clamp(min=0)
        scale = torch.ones_like(n)
        if self.has_scale:
            scale = (trace.clamp(min=0) + SCALE_SAMPLES * d) / ((freedom + SCALE_SAMPLES) * d)
        if math.isinf(self.strength):
            return torch.zeros_like(n), scale
        total = freedom + self.strength * d
        return 1 / total, self.strength * d * scale / total


CANDIDATES = [_Candidate(nu, has_scale) for nu in STRENGTHS for has_scale in (False, True)]


@dataclass(frozen=True, eq=False)
class _Classes:
    """The classes of the samples, in coordinates where the covariance within classes is I."""

    basis: Tensor  #: from these coordinates to those of the samples, (G, r, r)
    member: Tensor  #: 1 where the sample is in the cell, (G, M, K)
    rival: Tensor  #: whether the cell is not empty and has the sample's condition, (G, M, K)
    values: Tensor  #: eigenvalues of the scatter of each cell, (G, K, r)
    vectors: Tensor  #: its eigenvectors, (G, K, r, r)
    centered: Tensor  #: samples relative to the overall mean, (G, M, r)
    residual: Tensor  #: samples relative to the mean of their own cell, (G, M, r)
    mean: Tensor  #: of each cell, (G, K, r)
    freedom: Tensor  #: M minus the number of cells with samples, at least 1, (G)

    @classmethod
    def of(cls, white: Tensor, cells: Tensor, conditions: Tensor) -> "_Classes":
        m, r = white.shape[-2:]
        member = one_hot(cells, len(conditions)).to(white.dtype)
        n = member.sum(-2)
        rival = (n > 0).unsqueeze(-2) & (conditions[cells].unsqueeze(-1) == conditions)
        freedom = (m - (n > 0).sum(-1)).clamp(min=1).to(white.dtype)

        def means(samples: Tensor) -> Tensor:
            return member.mT @ samples / n.clamp(min=1).unsqueeze(-1)

        residual = white - member @ means(white)
        within = residual.mT @ residual / per_group(freedom)
        values, vectors = ops.eigh(within)
        basis = vectors * (values.clamp(min=0) + r / m).rsqrt().unsqueeze(-2)
        white, residual = white @ basis, residual @ basis
        weighted = member.mT.unsqueeze(-1) * residual.unsqueeze(-3)  # (G, K, M, r)
        values, vectors = ops.eigh(weighted.mT @ weighted)
        values = values.clamp(min=0)
        return cls(
            basis, member, rival, values, vectors, white, residual, means(white), freedom
        )  # fmt: skip

    def departure(self) -> Tensor:
        """The gradients of the candidates, averaged by their evidence, (G, M, r)."""
        d = self.values.shape[-1]
        n, trace = self.member.sum(-2), self.values.sum(-1)
        offset = self._rotated(self.centered.unsqueeze(-2) - self.mean.unsqueeze(-3))
        evidence = torch.stack([*self._evidence(offset), self._evidence_of_frequencies()])
        weights = evidence.softmax(0).unsqueeze(-1).unsqueeze(-1).unsqueeze(-1)
        total = torch.zeros_like(offset)
        for candidate, weight in zip(CANDIDATES, weights, strict=False):
            scatter, identity = candidate.factors(n, trace, d)
            variances = scatter.unsqueeze(-1) * self.values + identity.unsqueeze(-1)
            scores = -offset / variances.unsqueeze(-3)
            logits = (offset * scores).sum(-1) / 2 - variances.log().sum(-1).unsqueeze(-2) / 2
            posterior = self._log_posterior(logits + (n + 0.5).log().unsqueeze(-2)).exp()
            total += weight * (posterior - self.member).unsqueeze(-1) * scores
        return torch.einsum("gmkj,gkij->gmi", total, self.vectors)

    def _rotated(self, offsets: Tensor) -> Tensor:
        """Vectors (G, M, K, r) or (G, M, 1, r) in the eigenvectors of each cell, (G, M, K, r)."""
        return (offsets.transpose(-3, -2) @ self.vectors).transpose(-3, -2)

    def _log_posterior(self, logits: Tensor) -> Tensor:
        """The logarithm of the probability of each cell, given the condition, (G, M, K)."""
        return torch.log_softmax(logits.masked_fill(~self.rival, -torch.inf), -1)

    def _log_likelihood(self, logits: Tensor) -> Tensor:
        """The sum over the samples of the log-probability of their cell, (G)."""
        log_posterior = self._log_posterior(logits)
        return torch.where(self.member > 0, log_posterior, 0.0).sum((-2, -1))

    def _others(self) -> tuple[Tensor, Tensor]:
        """Sizes of all cells and of the sample's own cell, both without the sample."""
        n = self.member.sum(-2, keepdim=True)
        return n - self.member, (self.member * (n - 1)).sum(-1)

    def _evidence_of_frequencies(self) -> Tensor:
        """The evidence of the frequencies of the classes, (G)."""
        return self._log_likelihood((self._others()[0] + 0.5).log())

    def _evidence(self, offset: Tensor) -> list[Tensor]:
        """The evidence of each candidate, (G).

        Without sample i, the scatter of its own cell is ``S_c − h r rᵀ`` with ``h = n/(n − 1)`` and
        the residual r of the sample, and its residual is h r. The covariance within the classes
        loses ``h r rᵀ`` too. The Sherman–Morrison formula gives the inverses.
        """
        m, d = self.centered.shape[-2:]
        n, own = self._others()
        h = torch.where(own > 0, (own + 1) / own.clamp(min=1), 0.0)  # 0 for a class of one sample
        residual = self._rotated(self.residual.unsqueeze(-2))
        alone = self._rotated(self.centered.unsqueeze(-2)) * (m / (m - 1))
        held_out = torch.where(own[..., None, None] > 0, offset * h[..., None, None], alone)
        offset = torch.where(self.member.unsqueeze(-1) > 0, held_out, offset)
        trace = self.values.sum(-1).unsqueeze(-2)
        trace = trace - self.member * (h * self.residual.square().sum(-1)).unsqueeze(-1)
        freedom = (self.freedom.unsqueeze(-1) - (own > 0).to(h)).clamp(min=1).unsqueeze(-1)
        inflation, loss = self.freedom[..., None, None] / freedom, h.unsqueeze(-1) / freedom
        evidence = []
        for candidate in CANDIDATES:
            scatter, identity = candidate.factors(n, trace, d)
            variances = scatter.unsqueeze(-1) * self.values.unsqueeze(-3)
            variances = variances + (identity * inflation).unsqueeze(-1)
            removed = self.member * scatter * h.unsqueeze(-1) + identity * loss
            shrunk = residual / variances
            cross = (offset * shrunk).sum(-1)
            left = (1 - removed * (residual * shrunk).sum(-1)).clamp(min=1e-3)
            distance = (offset.square() / variances).sum(-1) + removed * cross.square() / left
            volume = variances.log().sum(-1) + left.log()
            evidence.append(self._log_likelihood((n + 0.5).log() - (distance + volume) / 2))
        return evidence
