"""Problems of information removal: inputs x, labels to predict, and a nuisance s to remove.

For images, a random vector u, uniform in [0, 1)^k, determines a transformation of the image. The
nuisance s is a function of u with unit variance. An attacker predicts s, and which of 16 bins of
equal probability contains s:

========= ======================================== ============================ ===============
nuisance  transformation of the image              s                            bins
========= ======================================== ============================ ===============
rotation  rotate by 2πu                            √2 (cos 2πu, sin 2πu)        16 sectors
shift     move in 2-D by up to 1/7 of the size     √12 (u − ½)                  4 × 4 squares
thickness erode or dilate strokes by up to a pixel √12 (u − ½)                  16 intervals
========= ======================================== ============================ ===============

This nuisance is independent of the label. :class:`Structural` is a synthetic table whose nuisance
affects the label, so that removal of s costs accuracy. :class:`People` has tables of people with a
sensitive column as nuisance: an age, or a category such as sex or race.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mige_ext.experiments.data.images import ImageData
from mige_ext.experiments.data.tables import TableData

BINS = 16
PARTS = ("train", "validation", "test")


class Batch(NamedTuple):
    """N rows of a problem."""

    x: Tensor  # (N, inputs) float32
    label: Tensor  # (N,) int64
    s: Tensor  # (N, d) float32, zero mean and unit variance
    bin: Tensor  # (N,) int64, 0 ... bins - 1, of equal probability; the class of a categorical s


class Problem(ABC):
    """Labeled inputs with a nuisance."""

    inputs: int
    classes: int
    nuisance_dim: int
    bins: int = BINS  # number of bins of s, or of classes if s is categorical
    categorical: bool = False  # whether s is a category
    given_label: bool = False  # whether z may reveal what the label reveals about s
    device: torch.device  # of the rows

    def checksum(self) -> str:
        """Checksum of the files of the problem, or "" if it has no files."""
        return ""

    @abstractmethod
    def count(self, part: str) -> int:
        """Number of rows of a part, one of ``PARTS``."""

    @abstractmethod
    def draw(self, part: str, rows: Tensor, generator: torch.Generator) -> Batch:
        """Draw a batch of the given rows (N,) of a part.

        The rows and the generator are on the CPU, so a batch is the same on every device.
        """


# Transformations of images (N, C, H, W) in [0, 1] by u (N, k)


def rotate(images: Tensor, u: Tensor) -> Tensor:
    """Rotate by 2πu about the center, with bilinear interpolation and zeros outside."""
    angle = 2 * math.pi * u[:, 0]
    return _resample(images, angle.cos(), angle.sin(), u.new_zeros(len(u), 2))


def shift(images: Tensor, u: Tensor) -> Tensor:
    """Move by up to 1/7 of the size in both directions, with zeros outside."""
    return _resample(images, u.new_ones(len(u)), u.new_zeros(len(u)), (2 * u - 1) * 2 / 7)


def thicken(images: Tensor, u: Tensor) -> Tensor:
    """Blend with the maximum of 3×3 pixels for u > ½, and with their minimum for u < ½."""
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


def standardize(u: Tensor) -> Tensor:
    """√12 (u − ½), (N, k) -> (N, k)."""
    return math.sqrt(12) * (u - 0.5)


def bins_of(u: Tensor) -> Tensor:
    """Index (N,) of the cell of u (N, k) in a grid of ``BINS`` cells on [0, 1)^k, k = 1 or 2."""
    side = round(BINS ** (1 / u.shape[1]))
    cells = (u * side).long().clamp(max=side - 1)
    return cells[:, 0] if u.shape[1] == 1 else cells[:, 0] * side + cells[:, 1]


@dataclass(frozen=True)
class Nuisance:
    """A nuisance of images."""

    act: Callable[[Tensor, Tensor], Tensor]  # images (N, C, H, W), u (N, k) -> (N, C, H, W)
    uniforms: int  # k
    scale: Callable[[Tensor], Tensor]  # u -> s (N, dim)
    dim: int


NUISANCES = {
    "rotation": Nuisance(rotate, 1, circle, 2),
    "shift": Nuisance(shift, 2, standardize, 2),
    "thickness": Nuisance(thicken, 1, standardize, 1),
}


class Images(Problem):
    """Images under a nuisance that is drawn again for each batch.

    Images of at least 16 pixels are average-pooled by 2 after the transformation.

    Args:
        data: the images.
        nuisance: a name in ``NUISANCES``.

    Raises:
        ValueError: the nuisance is unknown.
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
        """Checksum of the images."""
        return self.data.checksum()

    def count(self, part: str) -> int:
        """Number of images of a part."""
        return len(getattr(self.data, part))

    def draw(self, part: str, rows: Tensor, generator: torch.Generator) -> Batch:
        """Draw a nuisance for each of the given images of a part."""
        split, rows = getattr(self.data, part), rows.to(self.device)
        u = torch.rand(len(rows), self.nuisance.uniforms, generator=generator).to(self.device)
        images = self.nuisance.act(split.images[rows].float() / 255, u)
        x = F.avg_pool2d(images, self.pool).flatten(1)
        return Batch(x, split.labels[rows], self.nuisance.scale(u), bins_of(u))


