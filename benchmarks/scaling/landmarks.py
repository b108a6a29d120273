"""The error of m landmarks, relative to SSGE with all M samples and to the true score.

The method "m samples alone" is SSGE on the m landmarks, without the other samples.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.machine import SETTING, setting
from benchmarks.tables import print_table, write_csv
from mige_ext import SSGE, Landmarks

SEEDS = 3
SAMPLES = {"quick": 512, "whole": 1024}  # M
METHODS = ("landmarks", "m samples alone")


def _mixture(n: int, d: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two normals at ±2 on the first axis, with the score −z + 2 tanh(2 z_1) e_1."""
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    x[:, 0] += 4 * torch.randint(0, 2, (n,), generator=generator) - 2
    score = -x
    score[:, 0] += 2 * (2 * x[:, 0]).tanh()
    return x, score


def _normal(n: int, d: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Standard normal samples, with the score −z."""
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return x, -x


def _student(n: int, d: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Student's t with ν = 5 in each dimension, with the score −(ν + 1) z / (ν + z²)."""
    normal = torch.randn(n, d, 6, generator=generator, dtype=torch.float64)
    x = normal[..., 0] / normal[..., 1:].square().mean(-1).sqrt()
    return x, -6 * x / (5 + x.square())


#: Densities by name: functions of n and a generator, which return samples and scores, (n, d) each.
DENSITIES: dict[str, Callable[[int, torch.Generator], tuple[Tensor, Tensor]]] = {
    "normal, d = 2": lambda n, g: _normal(n, 2, g),
    "normal, d = 8": lambda n, g: _normal(n, 8, g),
    "normal, d = 64": lambda n, g: _normal(n, 64, g),
    "two normals, d = 8": lambda n, g: _mixture(n, 8, g),
    "Student's t, d = 4": lambda n, g: _student(n, 4, g),
}


def error(out: Path, quick: bool) -> None:
    """Compare m landmarks among M samples with SSGE and with the true score."""
    n = SAMPLES["quick" if quick else "whole"]
    sizes = [2**k for k in range(5, n.bit_length())]
    rows = []
    for name, density in DENSITIES.items():
        errors: dict[tuple[int, str], list[tuple[float, float]]] = {}
        full_errors = []
        for seed in range(SEEDS):
            x, true = density(n, torch.Generator().manual_seed(seed))
            full = SSGE().score(x)
            full_errors.append(_relative(full, true))
            sigma = SSGE().diagnose(x).bandwidth.item()  # all methods use this kernel
            for m in sizes:
                landmarks = Landmarks(m=m, bandwidth=sigma, seed=seed)
                alone = SSGE(bandwidth=sigma).fit(x[landmarks.chosen(n)])
                for method, scores in zip(
                    METHODS, (landmarks.score(x), alone.score(x)), strict=True
                ):
                    pair = _relative(scores, full), _relative(scores, true)
                    errors.setdefault((m, method), []).append(pair)
        for (m, method), pairs in errors.items():
            against_full, against_true = np.median(pairs, axis=0)
            rows.append(
                (name, n, m, method, float(against_full), float(against_true),
                 float(np.median(full_errors)))
            )  # fmt: skip
        print(f"  {name}: done", flush=True)
    header = ("density", "M", "m", "method", "against full", "against true", "full against true")
    write_csv(out / "landmarks.csv", (*SETTING, *header), [(*setting(), *row) for row in rows])
    print_table("Relative error of the score, float64, medians", header, rows)
    _draw(out / "landmarks.png", rows)


def _relative(value: Tensor, exact: Tensor) -> float:
    return float((value - exact).norm() / exact.norm())


def _draw(path: Path, rows: Sequence[tuple[str, int, int, str, float, float, float]]) -> None:
    """Draw both errors over m, with a column of panels for each density."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3 * len(DENSITIES), 6), dpi=120, layout="constrained")
    panels = figure.subplots(2, len(DENSITIES), sharex=True, sharey="row", squeeze=False)
    for column, name in enumerate(DENSITIES):
        above, below = panels[:, column]
        for i, method in enumerate(METHODS):
            line = [row for row in rows if row[0] == name and row[3] == method]
            # At m = M the error is rounding, which is not drawn.
            close = [(row[2], row[4]) for row in line if row[4] > 1e-7]
            above.plot(*zip(*close, strict=True), "os"[i] + "-", color=f"C{i}", label=method)
            below.plot([r[2] for r in line], [r[5] for r in line], "os"[i] + "-", color=f"C{i}")
        below.axhline(line[0][6], color="black", linestyle="--", label="all samples")
        above.set_title(name)
        below.set_xlabel("m")
        for axes in (above, below):
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            axes.grid(alpha=0.3)
    panels[0, 0].set_ylabel("error against all samples")
    panels[1, 0].set_ylabel("error against the true score")
    panels[0, 0].legend(fontsize=8)
    panels[1, 0].legend(fontsize=8)
    figure.suptitle(f"Relative error of the score at M = {rows[0][1]} samples, medians of {SEEDS}")
    figure.savefig(path)
    print(f"  -> {path}")
