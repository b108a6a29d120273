"""The whole SSGE score, end to end: parity, accuracy, time, memory, in one run.

    python -m mige_ext bench            (or: python benchmarks/end_to_end.py)

Every ratio is of medians measured in turn in this run. The last table holds the measured values
against the bounds that this project promises to keep.
"""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

if __package__ in (None, ""):  # run as a script
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import (
    RESULTS,
    Promises,
    geometric_mean,
    machine,
    print_table,
    processor,
    time_each,
    write_csv,
)
from benchmarks.operators import baselines
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


HERE = ("machine", "threads", "torch")


def here() -> tuple[str, int, str]:
    """Where a row of a CSV file was measured."""
    return processor(), torch.get_num_threads(), torch.__version__


def relative_error(value: Tensor, exact: Tensor) -> float:
    """Largest |value − exact| / largest |exact|."""
    return float((value.double() - exact).abs().max() / exact.abs().max())


def parity(promises: Promises) -> None:
    """Against the authors' outputs, and against the reference in both dtypes."""
    golden = np.load(GOLDEN)
    worst = 0.0
    for case in sorted({key.split("/")[0] for key in golden.files if key.endswith("/score")}):
        estimator = compat.SpectralScoreEstimator(**json.loads(str(golden[f"{case}/args"])))
        query = f"{case}/query"
        at = torch.from_numpy(golden[query]) if query in golden.files else None
        value = estimator.compute_gradients(torch.from_numpy(golden[f"{case}/samples"]), at)
        worst = max(worst, relative_error(value, torch.from_numpy(golden[f"{case}/score"])))
    promises.at_most("parity with the authors' release, float64", worst, 1e-8)

    rows = []
    for m, d in ((64, 8), (256, 16), (256, 64), (512, 64)):
        for seed in range(5):
            x = torch.randn(m, d, dtype=torch.float64, generator=_generator(seed))
            # The exact score of the float32 samples, so that only the arithmetic differs.
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
    promises.at_most("parity with the reference, float64, worst", max(r[3] for r in rows), 1e-9)
    promises.at_most("float32 loss / that of eager, medians", medians[0] / medians[1], 2.0)


def toy_accuracy(promises: Promises) -> None:
    """Relative RMSE of MIGE's dI/dρ on the authors' grid, M = 256, mean of 5 seeds."""
    rho = rho_grid(32)
    for d, bound in ((8, 0.065), (16, 0.125), (32, 0.29)):
        errors = []
        for seed in range(5):
            x, noise = torch.randn(2, len(rho), 256, d, generator=_generator(seed))
            estimate = mige_derivative(
                torch.tensor(rho, dtype=x.dtype), x, noise, SSGE(threshold=0.99)
            )
            errors.append(relative_rmse(estimate.numpy(), true_derivative(d, rho)))
        promises.at_most(f"dI/dρ, relative RMSE, d = {d}", float(np.mean(errors)), bound)


def score_time(promises: Promises) -> None:
    """One score on one thread against the published algorithm and the best eager PyTorch."""
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
            # Seconds and gigabytes at the largest size: fewer rounds, and beside our own time.
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
    print_table("Of which, ms", ("M", "d", *parts), breakdown)
    write_csv(
        RESULTS / "end_to_end.csv",
        (*HERE, *header, *(f"{part} ms" for part in parts)),
        [[*here(), *row, *part[2:]] for row, part in zip(rows, breakdown, strict=True)],
    )
    published = geometric_mean(row[5] for row in rows)
    bound = geometric_mean(row[2] / part[5] for row, part in zip(rows, breakdown, strict=True))
    print(f"  x published, were there only the eigendecomposition: {bound:.3g}")
    small = geometric_mean(row[6] for row in rows if row[0] <= 256)
    promises.at_least("x published, geometric mean", published, 18)
    promises.at_least("x eager, geometric mean for M <= 256", small, 1.25)
    promises.at_least("x eager, worst cell", min(row[6] for row in rows), 0.95)


