"""The mutual information of a category s and continuous z."""

import math

import torch
from torch import Tensor

from mige_ext.values.candidates import Candidate, exceeds
from mige_ext.values.gaussian import dimensions, white
from mige_ext.values.neighbors import NEIGHBORS

#: Weights of the common covariance in the covariance of a class.
_SHRINKAGE = (0.05, 0.2, 0.5, 0.8, 1.0)
_FOLDS = 5


def class_information(
    s: Tensor, y: Tensor, generator: torch.Generator
) -> tuple[Candidate, Candidate]:
    """An estimate of I(s; z), and the bound of the classifier with one covariance for all classes.

    Args:
        s: classes 0, 1, …, (M,), each with at least two samples.
        y: normal scores, (M, d).
        generator: draws the folds.

    Raises:
        ValueError: M is too small for the covariance of the classes in a training fold.
    """
    z = white(y)
    m, d, classes = y.shape[0], dimensions(y, z), int(s.max()) + 1
    least = math.ceil((d + classes + 2) * _FOLDS / (_FOLDS - 1))
    if m < least:
        raise ValueError(
            f"x and z must have M >= 1.25 (d + classes + 2) samples, here {least} for {classes} "
            f"classes and d = {d} columns, got {m}: use more samples, or project to fewer columns"
        )
    best, linear = classifier_bounds(s, z, generator)
    other = class_neighbors(s, z)
    if exceeds(other.value - best.value, other.terms - best.terms):
        return other, linear
    return best, linear


def classifier_bounds(
    s: Tensor, z: Tensor, generator: torch.Generator
) -> tuple[Candidate, Candidate]:
    """The bound ``I ≥ H(s) + E log p̂(s | z)`` of a cross-validated classifier.

    p̂ follows from Gaussian classes, whose covariances are shrunk toward a common one. The first
    result has the shrinkage with the highest bound, and the second result has one covariance for
    all classes.
    """
    m = z.shape[0]
    prior = torch.bincount(s).double() / m
    fold = torch.empty_like(s)
    # Every class is divided evenly among the folds.
    order = torch.randperm(m, generator=generator).to(s.device)
    order = order[s[order].argsort(stable=True)]
    fold[order] = torch.arange(m, device=s.device) % _FOLDS
    terms = z.new_empty(len(_SHRINKAGE), m)
    for held_out in range(_FOLDS):
        test = fold == held_out
        posterior = _posteriors(s[~test], z[~test], z[test], prior)
        chosen = s[test].expand(len(_SHRINKAGE), -1).unsqueeze(-1)
        terms[:, test] = posterior.gather(-1, chosen).squeeze(-1)
    terms = terms - prior.log()[s]
    best = int(terms.mean(1).argmax())
    found = [Candidate("classifier", terms[i].mean(), terms[i]) for i in (best, -1)]
    return found[0], found[1]


def _posteriors(s: Tensor, z: Tensor, points: Tensor, prior: Tensor) -> Tensor:
    """Log-probabilities of the classes at Q points, (shrinkages, Q, classes)."""
    d, classes = z.shape[1], len(prior)
    means, covariances = z.new_zeros(classes, d), z.new_zeros(classes, d, d)
    for c in range(classes):
        members = z[s == c]
        if len(members):
            means[c] = members.mean(0)
            centered = members - means[c]
            covariances[c] = centered.mT @ centered
    counts = torch.bincount(s, minlength=classes).to(z.dtype)
    common = covariances.sum(0) / (counts.sum() - (counts > 0).sum()).clamp(min=1)
    covariances = covariances / (counts - 1).clamp(min=1).reshape(-1, 1, 1)
    logits = []
    for weight in _SHRINKAGE:
        # The covariance of a class with few samples is shrunk more.
        own = (1 - weight) * (counts - 1).clamp(min=0) / (counts - 1 + d).clamp(min=1)
        own = own.reshape(-1, 1, 1)
        root = torch.linalg.cholesky(own * covariances + (1 - own) * common)
        offsets = (points.unsqueeze(0) - means.unsqueeze(1)).mT
        squares = torch.linalg.solve_triangular(root, offsets, upper=False).square().sum(1)
        logs = root.diagonal(dim1=-2, dim2=-1).log().sum(-1, keepdim=True)
        logits.append((-squares / 2 - logs + prior.log().unsqueeze(1)).mT)
    return torch.stack(logits).log_softmax(-1)


def class_neighbors(s: Tensor, z: Tensor, k: int = NEIGHBORS) -> Candidate:
    """The estimate of Ross (2014), ``I = ψ(M) + mean(ψ(k) − ψ(M_s) − ψ(m))``.

    ψ is the digamma function, and M_s the size of the sample's class. m counts the sample itself
    and the samples that are nearer than the k-th neighbor of the same class.
    """
    m = z.shape[0]
    counts = torch.bincount(s)[s]
    ks = (counts - 1).clamp(max=k)
    distances = torch.cdist(z, z)
    same = s.unsqueeze(0) == s.unsqueeze(1)
    within = torch.where(same, distances, torch.inf)
    within = within.topk(min(k + 1, m), dim=1, largest=False).values
    radius = within.gather(1, ks.unsqueeze(1))
    nearer = (distances < radius).sum(1).clamp(min=1)
    psi = [torch.digamma(value.double()) for value in (ks, counts, nearer)]
    terms = _digamma(m) + psi[0] - psi[1] - psi[2]
    return Candidate("neighbors", terms.mean(), terms)


def _digamma(count: int) -> float:
    return float(torch.digamma(torch.tensor(float(count), dtype=torch.float64)))
