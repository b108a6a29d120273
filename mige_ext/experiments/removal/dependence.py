"""Measures of dependence between z and s, which need no trained network.

A measure takes z (N, d) and the ``Batch`` of z, and returns a scalar that is small if z and s are
independent. ``removal/methods.py`` uses the measures as penalties.
"""

import torch
from torch import Tensor

from mige_ext import ops
from mige_ext.experiments.removal.nuisances import Batch

#: Weight of the center loss beside HSIC. (On rotated MNIST, a weight of .1 leaves more information
#: about s at equal accuracy, and .3 and 1 leave equal information.)
CENTER_WEIGHT = 0.5


def hsic(z: Tensor, batch: Batch) -> Tensor:
    """⟨K̄, L̄⟩ / ‖K̄‖‖L̄‖ of the centered RBF Gram matrices of z and s, with median bandwidths."""
    return _alignment(*(_center(_gram(x)) for x in (z, batch.s)))


def hsic_whitened(z: Tensor, batch: Batch) -> Tensor:
    """``hsic`` of z whitened to unit covariance. Gradients pass through the whitening."""
    centered = z - z.mean(0)
    covariance = centered.mT @ centered / len(z) + 1e-3 * torch.eye(z.shape[1], device=z.device)
    factor = torch.linalg.cholesky_ex(covariance).L  # unlike cholesky, no wait for the GPU
    return hsic(torch.linalg.solve_triangular(factor, centered.mT, upper=False).mT, batch)


def hsic_whitened_center(z: Tensor, batch: Batch) -> Tensor:
    """``hsic_whitened``, plus the fraction of the variance of z that is within the classes."""
    return hsic_whitened(z, batch) + CENTER_WEIGHT * within_classes(z, batch.label)


def within_classes(z: Tensor, label: Tensor) -> Tensor:
    """E‖z − m(label)‖² / d, with the mean m(label) of the samples with this label.

    Under BatchNorm this distance is the fraction of the variance of z that is within the classes.
    """
    same = (label[:, None] == label).to(z.dtype)
    centers = (same @ z) / same.sum(1, keepdim=True)
    return (z - centers).square().mean()


def distance_correlation(z: Tensor, batch: Batch) -> Tensor:
    """⟨Ā, B̄⟩ / ‖Ā‖‖B̄‖ of the centered distance matrices of z and s (Székely et al., 2007).

    As the number of samples grows, this number converges to 0 if and only if z and s are
    independent.
    """
    exact = "donot_use_mm_for_euclid_dist"  # matrix products lose small distances
    return _alignment(*(_center(torch.cdist(x, x, compute_mode=exact)) for x in (z, batch.s)))


def group_discrepancy(z: Tensor, batch: Batch) -> Tensor:
    """Σ_c p(c) MMD²(z | c, z) over the bins or classes c of s (Gretton et al., 2012).

    MMD² is the squared distance of the kernel means, for an RBF kernel at the median distance.
    """
    same = (batch.bin[:, None] == batch.bin).to(z.dtype)
    gram = _center(_gram(z))  # distances to the mean of all samples
    return ((same * gram).sum(1) / same.sum(1)).mean()


def _gram(x: Tensor) -> Tensor:
    # The columns of x have unit variance. If all codes are equal, the median is 0.
    return ops.rbf_gram(x, bandwidth=ops.distance_quantile(x.detach()).clamp(min=1e-3))


def _center(gram: Tensor) -> Tensor:
    return gram - gram.mean(0) - gram.mean(1, keepdim=True) + gram.mean()


def _alignment(k: Tensor, l_: Tensor) -> Tensor:
    return (k * l_).sum() / (k.norm() * l_.norm())
