"""Errors of the gradient of I(x; y) for pairs whose scores are known.

The gradient of I(x; y) with respect to y_i is ``(s(x_i, y_i)_y − s(y_i)) / M``, where
``s(x_i, y_i)_y`` is the y-part of the score of the pair, and ``s(y_i)`` is the score of y alone.
The *field* is M times this gradient. The error of a field f̂ is ``Σ‖f̂ − f‖² / Σ‖f‖²`` over the
samples, with the exact field f.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.accuracy.distributions import Paired
from benchmarks.accuracy.families import Family, stream
from benchmarks.tables import Bounds, print_table
from benchmarks.timing import geometric_mean
from mige_ext import SSGE, GaussianScore, ScoreEstimator, Tikhonov, mutual_information
from mige_ext.experiments.common.statistics import mean_and_error

CONTROL = "Gaussian ridge"
#: The estimators of the table. None is the default of :func:`mige_ext.mutual_information`.
ESTIMATORS: dict[str, ScoreEstimator | None] = {
    CONTROL: GaussianScore(covariance="ridge"),
    "default": None,
    "SSGE .99": SSGE(),
    "Tikhonov": Tikhonov(),
}
#: Upper bounds of ``InformationRow.ratio`` of the default: for each Gaussian density, for each
#: other density, and for the geometric mean over the other densities at M = 1024.
GAUSSIAN_RATIO, OTHER_RATIO, MEAN_RATIO = 1.4, 1.1, 0.95


@dataclass(frozen=True)
class InformationRow:
    """An estimator on a density of pairs at one M.

    Attributes:
        family: Name of the density in ``FAMILIES``, such as ``asinh-4``.
        d: Dimensions of the pair.
        samples: Number of samples M.
        estimator: Name in the table.
        seeds: Number of data sets.
        error: Mean error of the field over the data sets.
        error_se: Standard error of ``error``.
        cosine: Mean cosine between the field and the exact field.
        ratio: Error relative to the error of the Gaussian control.
    """

    family: str
    d: int
    samples: int
    estimator: str
    seeds: int
    error: float
    error_se: float
    cosine: float
    ratio: float


def is_paired(family: Family) -> bool:
    """Whether the family has pairs (x, y) with a known score of y."""
    return isinstance(family.distribution, Paired)


def measure_information(family: Family, m: int, seeds: int) -> list[InformationRow]:
    """The rows of a family of pairs.

    Args:
        family: A family for which :func:`is_paired` holds.
        m: Number of samples M.
        seeds: Number of data sets. The other tables use the same data sets.
    """
    distribution = family.distribution
    assert isinstance(distribution, Paired)
    errors: dict[str, list[float]] = {name: [] for name in ESTIMATORS}
    cosines: dict[str, list[float]] = {name: [] for name in ESTIMATORS}
    for seed in range(seeds):
        samples = distribution.draw(m, stream(family.name, m, seed)).samples
        x, y = samples.chunk(2, -1)
        exact = distribution.score(samples).chunk(2, -1)[1] - distribution.marginal_score(y)
        for name, estimator in ESTIMATORS.items():
            field = m * _gradient(x, y, estimator)
            errors[name].append(float((field - exact).square().sum() / exact.square().sum()))
            cosine = torch.nn.functional.cosine_similarity(field.flatten(), exact.flatten(), 0)
            cosines[name].append(float(cosine))
    means = {name: mean_and_error(values) for name, values in errors.items()}
    return [
        InformationRow(
            family.name, distribution.d, m, name, seeds, *means[name],
            mean_and_error(cosines[name])[0], means[name][0] / means[CONTROL][0],
        )
        for name in ESTIMATORS
    ]  # fmt: skip


def _gradient(x: Tensor, y: Tensor, estimator: ScoreEstimator | None) -> Tensor:
    y = y.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(mutual_information(x, y, estimator=estimator), y)
    return gradient


def report_information(
    rows: Sequence[InformationRow], *, complete: bool, markdown: bool = False
) -> list[str]:
    """Print the table and, if ``complete``, the bounds. Return the names of missed bounds."""
    names = list(dict.fromkeys(row.estimator for row in rows))
    for m in dict.fromkeys(row.samples for row in rows):
        cells = {(row.family, row.estimator): row for row in rows if row.samples == m}
        text = {key: f"{row.error:.3f} ({row.cosine:.2f})" for key, row in cells.items()}
        lines = [
            [family, *(text[family, name] for name in names)]
            for family in dict.fromkeys(family for family, _ in cells)
        ]
        title = f"M = {m}: information, relative squared error of the field (cosine)"
        print_table(title, ("density", *names), lines, markdown=markdown)
    return information_bounds(rows).report(markdown=markdown) if complete else []


def information_bounds(rows: Sequence[InformationRow]) -> Bounds:
    """The bounds of the default relative to the control."""
    bounds = Bounds()
    of_default = [row for row in rows if row.estimator == "default" and row.samples >= 256]
    for m in dict.fromkeys(row.samples for row in of_default):
        here = [row for row in of_default if row.samples == m]
        gaussian = [row.ratio for row in here if row.family.startswith("gaussian")]
        other = [row.ratio for row in here if not row.family.startswith("gaussian")]
        what = f"error of the field, default / {CONTROL}, M = {m}"
        if gaussian:
            bounds.at_most(f"{what}, worst Gaussian density", max(gaussian), GAUSSIAN_RATIO)
        if other:
            bounds.at_most(f"{what}, worst other density", max(other), OTHER_RATIO)
        if other and m == 1024:
            bounds.at_most(f"{what}, other densities, mean", geometric_mean(other), MEAN_RATIO)
    return bounds
