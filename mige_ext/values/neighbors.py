"""Mutual information and entropy from the distances to nearest neighbors."""

import math

import torch
from torch import Tensor

from mige_ext.values.candidates import Candidate

#: Number of neighbors.
NEIGHBORS = 5


def neighbor_information(x: Tensor, z: Tensor, k: int = NEIGHBORS) -> Candidate:
    """The first estimate of Kraskov, Stögbauer and Grassberger (2004), in the maximum norm.

    ``I = ψ(k) + ψ(M) − mean(ψ(n_x) + ψ(n_z))``, where ψ is the digamma function. n_x counts the
    sample itself and the samples that are nearer in x than the k-th neighbor of the pair.
    """
    m = x.shape[0]
    k = min(k, m - 1)
    of_x, of_z = (torch.cdist(block, block, p=torch.inf) for block in (x, z))
    radius = torch.maximum(of_x, of_z).kthvalue(k + 1, dim=1).values.unsqueeze(1)
    counts = [(block < radius).sum(1).clamp(min=1).double() for block in (of_x, of_z)]
    constant = torch.digamma(torch.tensor([k, m], dtype=torch.float64)).sum()
    terms = constant.to(x.device) - torch.digamma(counts[0]) - torch.digamma(counts[1])
    return Candidate("neighbors", terms.mean(), terms)


def neighbor_entropy(z: Tensor, k: int = NEIGHBORS) -> Candidate:
    """The estimate of Kozachenko and Leonenko, ``H = ψ(M) − ψ(k) + log V + d mean(log r)``.

    r is the distance of a sample to its k-th neighbor, and V the volume of the unit ball.
    """
    m, d = z.shape
    k = min(k, m - 1)
    radius = torch.cdist(z, z).kthvalue(k + 1, dim=1).values
    psi = torch.digamma(torch.tensor([m, k], dtype=torch.float64))
    volume = d / 2 * math.log(math.pi) - math.lgamma(d / 2 + 1)
    terms = d * radius.log() + volume + float(psi[0] - psi[1])
    return Candidate("neighbors", terms.mean(), terms)
