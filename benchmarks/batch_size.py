"""How exact the gradient of mutual information is, by the number of samples in a batch."""

from typing import Annotated, NamedTuple

import torch
import typer
from torch import Tensor

import mige_ext as mige
from benchmarks.machine import machine
from benchmarks.options import Markdown
from benchmarks.tables import print_table
from mige_ext.experiments.common.device import cpu_threads

#: Columns of x and of z.
COLUMNS = ((2, 2), (8, 2), (16, 4), (16, 16), (48, 16))
SIZES = (64, 128, 256, 512)
#: Standard deviation of ε in z = A x + ε.
NOISE = 0.5


class Quality(NamedTuple):
    """The quality of estimates of a gradient; all numbers are 1 for the exact gradient."""

    #: mean cosine of the angle to the exact gradient
    cosine: float
    #: length of the mean estimate along the exact gradient, relative to the exact gradient
    length: float
    #: mean calibration of the score of the pair (x, z)
    calibration: float


def batch_size(
    sets: Annotated[int, typer.Option(min=2, help="Average over this many data sets.")] = 40,
    markdown: Markdown = False,
) -> None:
    """Measure the gradient of mutual information for several batch sizes, on one CPU thread.

    x is normal, z = A x + ε, and the gradient is with respect to A. For more than 256 samples the
    number of data sets is smaller, in inverse proportion to the number of samples.
    """
    print(machine())
    lines = []
    with cpu_threads(1):
        for d_x, d_z in COLUMNS:
            cells = []
            for m in SIZES:
                count = max(2, min(sets, sets * 256 // m))
                found = quality(d_x, d_z, m, count) if m >= d_x + d_z + 2 else None
                cells.append(" / ".join(f"{v:.2f}" for v in found) if found else "-")
            lines.append((f"{d_x} + {d_z}", *cells))
    header = ("columns of x + z", *(f"M = {m}" for m in SIZES))
    print_table("Cosine / length / calibration", header, lines, markdown=markdown)


def quality(d_x: int, d_z: int, m: int, sets: int) -> Quality:
    """The quality of the gradients with respect to A, from ``sets`` data sets of m samples."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(d_z, d_x, generator=generator) / d_x**0.5
    exact = torch.linalg.solve(a @ a.mT + NOISE**2 * torch.eye(d_z), a)
    gradients, calibrations = [], []
    for seed in range(sets):
        gradient, calibration = estimate(a, m, seed + 1)
        gradients.append(gradient)
        calibrations.append(calibration)
    found = torch.stack(gradients)
    cosine = torch.cosine_similarity(found.flatten(1), exact.flatten().unsqueeze(0))
    length = (found.mean(0) * exact).sum() / exact.square().sum()
    return Quality(float(cosine.mean()), float(length), sum(calibrations) / sets)


def estimate(a: Tensor, m: int, seed: int) -> tuple[Tensor, float]:
    """The estimated gradient with respect to A for one data set, and the calibration."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(m, a.shape[1], generator=generator)
    noise = NOISE * torch.randn(m, a.shape[0], generator=generator)
    a = a.clone().requires_grad_()
    with mige.recording() as log:
        (gradient,) = torch.autograd.grad(mige.mutual_information(x, x @ a.mT + noise), a)
    calibration = log[0].terms["joint"].calibration
    assert calibration is not None
    return gradient, float(calibration)
