"""Parity, accuracy, time and memory of whole scores, compared with the bounds that must hold.

Parity is agreement with the authors' release and with the reference in plain torch. Every ratio of
times is a ratio of medians of interleaved calls.
"""

import json
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.machine import SETTING, in_fresh_process, machine, peak_megabytes, setting
from benchmarks.operators import baselines
from benchmarks.tables import RESULTS, Bounds, print_table, write_csv
from benchmarks.timing import geometric_mean, time_each
from mige_ext import SSGE, AdaptiveScore, ScoreEstimator, compat, ops, reference
from mige_ext.experiments.toy.methods import (
    mige_derivative,
    relative_rmse,
    rho_grid,
    true_derivative,
)

GOLDEN = Path(__file__).resolve().parents[1] / "tests" / "golden" / "authors_release_fp64.npz"
SAMPLES = (64, 128, 256, 512, 1024)
DIMENSIONS = (16, 64, 256)


def relative_error(value: Tensor, exact: Tensor) -> float:
    """``max |value − exact| / max |exact|``."""
    return float((value.double() - exact).abs().max() / exact.abs().max())


def parity(bounds: Bounds) -> None:
    """Compare scores with the authors' outputs, and in both dtypes with the reference."""
    golden = np.load(GOLDEN)
    worst = 0.0
    for case in sorted({key.split("/")[0] for key in golden.files if key.endswith("/score")}):
        estimator = compat.SpectralScoreEstimator(**json.loads(str(golden[f"{case}/args"])))
        query = f"{case}/query"
        at = torch.from_numpy(golden[query]) if query in golden.files else None
        value = estimator.compute_gradients(torch.from_numpy(golden[f"{case}/samples"]), at)
        worst = max(worst, relative_error(value, torch.from_numpy(golden[f"{case}/score"])))
    bounds.at_most("parity with the authors' release, float64", worst, 1e-8)

    rows = []
    for m, d in ((64, 8), (256, 16), (256, 64), (512, 64)):
        for seed in range(5):
            x = torch.randn(m, d, dtype=torch.float64, generator=_generator(seed))
            # float32 represents these samples exactly, so only the arithmetic differs.
            x = x.float().double()
            exact = reference.ssge(x)[0]
            rows.append(
                (
                    m,
                    d,
                    seed,
                    relative_error(ops.ssge(x)[0], exact),
                    relative_error(ops.ssge(x.float())[0], exact),
                    relative_error(baselines.eager(x.float()), exact),
                )
            )
    medians = [float(np.median([row[i] for row in rows])) for i in (4, 5)]
    print_table(
        "Parity with the float64 reference, relative error",
        ("M", "d", "seed", "float64", "float32", "eager float32"),
        rows,
    )
    bounds.at_most("parity with the reference, float64, worst", max(r[3] for r in rows), 1e-9)
    bounds.at_most("float32 error / error of eager, medians", medians[0] / medians[1], 2.0)


def toy_accuracy(bounds: Bounds) -> None:
    """Measure the relative RMSE of MIGE's dI/dρ on the authors' grid, with M = 256 and 5 seeds."""
    rho = rho_grid(32)
    for d, bound in ((8, 0.065), (16, 0.125), (32, 0.29)):
        errors = []
        for seed in range(5):
            x, noise = torch.randn(2, len(rho), 256, d, generator=_generator(seed))
            estimate = mige_derivative(
                torch.tensor(rho, dtype=x.dtype), x, noise, SSGE(threshold=0.99)
            )
            errors.append(relative_rmse(estimate.numpy(), true_derivative(d, rho)))
        bounds.at_most(f"dI/dρ, relative RMSE, d = {d}", float(np.mean(errors)), bound)


def score_time(bounds: Bounds) -> None:
    """Time one score on one thread, the published algorithm, and the best eager PyTorch."""
    torch.set_num_threads(1)
    header = ("M", "d", "published ms", "eager ms", "mige ms", "x published", "x eager")
    parts = ("distances", "median", "Gram", "eigh", "rest")
    rows: list[list[float | int]] = []
    breakdown: list[list[float | int]] = []
    estimator = SSGE(threshold=0.99)
    for m in SAMPLES:
        for d in DIMENSIONS:
            x = torch.randn(m, d, generator=_generator(0))
            times = time_each(
                {
                    "eager": partial(baselines.eager, x),
                    "eager_pdist": partial(baselines.eager_pdist, x),
                    "mige": partial(estimator.score, x),
                }
            )
            eager = min(times["eager"], times["eager_pdist"])
            # The published algorithm takes seconds, and runs fewer rounds.
            slow = time_each(
                {
                    "published": partial(baselines.published, x),
                    "mige": partial(estimator.score, x),
                },
                seconds=0.5,
                least=3,
            )
            rows.append(
                [
                    m,
                    d,
                    1e3 * slow["published"],
                    1e3 * eager,
                    1e3 * times["mige"],
                    slow["published"] / slow["mige"],
                    eager / times["mige"],
                ]
            )
            breakdown.append([m, d, *_breakdown(x, times["mige"])])
    print_table("One score, float32, 1 thread", header, rows)
    print_table("Parts of the time of one score, ms", ("M", "d", *parts), breakdown)
    write_csv(
        RESULTS / "end_to_end.csv",
        (*SETTING, *header, *(f"{part} ms" for part in parts)),
        [[*setting(), *row, *part[2:]] for row, part in zip(rows, breakdown, strict=True)],
    )
    published = geometric_mean(row[5] for row in rows)
    limit = geometric_mean(row[2] / part[5] for row, part in zip(rows, breakdown, strict=True))
    print(f"  x published, limited by the eigendecomposition to {limit:.3g}")
    small = geometric_mean(row[6] for row in rows if row[0] <= 256)
    bounds.at_least("x published, geometric mean", published, 18)
    bounds.at_least("x eager, geometric mean for M <= 256", small, 1.25)
    bounds.at_least("x eager, worst cell", min(row[6] for row in rows), 0.95)


