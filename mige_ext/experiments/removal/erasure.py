"""LEACE: erase what is linear in s from the codes of a trained encoder, then train a new head.

Belrose et al., "LEACE: Perfect linear concept erasure in closed form", NeurIPS 2023.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mige_ext.experiments.common.methods import descend
from mige_ext.experiments.common.training import seeded
from mige_ext.experiments.removal.models import Model
from mige_ext.experiments.removal.nuisances import Problem


class Eraser(nn.Module):
    """The affine map z − P (z − μ); before ``fit`` it changes nothing.

    Args:
        dimension: columns d of z.
    """

    mean: Tensor  # μ, (d,)
    erased: Tensor  # P, (d, d)

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dimension))
        self.register_buffer("erased", torch.zeros(dimension, dimension))

    def fit(self, z: Tensor, s: Tensor) -> None:
        """Set μ and P by LEACE, in closed form.

        The erased z has no covariance with s. Among the affine maps with this property, it differs
        least from z::

            P = W⁺ Q W,   W = Σ^(−1/2),   Q projects onto the columns of W Σ_zs

        Args:
            z: codes (N, d).
            s: numbers (N, k) of the nuisance; one-hot columns of a category.
        """
        z, s = z.double(), s.double()
        mean, centered = z.mean(0), z - z.mean(0)
        values, vectors = torch.linalg.eigh(centered.mT @ centered / len(z))
        # The variance of rounding errors of float32 is smaller.
        kept = values > values[-1] * 1e-10
        roots, vectors = values[kept].sqrt(), vectors[:, kept]
        cross = (vectors / roots).mT @ centered.mT @ (s - s.mean(0)) / len(z)  # W Σ_zs
        left, singular, _ = torch.linalg.svd(cross, full_matrices=False)
        left = left[:, singular > singular.max().clamp(min=1e-12) * 1e-6]
        erased = (vectors * roots) @ left @ left.mT @ (vectors / roots).mT
        self.mean.copy_(mean)
        self.erased.copy_(erased)

    def forward(self, z: Tensor) -> Tensor:
        """Erase: (N, d) -> (N, d)."""
        return z - (z - self.mean) @ self.erased.mT


class ErasedModel(Model):
    """A model whose encoder ends with an eraser, which is fitted after the training."""

    def layers(self, inputs: int, hidden: tuple[int, ...], latent: int) -> nn.Sequential:
        """The encoder and its eraser."""
        return super().layers(inputs, hidden, latent).append(Eraser(latent))

    def finish(self, problem: Problem, settings: Any, seed: int) -> None:
        """Fit the eraser to training codes, and train the head anew on the erased codes."""
        eraser = self.encoder[-1]
        assert isinstance(eraser, Eraser)
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randperm(problem.count("train"), generator=generator)[: settings.codes]
        self.eval()
        with torch.no_grad():
            drawn = [problem.draw("train", chunk, generator) for chunk in rows.split(2000)]
            z = torch.cat([self.encoder(batch.x) for batch in drawn])
            eraser.fit(z, torch.cat([batch.s for batch in drawn]))
            z = eraser(z)
        with seeded(seed, problem.device):
            train_head(self.head, z, torch.cat([batch.label for batch in drawn]), settings)
        self.train()


def train_head(head: nn.Module, z: Tensor, label: Tensor, settings: Any) -> None:
    """Train a classifier anew on finished codes, for the steps of the encoder.

    Args:
        head: the classifier. It is initialized again.
        z: codes (N, d).
        label: their labels (N,).
        settings: the settings of the experiment: steps, batch and first learning rate.
    """
    for layer in head.modules():
        if isinstance(layer, nn.Linear):
            layer.reset_parameters()
    adam = torch.optim.Adam(head.parameters(), settings.learning_rate, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        adam, lambda done: 1 - (done + 1) / (settings.steps + 1)
    )
    for _ in range(settings.steps):
        rows = torch.randint(len(z), (settings.batch,)).to(z.device)
        descend(adam, F.cross_entropy(head(z[rows]), label[rows]))
        schedule.step()