def _breakdown(x: Tensor, whole: float) -> list[float]:
    """Milliseconds of distances, median, Gram (exponentials), eigendecomposition and the rest."""
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
    # The operators for the median and the Gram matrix form the distances too; the score does once.
    median = max(times["median"] - distances, 0.0)
    exponentials = max(times["gram"] - distances, 0.0)
    rest = max(whole - distances - median - exponentials - times["eigh"], 0.0)
    return [1e3 * t for t in (distances, median, exponentials, times["eigh"], rest)]


def default_time(promises: Promises) -> None:
    """Scores without settings, the default of the information functions, against SSGE's."""
    torch.set_num_threads(1)
    names: dict[str, ScoreEstimator] = {
        "adaptive": AdaptiveScore(gaussian="ridge"),
        "adaptive QIS": AdaptiveScore(gaussian="qis"),
    }
    bounds = {"adaptive": 1.0, "adaptive QIS": 1.3}
    rows: list[tuple[float | str, ...]] = []
    for m in (64, 256, 1024):
        for d in DIMENSIONS:
            # Normal samples end the search for λ early, others late.
            plain = torch.randn(m, d, generator=_generator(0))
            for samples, x in (("normal", plain), ("cubes", plain**3)):
                estimators: dict[str, ScoreEstimator] = {"ssge": SSGE(), **names}
                times = time_each({n: partial(e.score, x) for n, e in estimators.items()})
                ssge = times["ssge"]
                ratios = [times[name] / ssge for name in names]
                if m > 64 and d == 64:
                    for name, bound in bounds.items():
                        what = f"{name} / SSGE, time, M = {m}, d = 64, {samples}"
                        promises.at_most(what, times[name] / ssge, bound)
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
    write_csv(RESULTS / "adaptive.csv", (*HERE, *header), [(*here(), *row) for row in rows])


def group_time(promises: Promises) -> None:
    """Many groups at once (circumstance III) on two threads against eager, batched."""
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
    write_csv(RESULTS / "groups.csv", (*HERE, *header), [(*here(), *row) for row in rows])
    promises.at_least("x eager, 128 groups of 64x64", rows[0][5], 1.7)


def peak_memory(promises: Promises) -> None:
    """Peak resident memory of one score in a fresh process, above the one before it."""
    rows = []
    for name in ("mige", "eager", "published"):
        command = [sys.executable, __file__, "--memory-of", name]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        rows.append((name, float(result.stdout)))
    print_table("Peak memory of one score, M = 1024, d = 256", ("", "MB"), rows)
    promises.at_most("peak memory of one score, MB", rows[0][1], 64)


def measure_memory(name: str) -> None:
    """Prints by how many MB one score raises this process's peak resident memory."""
    torch.set_num_threads(1)
    x = torch.randn(1024, 256, generator=_generator(0))
    function = SSGE().score if name == "mige" else getattr(baselines, name)
    function(x[:8])  # code and libraries are loaded: the interpreter with torch, so to say
    before = _peak_kilobytes()
    function(x)
    print((_peak_kilobytes() - before) / 1024)


def _peak_kilobytes() -> int:
    # Not getrusage: there a child starts with the peak of its parent.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def main() -> None:
    """Runs everything and prints what the project promises beside what it measured."""
    threads = torch.get_num_threads()
    print(f"{machine()}; {threads} threads by default")
    promises = Promises()
    for step in (parity, toy_accuracy, score_time, default_time, group_time, peak_memory):
        step(promises)
    torch.set_num_threads(threads)
    print_table("Promises", ("what", "measured", "promised", ""), promises.rows)
    missed = [row[0] for row in promises.rows if row[3] != "ok"]
    if missed:
        sys.exit(f"missed: {', '.join(missed)}")


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] == "--memory-of":
        measure_memory(sys.argv[2])
    else:
        main()
