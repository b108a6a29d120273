"""What a classifier finds in frozen layers: the probes of InfoMax, one protocol for all methods."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mige_ext.experiments.common.training import seeded

CHUNK = 1000  # images at once, to bound the memory


def probe_of(inputs: int, classes: int) -> nn.Sequential:
    """A classifier of frozen features, the same for all methods and layers."""
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
    """Train a probe on frozen features: Adam, 1e-3 falling to 0 in a straight line, batch 128.

    Args:
        features: (N, d), half precision or float32.
        labels: (N,).
        classes: their number.
        epochs: passes over them.
        seed: of weights, batches and dropout.

    Returns:
        The probe, for evaluation.
    """
    device, batch = features.device, min(128, len(labels))
    with seeded(seed, device):
        probe = probe_of(features.shape[1], classes).to(device)
        adam = torch.optim.Adam(probe.parameters(), 1e-3, fused=True)
        steps = epochs * (len(labels) // batch)
        falling = torch.optim.lr_scheduler.LinearLR(adam, 1.0, 0.0, steps)
        for _ in range(epochs):
            order = torch.randperm(len(labels))[: len(labels) // batch * batch].to(device)
            for numbers in order.split(batch):
                loss = F.cross_entropy(probe(features[numbers].float()), labels[numbers])
                adam.zero_grad()
                loss.backward()
                adam.step()
                falling.step()
    return probe.eval()


@torch.no_grad()
def accuracy_of(probe: nn.Module, features: Tensor, labels: Tensor) -> float:
    """Share of right labels."""
    right = [
        (probe(some.float()).argmax(1) == of).sum()
        for some, of in zip(features.split(CHUNK), labels.split(CHUNK), strict=True)
    ]
    return int(sum(right)) / len(labels)


def effective_rank(z: Tensor) -> float:
    """Exp of the entropy of the normalised eigenvalues of Cov(z), (N, d); d where z is white.

    NaN where z is not finite, as after a training that diverged.
    """
    if not z.isfinite().all():
        return math.nan
    share = torch.linalg.eigvalsh(z.double().mT.cov()).clamp(min=0)
    return torch.special.entr(share / share.sum()).sum().exp().item()


def linear_accuracy(z: Tensor, labels: Tensor, other: Tensor, other_labels: Tensor) -> float:
    """Share of right labels of other z, by least squares from z to the classes; NaN likewise."""
    if not (z.isfinite().all() and other.isfinite().all()):
        return math.nan
    one = torch.ones_like
    design, asked = (torch.cat([codes, one(codes[:, :1])], 1).double() for codes in (z, other))
    gram = design.mT @ design
    ridge = 1e-6 * gram.diagonal().mean() * torch.eye(len(gram), device=z.device)
    weights = torch.linalg.solve(gram + ridge, design.mT @ F.one_hot(labels).double())
    return ((asked @ weights).argmax(1) == other_labels).double().mean().item()
