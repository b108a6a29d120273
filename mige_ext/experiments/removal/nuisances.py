"""Problems of information removal: inputs, labels to tell, and a continuous nuisance s to forget.

A nuisance is drawn as u, uniform in [0, 1)^k, and acts on the images; s is u on a scale of its own,
of unit variance, and 16 bins of equal probability are what an attacker guesses:

========= ===================================== ============================ ===============
nuisance  what it does to an image              s                            bins
========= ===================================== ============================ ===============
rotation  turns it by 2πu                       √2 (cos 2πu, sin 2πu)        16 sectors
shift     moves it by up to a seventh, 2-D      √12 (u − ½)                  4 × 4 squares
thickness erodes or dilates its strokes by a    √12 (u − ½)                  16 intervals
          pixel, or by a part of it
========= ===================================== ============================ ===============

In images the nuisance is independent of the label. In `Structural`, a table made by a documented
model, it is not: there something of s has to stay, or accuracy has to go.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from mige_ext.experiments.data.images import ImageData

BINS = 16
PARTS = ("train", "validation", "test")


class Batch(NamedTuple):
    """N rows of a problem."""

    x: Tensor  # (N, inputs) float32
    label: Tensor  # (N,) int64
    s: Tensor  # (N, d) float32, zero mean and unit variance
    bin: Tensor  # (N,) int64, 0 ... BINS - 1, of equal probability


class Problem(Protocol):
    """What a representation is learned and attacked on."""

    inputs: int
    classes: int
    nuisance_dim: int
    device: torch.device  # where its rows lie

    def checksum(self) -> str:
        """Of the files that it was read from, if any."""
        ...

    def count(self, part: str) -> int:
        """Rows of a part, of `PARTS`."""
        ...

    def draw(self, part: str, rows: Tensor, generator: torch.Generator) -> Batch:
        """These rows (N,) of a part.

        What is random about them comes from the generator, which lies on the CPU as the rows do:
        batches are the same on every device.
        """
        ...


# What a nuisance does, for images (N, C, H, W) in [0, 1] and u (N, k)


def rotate(images: Tensor, u: Tensor) -> Tensor:
    """Turn by 2πu about the centre, bilinear; 0 comes in from outside."""
    angle = 2 * math.pi * u[:, 0]
    return _resample(images, angle.cos(), angle.sin(), u.new_zeros(len(u), 2))


def shift(images: Tensor, u: Tensor) -> Tensor:
    """Move by up to a seventh of the size in both directions; 0 comes in from outside."""
    return _resample(images, u.new_ones(len(u)), u.new_zeros(len(u)), (2 * u - 1) * 2 / 7)


def thicken(images: Tensor, u: Tensor) -> Tensor:
    """Blend with the maximum of 3×3 pixels, u = 1, or with their minimum, u = 0."""
    dilated = F.max_pool2d(images, 3, stride=1, padding=1)
    eroded = -F.max_pool2d(-images, 3, stride=1, padding=1)
    t = (2 * u - 1)[:, :, None, None]
    return images + t.clamp(min=0) * (dilated - images) + (-t).clamp(min=0) * (eroded - images)


def _resample(images: Tensor, cos: Tensor, sin: Tensor, move: Tensor) -> Tensor:
    rows = [torch.stack([cos, -sin, move[:, 0]], -1), torch.stack([sin, cos, move[:, 1]], -1)]
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


# Scales of u


def circle(u: Tensor) -> Tensor:
    """√2 (cos 2πu, sin 2πu), (N, 1) -> (N, 2)."""
    angle = 2 * math.pi * u[:, 0]
    return math.sqrt(2) * torch.stack([angle.cos(), angle.sin()], -1)


def standardise(u: Tensor) -> Tensor:
    """√12 (u − ½), (N, k) -> (N, k)."""
    return math.sqrt(12) * (u - 0.5)


def bins_of(u: Tensor) -> Tensor:
    """The cell of u (N, k) in `BINS` cells of [0, 1)^k, for k = 1 or 2."""
    side = round(BINS ** (1 / u.shape[1]))
    cells = (u * side).long().clamp(max=side - 1)
    return cells[:, 0] if u.shape[1] == 1 else cells[:, 0] * side + cells[:, 1]


@dataclass(frozen=True)
class Nuisance:
    """A nuisance of images.

    Attributes:
        act: what it does, (N, C, H, W) and u (N, k) -> (N, C, H, W).
        uniforms: k.
        scale: s of u.
        dim: of s.
    """

    act: Callable[[Tensor, Tensor], Tensor]
    uniforms: int
    scale: Callable[[Tensor], Tensor]
    dim: int


NUISANCES = {
    "rotation": Nuisance(rotate, 1, circle, 2),
    "shift": Nuisance(shift, 2, standardise, 2),
    "thickness": Nuisance(thicken, 1, standardise, 1),
}


class Images:
    """Images under a nuisance that is drawn anew each time, pooled by 2 from 16 pixels on.

    Args:
        data: the images.
        nuisance: a name of `NUISANCES`.

    Raises:
        ValueError: the nuisance is not one of them.
    """

    def __init__(self, data: ImageData, nuisance: str) -> None:
        if nuisance not in NUISANCES:
            raise ValueError(f"nuisance must be one of {list(NUISANCES)}, got {nuisance!r}")
        self.data, self.nuisance = data, NUISANCES[nuisance]
        self.device = data.train.images.device
        channels, height, width = data.shape
        self.pool = 2 if min(height, width) >= 16 else 1
        self.inputs = channels * (height // self.pool) * (width // self.pool)
        self.classes = data.classes
        self.nuisance_dim = self.nuisance.dim

    def checksum(self) -> str:
        """Of the images."""
        return self.data.checksum()

    def count(self, part: str) -> int:
        """Images of a part."""
        return len(getattr(self.data, part))

    def draw(self, part: str, rows: Tensor, generator: torch.Generator) -> Batch:
        """Images of a part under nuisances from the generator."""
        split, rows = getattr(self.data, part), rows.to(self.device)
        u = torch.rand(len(rows), self.nuisance.uniforms, generator=generator).to(self.device)
        images = self.nuisance.act(split.images[rows].float() / 255, u)
        x = F.avg_pool2d(images, self.pool).flatten(1)
        return Batch(x, split.labels[rows], self.nuisance.scale(u), bins_of(u))


class Structural:
    """A table with a sensitive attribute that the label depends on, made by a structural model.

    It is synthetic: a stand-in for credit or hiring records with an age, in which the truth is
    known. With a the attribute, uniform of unit variance, and w ~ N(0, I₄) what is merited::

        x = tanh(A (w, a, a² − 1, sin 3a, cos 3a) + .5 ε),   x in 20 columns, ε ~ N(0, I)
        P(y = 1) = σ(2 (w₁ + w₂ w₃) + a)

    A is a fixed normal matrix with rows of unit length. The attribute spreads nonlinearly over all
    columns, and no column is it. 40,000 rows for training, 10,000 each to choose and to measure.

    Args:
        device: where the rows lie; the CPU if not given.
    """

    inputs, classes, nuisance_dim = 20, 2, 1
    _COUNTS = (40_000, 10_000, 10_000)

    def __init__(self, device: torch.device | None = None) -> None:
        self.device = device or torch.device("cpu")
        generator = torch.Generator().manual_seed(0)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        mixing = F.normalize(normal(self.inputs, 8), dim=1)
        self.parts = dict[str, Batch]()
        for part, count in zip(PARTS, self._COUNTS, strict=True):
            u = torch.rand(count, 1, generator=generator)
            a, w = standardise(u), normal(count, 4)
            causes = torch.cat([w, a, a.square() - 1, (3 * a).sin(), (3 * a).cos()], 1)
            x = (causes @ mixing.mT + 0.5 * normal(count, self.inputs)).tanh()
            logit = 2 * (w[:, 0] + w[:, 1] * w[:, 2]) + a[:, 0]
            label = (torch.rand(count, generator=generator) < logit.sigmoid()).long()
            columns = (x, label, a, bins_of(u))
            self.parts[part] = Batch(*(column.to(self.device) for column in columns))

    def checksum(self) -> str:
        """There are no files."""
        return ""

    def count(self, part: str) -> int:
        """Rows of a part."""
        return len(self.parts[part].x)

    def draw(self, part: str, rows: Tensor, generator: torch.Generator) -> Batch:
        """Rows of a part; nothing about them is random."""
        rows = rows.to(self.device)
        return Batch(*(column[rows] for column in self.parts[part]))
