"""The probes of InfoMax: classifiers of frozen features, the same for all methods and layers."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mige_ext.experiments.common.methods import descend
from mige_ext.experiments.common.training import seeded
from mige_ext.experiments.infomax.encoders import CHUNK


def probe_of(inputs: int, classes: int) -> nn.Sequential:
    """Make an untrained probe with ``inputs`` features."""
    return nn.Sequential(
        nn.Linear(inputs, 200),
        nn.BatchNorm1d(200),
        nn.Dropout(0.1),
        nn.ReLU(),
        nn.Linear(200, classes),
    )


def train_probe(
    features: Tensor, labels: Tensor, classes: int, epochs: int, seed: int
) -> nn.Sequential:
    """Train a probe by Adam in batches of 128, with a learning rate from 1e-3 linearly to 0.

    Args:
        features: (N, d), half precision or float32.
        labels: (N,) int64.
        classes: number of classes.
        epochs: number of epochs.
        seed: seed of weights, batches and dropout.

    Returns:
        The probe in evaluation mode.
    """
    device, batch = features.device, min(128, len(labels))
    with seeded(seed, device):
        probe = probe_of(features.shape[1], classes).to(device)
        adam = torch.optim.Adam(probe.parameters(), 1e-3, fused=True)
        steps = epochs * (len(labels) // batch)
        decay = torch.optim.lr_scheduler.LinearLR(adam, 1.0, 0.0, steps)
        for _ in range(epochs):
            order = torch.randperm(len(labels))[: len(labels) // batch * batch].to(device)
            for rows in order.split(batch):
                loss = F.cross_entropy(probe(features[rows].float()), labels[rows])
                descend(adam, loss)
                decay.step()
    return probe.eval()


@torch.no_grad()
def accuracy_of(probe: nn.Module, features: Tensor, labels: Tensor) -> float:
    """Accuracy of a probe on features (N, d) with labels (N,)."""
    correct = [
        (probe(chunk.float()).argmax(1) == truth).sum()
        for chunk, truth in zip(features.split(CHUNK), labels.split(CHUNK), strict=True)
    ]
    return int(sum(correct)) / len(labels)


def effective_rank(z: Tensor) -> float:
    """Effective rank of z (N, d): exp of the entropy of the normalized eigenvalues of Cov(z).

    The result is d for white z, and NaN if z is not finite because the run diverged.
    """
    if not z.isfinite().all():
        return math.nan
    values = torch.linalg.eigvalsh(z.double().mT.cov()).clamp(min=0)
    return torch.special.entr(values / values.sum()).sum().exp().item()


def linear_accuracy(z: Tensor, labels: Tensor, new_z: Tensor, new_labels: Tensor) -> float:
    """Accuracy on ``new_z``, (N', d), of a least-squares classifier fitted to z, (N, d), or NaN."""
    if not (z.isfinite().all() and new_z.isfinite().all()):
        return math.nan
    one = torch.ones_like
    design, new = (torch.cat([codes, one(codes[:, :1])], 1).double() for codes in (z, new_z))
    gram = design.mT @ design
    ridge = 1e-6 * gram.diagonal().mean() * torch.eye(len(gram), device=z.device)
    weights = torch.linalg.solve(gram + ridge, design.mT @ F.one_hot(labels).double())
    return ((new @ weights).argmax(1) == new_labels).double().mean().item()
