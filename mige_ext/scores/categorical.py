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


def _candidates(n: Tensor, trace: Tensor, d: int) -> tuple[Tensor, Tensor]:
    """Factors of ``Σ_c = scatter · S_c + identity · I`` for each candidate, (...) -> (..., 8).

    ``n`` are sizes of classes, and ``trace`` the traces of their scatters.
    """
    freedom = (n - 1).clamp(min=0).unsqueeze(-1)
    scale = (trace.clamp(min=0).unsqueeze(-1) + SCALE_SAMPLES * d) / (freedom + SCALE_SAMPLES) / d
    strengths = n.new_tensor(STRENGTHS) * d
    scatter = 1 / (freedom + strengths)
    identity = torch.where(strengths.isinf(), 1.0, strengths * scatter)
    return torch.cat((scatter, scatter), -1), torch.cat((identity, identity * scale), -1)


@dataclass(frozen=True, eq=False)
class _Classes:
    """The classes of the samples, in coordinates where the covariance within classes is I."""

    basis: Tensor  #: from these coordinates to those of the samples, (G, r, r)
    cells: Tensor  #: the cell of each sample, (G, M)
    sizes: Tensor  #: number of samples of each cell, (G, K)
    rivals: Tensor  #: whether the cell is not empty and has the sample's condition, (G, K, M)
    values: Tensor  #: eigenvalues of the scatter of each cell, (G, K, r)
    vectors: Tensor  #: its eigenvectors, (G, K, r, r)
    centered: Tensor  #: samples relative to the overall mean, (G, M, r)
    residual: Tensor  #: samples relative to the mean of their own cell, (G, M, r)
    offset: Tensor  #: samples relative to the mean of each cell, in its eigenvectors, (G, K, M, r)

    @classmethod
    def of(cls, white: Tensor, cells: Tensor, conditions: Tensor) -> "_Classes":
        m, r = white.shape[-2:]
        member = one_hot(cells, len(conditions)).to(white.dtype).mT  # (G, K, M)
        sizes = member.sum(-1)
        rivals = conditions[cells].unsqueeze(-2) == conditions.unsqueeze(-1)
        rivals = rivals & (sizes > 0).unsqueeze(-1)
        means = member @ white / sizes.clamp(min=1).unsqueeze(-1)
        residual = white - member.mT @ means
        freedom = per_group(_freedom(sizes, m))
        values, vectors = ops.eigh(residual.mT @ residual / freedom)
        basis = vectors * (values.clamp(min=0) + r / m).rsqrt().unsqueeze(-2)
        white, residual, means = white @ basis, residual @ basis, means @ basis
        weighted = member.unsqueeze(-1) * residual.unsqueeze(-3)
        values, vectors = ops.eigh(weighted.mT @ weighted)
        offset = (white.unsqueeze(-3) - means.unsqueeze(-2)) @ vectors
        return cls(
            basis, cells, sizes, rivals, values.clamp(min=0), vectors, white, residual, offset
        )

    def departure(self) -> Tensor:
        """The gradients of the candidates, averaged by their evidence, (G, M, r)."""
        d = self.values.shape[-1]
        scatter, identity = _candidates(self.sizes, self.values.sum(-1), d)
        variances = self._variances(scatter, identity)
        distance = self.offset.square() @ (1 / variances)  # (G, K, M, 8)
        logits = (self.sizes + 0.5).log().unsqueeze(-1) - variances.log().sum(-2) / 2
        posterior = self._log_posterior(logits.unsqueeze(-2) - distance / 2).exp()
        own = one_hot(self.cells, self.sizes.shape[-1]).mT.unsqueeze(-1)
        evidence = torch.cat((self._evidence(), self._evidence_of_frequencies()), -1)
        weights = evidence.softmax(-1).narrow(-1, 0, variances.shape[-1])
        coefficients = (own - posterior) * weights.unsqueeze(-2).unsqueeze(-2)
        total = coefficients @ (1 / variances).mT * self.offset  # (G, K, M, r)
        return (total @ self.vectors.mT).sum(-3)

    def _variances(self, scatter: Tensor, identity: Tensor) -> Tensor:
        """Eigenvalues of each Σ_c, (G, K, 8) twice -> (G, K, r, 8)."""
        return scatter.unsqueeze(-2) * self.values.unsqueeze(-1) + identity.unsqueeze(-2)

    def _log_posterior(self, logits: Tensor) -> Tensor:
        """The logarithm of the probability of each cell, given the condition, (G, K, M, 8)."""
        return logits.masked_fill(~self.rivals.unsqueeze(-1), -torch.inf).log_softmax(-3)

    def _of_own(self, values: Tensor) -> Tensor:
        """The values of each sample's own cell, (G, K, M, n) -> (G, M, n)."""
        index = self.cells.unsqueeze(-2).unsqueeze(-1)
        return values.gather(-3, index.expand(-1, -1, -1, values.shape[-1])).squeeze(-3)

    def _evidence_of(self, logits: Tensor, own: Tensor) -> Tensor:
        """The log-likelihood of the cells of all samples, (G, n).

        ``logits`` are those of all cells, (G, K, M, n), and ``own`` replaces those of the sample's
        own cell, (G, M, n).
        """
        index = self.cells.unsqueeze(-2).unsqueeze(-1).expand(-1, -1, -1, logits.shape[-1])
        logits = logits.scatter(-3, index, own.unsqueeze(-3))
        return self._of_own(self._log_posterior(logits)).sum(-2)

    def _evidence_of_frequencies(self) -> Tensor:
        """The evidence of the frequencies of the classes, (G, 1)."""
        logits = (self.sizes + 0.5).log().unsqueeze(-1).expand(self.rivals.shape).unsqueeze(-1)
        own = (self.sizes - 0.5).clamp(min=0.5).log().gather(-1, self.cells)
        return self._evidence_of(logits, own.unsqueeze(-1))

    def _evidence(self) -> Tensor:
        """The evidence of each candidate, (G, 8).

        Without sample i, the scatter of its own cell is ``S_c − h r rᵀ`` with ``h = n/(n − 1)`` and
        the residual r of the sample, and its residual is h r. The covariance within the classes
        loses ``h r rᵀ`` too. The Sherman–Morrison formula gives the inverses.
        """
        m, d = self.residual.shape[-2:]
        n = self.sizes.gather(-1, self.cells)  # of the sample's own cell, (G, M)
        h = torch.where(n > 1, n / (n - 1).clamp(min=1), 0.0)
        freedom = _freedom(self.sizes, m).unsqueeze(-1)
        left = torch.where(n > 1, freedom - 1, freedom).clamp(min=1)  # without the sample
        residual = self.residual.unsqueeze(-3) @ self.vectors  # (G, K, M, r)

        # The other cells lose only what Σ loses.
        scatter, identity = _candidates(self.sizes, self.values.sum(-1), d)
        inflation = (freedom / (freedom - 1).clamp(min=1)).unsqueeze(-1)
        variances = self._variances(scatter, identity * inflation)
        forms = torch.stack((self.offset.square(), self.offset * residual, residual.square()), -3)
        forms = forms @ (1 / variances).unsqueeze(-3)  # (G, K, 3, M, 8)
        removed = identity.unsqueeze(-2) * (h / left)[:, None, :, None]
        volume = variances.log().sum(-2).unsqueeze(-2)
        rest = _logits(forms, removed, volume, self.sizes[..., None, None] + 0.5)

        # The own cell loses the sample too. A class of one sample is predicted by the overall mean.
        shape = self.cells.unsqueeze(-1).expand(-1, -1, d)
        values = self.values.gather(-2, shape)
        trace = values.sum(-1) - h * self.residual.square().sum(-1)
        scatter, identity = _candidates(n - 1, trace, d)  # (G, M, 8)
        residual, single = self._of_own(residual), (n == 1).unsqueeze(-1)
        offset = torch.where(single, self.centered * (m / (m - 1)), residual * h.unsqueeze(-1))
        variances = values.unsqueeze(-1) * scatter.unsqueeze(-2)
        variances = variances + (identity * (freedom / left).unsqueeze(-1)).unsqueeze(-2)
        forms = torch.stack((offset.square(), offset * residual, residual.square()), -3)
        forms = (forms.unsqueeze(-1) / variances.unsqueeze(-4)).sum(-2)  # (G, 3, M, 8)
        removed = (scatter + identity / left.unsqueeze(-1)) * h.unsqueeze(-1)
        own = _logits(forms, removed, variances.log().sum(-2), n.unsqueeze(-1) - 0.5)
        return self._evidence_of(rest, own)


def _freedom(sizes: Tensor, m: int) -> Tensor:
    """M minus the number of cells with samples, at least 1: (G, K) -> (G)."""
    return (m - (sizes > 0).sum(-1)).clamp(min=1).to(sizes.dtype)


def _logits(forms: Tensor, removed: Tensor, volume: Tensor, sizes: Tensor) -> Tensor:
    """``log size + log N(x; 0, Σ − removed · r rᵀ)`` without a constant.

    ``forms`` are ``xᵀΣ⁻¹x``, ``xᵀΣ⁻¹r`` and ``rᵀΣ⁻¹r``, (..., 3, M, 8), and ``volume`` is log |Σ|.
    """
    distance, cross, loss = forms.unbind(-3)
    left = (1 - removed * loss).clamp(min=1e-3)
    return sizes.log() - (distance + removed * cross.square() / left + volume + left.log()) / 2
