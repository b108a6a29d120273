"""The Student score of :func:`mige_ext.ops.student_score` at any points."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mige_ext import ops
from mige_ext._precision import per_group, standardized
from mige_ext.scores.records import summary


@dataclass(frozen=True, eq=False, repr=False)
class FittedStudent:
    """The score ``−w P (z − μ)`` in whitened coordinates, ``w = (ν + e) / (ν − 2 + r²)``.

    r² is ``(z − μ)ᵀ P (z − μ)``. If ν is infinite, the scores are NaN.
    """

    location: Tensor  #: μ, (..., 1, d)
    precision: Tensor  #: P, (..., d, d)
    nu: Tensor  #: ν, (..., 1, 1)
    size: Tensor  #: e, the mean of ‖z‖² over the samples, (..., 1, 1)

    @staticmethod
    def from_weights(
        samples: Tensor, z: Tensor, whitening: Tensor, ridge: Tensor, nu: Tensor, weights: Tensor
    ) -> "FittedStudent":
        """Compute μ and P from the weights of the last EM step.

        Args:
            samples: samples, (..., M, d).
            z: the whitened samples, (..., M, d).
            whitening: W, (..., d, d), from :func:`mige_ext.ops.ridge_whitening`.
            ridge: τ, (...).
            nu: ν, (...).
            weights: w_i of the last EM step, (..., M).
        """
        weights = weights.unsqueeze(-1)
        location = (weights * z).sum(-2, keepdim=True) / weights.sum(-2, keepdim=True)
        centered = z - location
        # root = (R + τI)^{−1/2} with the correlations R. In directions that do not count, root and
        # z are 0.
        root = standardized(samples)[2].mT * whitening
        scatter = centered.mT @ (weights * centered) / z.shape[-2]
        precision = _pseudo_inverse(scatter + per_group(ridge) * root @ root)
        size = z.square().sum(-1).mean(-1)
        return FittedStudent(location, precision, per_group(nu), per_group(size))

    def __repr__(self) -> str:
        """The shape, dtype and device, in one line."""
        return summary(self)

    def score(self, z: Tensor) -> Tensor:
        """The score at whitened points z, (..., Q, d) -> (..., Q, d)."""
        offset = z - self.location
        scaled = offset @ self.precision
        inner = (offset * scaled).sum(-1, keepdim=True)
        return -(self.nu + self.size) / (self.nu - 2 + inner) * scaled


def _pseudo_inverse(matrix: Tensor) -> Tensor:
    """The pseudo-inverse of positive semi-definite matrices, (..., d, d).

    ``torch.linalg.pinv`` would wait for the device.
    """
    values, vectors = ops.eigh(matrix)
    floor = matrix.shape[-1] * torch.finfo(matrix.dtype).eps * values.amax(-1, keepdim=True)
    inverse = torch.where(values > floor, 1 / values, 0.0)
    return vectors * inverse.unsqueeze(-2) @ vectors.mT