def _breakdown(x: Tensor, whole: float) -> list[float]:
    """Milliseconds of distances, median, exponentials, eigendecomposition and the rest."""
    sigma = ops.distance_quantile(x)
    gram = ops.rbf_gram(x, bandwidth=sigma)
    times = time_each(
        {
            "distances": lambda: ops.squared_distances(x),
            "median": lambda: ops.distance_quantile(x),
            "gram": lambda: ops.rbf_gram(x, bandwidth=sigma),
            "eigh": lambda: ops.eigh(gram),
        },
        seconds=0.3,
    )
    distances = times["distances"]
    # distance_quantile and rbf_gram compute the distances too. A score computes them only once.
    median = max(times["median"] - distances, 0.0)
    exponentials = max(times["gram"] - distances, 0.0)
    rest = max(whole - distances - median - exponentials - times["eigh"], 0.0)
    return [1e3 * t for t in (distances, median, exponentials, times["eigh"], rest)]


def default_time(bounds: Bounds) -> None:
    """Time SSGE, and the adaptive score with two estimates of the covariance.

    "adaptive" (ridge) is the default of the information functions, and "adaptive QIS" has the least
    error of the score.
    """
    torch.set_num_threads(1)
    names: dict[str, ScoreEstimator] = {
        "adaptive": AdaptiveScore(gaussian="ridge"),
        "adaptive QIS": AdaptiveScore(gaussian="qis"),
    }
    limits = {"adaptive": 1.0, "adaptive QIS": 1.3}
    rows: list[tuple[float | str, ...]] = []
    for m in (64, 256, 1024):
        for d in DIMENSIONS:
            # The search over λ is short for normal samples and long for cubes of normal samples.
            plain = torch.randn(m, d, generator=_generator(0))
            for samples, x in (("normal", plain), ("cubes", plain**3)):
                estimators: dict[str, ScoreEstimator] = {"ssge": SSGE(), **names}
                times = time_each({n: partial(e.score, x) for n, e in estimators.items()})
                ssge = times["ssge"]
                ratios = [times[name] / ssge for name in names]
                if m > 64 and d == 64:
                    for name, limit in limits.items():
                        what = f"{name} / SSGE, time, M = {m}, d = 64, {samples}"
                        bounds.at_most(what, times[name] / ssge, limit)
                rows.append((m, d, samples, 1e3 * ssge, *(1e3 * times[n] for n in names), *ratios))
    header = (
        "M",
        "d",
        "samples",
        "SSGE ms",
        *(f"{n} ms" for n in names),
        *(f"{n} / SSGE" for n in names),
    )
    print_table("Scores without settings, float32, 1 thread", header, rows)
    write_csv(RESULTS / "adaptive.csv", (*SETTING, *header), [(*setting(), *row) for row in rows])


def group_time(bounds: Bounds) -> None:
    """Time many groups at once on two threads, and batched eager PyTorch."""
    torch.set_num_threads(2)
    rows = []
    estimator = SSGE(threshold=0.99)
    for groups, m, d in ((128, 64, 64), (128, 32, 64), (16, 128, 64)):
        x = torch.randn(groups, m, d, generator=_generator(0))
        times = time_each(
            {
                "eager": partial(baselines.eager, x),
                "mige": partial(estimator.score, x),
            },
            seconds=2.0,
        )
        ratio = times["eager"] / times["mige"]
        rows.append((groups, m, d, 1e3 * times["eager"], 1e3 * times["mige"], ratio))
    header = ("groups", "M", "d", "eager ms", "mige ms", "x eager")
    print_table("Groups, float32, 2 threads", header, rows)
    write_csv(RESULTS / "groups.csv", (*SETTING, *header), [(*setting(), *row) for row in rows])
    bounds.at_least("x eager, 128 groups of 64x64", rows[0][5], 1.7)


def peak_memory(bounds: Bounds) -> None:
    """Measure the peak resident memory of one score, in a fresh process for each function."""
    names = ("mige", "eager", "published")
    rows = [(name, in_fresh_process(memory_of, name)) for name in names]
    print_table("Peak memory of one score, M = 1024, d = 256", ("", "MB"), rows)
    bounds.at_most("peak memory of one score, MB", rows[0][1], 64)


def memory_of(name: str) -> float:
    """MB by which one score raises the peak memory of this process."""
    torch.set_num_threads(1)
    x = torch.randn(1024, 256, generator=_generator(0))
    function = SSGE().score if name == "mige" else getattr(baselines, name)
    function(x[:8])  # loads the code and the libraries
    before = peak_megabytes()
    function(x)
    return peak_megabytes() - before


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def end_to_end() -> None:
    """Measure parity, accuracy, time and memory of whole scores.

    The command takes four minutes, and writes end_to_end.csv, adaptive.csv and groups.csv to
    benchmarks/results. The exit status is 1 if a bound is missed.
    """
    threads = torch.get_num_threads()
    print(f"{machine()}; {threads} threads by default")
    bounds = Bounds()
    for step in (parity, toy_accuracy, score_time, default_time, group_time, peak_memory):
        step(bounds)
    torch.set_num_threads(threads)
    if missed := bounds.report():
        sys.exit(f"missed: {', '.join(missed)}")