class Structural(Problem):
    """A synthetic table from a structural model, with a sensitive attribute that affects the label.

    The attribute a is uniform with unit variance. Other causes of the label are w ~ N(0, I₄)::

        x = tanh(A (w, a, a² − 1, sin 3a, cos 3a) + .5 ε),   x in 20 columns, ε ~ N(0, I)
        P(y = 1) = σ(2 (w₁ + w₂ w₃) + a)

    A is a fixed random matrix with rows of unit length. The table has 40,000 training, 10,000
    validation and 10,000 test rows.

    Args:
        device: device of the rows, by default the CPU.
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
            a, w = standardize(u), normal(count, 4)
            causes = torch.cat([w, a, a.square() - 1, (3 * a).sin(), (3 * a).cos()], 1)
            x = (causes @ mixing.mT + 0.5 * normal(count, self.inputs)).tanh()
            logit = 2 * (w[:, 0] + w[:, 1] * w[:, 2]) + a[:, 0]
            label = (torch.rand(count, generator=generator) < logit.sigmoid()).long()
            columns = (x, label, a, bins_of(u))
            self.parts[part] = Batch(*(column.to(self.device) for column in columns))

    def count(self, part: str) -> int:
        """Number of rows of a part."""
        return len(self.parts[part].x)

    def draw(self, part: str, rows: Tensor, generator: torch.Generator) -> Batch:
        """Select the given rows of a part. The generator is not used."""
        rows = rows.to(self.device)
        return Batch(*(column[rows] for column in self.parts[part]))


class People(Problem):
    """A table of people, with one of its sensitive columns as nuisance.

    The nuisance stays among the inputs. The bins are 16 intervals between quantiles of a continuous
    nuisance, or the classes of a categorical nuisance. For penalties that need numbers, s has a
    column of zeros and ones for each class except the first, scaled to zero mean and unit variance.

    Args:
        data: the table.
        nuisance: a name in its ``nuisances``.

    Raises:
        ValueError: the nuisance is unknown.
    """

    def __init__(self, data: TableData, nuisance: str) -> None:
        known = list(data.train.nuisances)
        if nuisance not in known:
            raise ValueError(f"nuisance of {data.name} must be one of {known}, got {nuisance!r}")
        self.data, self.nuisance = data, nuisance
        self.device = data.train.x.device
        self.inputs, self.classes = data.train.x.shape[1], data.classes
        self.categorical = nuisance in data.categories
        train = data.train.nuisances[nuisance]
        if self.categorical:
            self.bins = len(data.categories[nuisance])
            self.edges = torch.arange(1, self.bins, device=self.device)
        else:
            inner = torch.arange(1, BINS, device=self.device) / BINS
            self.edges = train.quantile(inner).unique()
            self.bins = len(self.edges) + 1
        numbers = self._numbers(train)
        deviation = numbers.std(0, unbiased=False)
        self.mean, self.scale = numbers.mean(0), torch.where(deviation > 0, deviation, 1.0)
        self.nuisance_dim = numbers.shape[1]

    def _numbers(self, column: Tensor) -> Tensor:
        """The nuisance (N,) as numbers (N, d)."""
        if self.categorical:
            return F.one_hot(column, self.bins)[:, 1:].float()
        return column[:, None]

    def checksum(self) -> str:
        """Checksum of the table."""
        return self.data.checksum()

    def count(self, part: str) -> int:
        """Number of rows of a part."""
        return len(getattr(self.data, part))

    def draw(self, part: str, rows: Tensor, generator: torch.Generator) -> Batch:
        """Select the given rows of a part. The generator is not used."""
        table, rows = getattr(self.data, part), rows.to(self.device)
        column = table.nuisances[self.nuisance][rows]
        s = (self._numbers(column) - self.mean) / self.scale
        bins = torch.bucketize(column, self.edges, right=True)
        return Batch(table.x[rows], table.labels[rows], s, bins)
