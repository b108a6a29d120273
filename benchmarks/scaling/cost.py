"""How cost grows with samples, dimensions and groups, and how landmarks approach the full score.

    python -m mige_ext bench scaling                 with --quick: smaller sizes, about two minutes

Cost: time and peak memory of one score, each point in a fresh process, of the full SSGE and of
landmarks; `results/scaling.csv` and `.png`, with the exponents p of cost ~ size^p fitted to the
larger half of the sizes. Error: that of m landmarks against the full estimator and against the
density's own score, beside that of an SSGE of m samples; `results/landmarks.csv` and `.png`.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if __package__ in (None, ""):  # run as a script
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import RESULTS, machine, print_table, processor, write_csv
from mige_ext import SSGE, Landmarks

if TYPE_CHECKING:  # only for the figures is matplotlib needed
    from matplotlib.axes import Axes

ROOT = Path(__file__).resolve().parents[1]
HERE = ("machine", "threads", "torch")
SEEDS = 3
SAMPLES = {"quick": 512, "whole": 1024}  # M of the error study


def here() -> tuple[str, int, str]:
    """Where a row of a CSV file was measured."""
    return processor(), torch.get_num_threads(), torch.__version__


# --- cost -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Work:
    """One score of ``groups`` groups of M samples in d dimensions; with m landmarks if m > 0."""

    sweep: str
    M: int
    d: int
    groups: int = 1
    m: int = 0

    @property
    def estimator(self) -> str:
        """What a line of the figure is of."""
        return f"{self.m} landmarks" if self.m else "full"

    @property
    def size(self) -> int:
        """What the sweep changes."""
        return {"samples": self.M, "dimensions": self.d, "groups": self.groups}[self.sweep]


@dataclass(frozen=True)
class Cost:
    """Seconds, and by how many MB the peak of memory rose."""

    seconds: float
    megabytes: float


def sweeps(quick: bool) -> list[list[Work]]:
    """Lists of work of growing size; a list ends where its time has run out."""
    m = 256 if quick else 1024
    many = [10**3, 10**4, 10**5] if quick else [10**4, 3 * 10**4, 10**5, 3 * 10**5, 10**6]
    dimensions = [16, 64, 256, 1024]
    groups = [1, 4, 16, 64, 256, 1024]
    return [
        [Work("samples", 2**k, 64) for k in range(6, 12 if quick else 15)],
        [Work("samples", n, 64, m=m) for n in many],
        [Work("dimensions", 512, d) for d in dimensions],
        [Work("dimensions", 10**4, d, m=m // 4) for d in dimensions],
        [Work("groups", 64, 16, g) for g in groups],
        [Work("groups", 64, 16, g, m=32) for g in groups],
    ]


def measure(work: Work) -> Cost:
    """Time and memory of one score, in this process, which has done nothing else."""
    x = torch.randn(work.groups, work.M, work.d, generator=torch.Generator().manual_seed(0))
    x = x.squeeze(0)
    estimator = Landmarks(m=work.m) if work.m else SSGE()
    estimator.score(x[..., :8, :])  # code and libraries are loaded
    before = _peak_kilobytes()
    seconds: list[float] = []
    while len(seconds) < 2 or (sum(seconds) < 0.5 and len(seconds) < 20):
        start = time.perf_counter()
        estimator.score(x)
        seconds.append(time.perf_counter() - start)
        if len(seconds) == 1:
            memory = _peak_kilobytes() - before
            if seconds[0] > 2:
                break
    return Cost(float(np.median(seconds[1:] or seconds)), memory / 1024)


def _peak_kilobytes() -> int:
    # Not getrusage: there a child starts with the peak of its parent.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


def _in_a_fresh_process(work: Work) -> Cost:
    command = [sys.executable, "-m", "benchmarks.scaling", "--one", json.dumps(asdict(work)),
               "--threads", str(torch.get_num_threads())]  # fmt: skip
    output = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    return Cost(**json.loads(output))


def cost(out: Path, quick: bool, seconds: float) -> None:
    """Runs the sweeps, each as far as its seconds reach; writes the table and the figure."""
    found: list[tuple[Work, Cost]] = []
    for sweep in sweeps(quick):
        spent, last = 0.0, (0.0, 1)
        for work in sweep:
            # Cubic growth is the worst that there is.
            expected = last[0] * (work.size / last[1]) ** (1 if work.m else 3)
            if work.sweep == "samples" and spent + expected > seconds:
                print(f"  {work}: not run, about {expected:.0f} s", flush=True)
                break
            measured = _in_a_fresh_process(work)
            found.append((work, measured))
            spent, last = spent + measured.seconds, (measured.seconds, work.size)
            print(f"  {work}: {measured.seconds:.4g} s, {measured.megabytes:.4g} MB", flush=True)
    names = [field.name for kind in (Work, Cost) for field in fields(kind)]
    rows = [(*astuple(work), *astuple(measured)) for work, measured in found]
    write_csv(out / "scaling.csv", (*HERE, *names), [(*here(), *row) for row in rows])
    print_table("Cost of one score, float32", names, rows)
    _draw_cost(out / "scaling.png", found)


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The p of value ~ size^p, by least squares in logarithms over the larger half of the sizes."""
    half = len(sizes) // 2 if len(sizes) > 3 else 0
    x, y = np.log(sizes[half:]), np.log(np.maximum(values[half:], 1e-9))
    return float(np.polyfit(x, y, 1)[0])


def _draw_cost(path: Path, found: Sequence[tuple[Work, Cost]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 7), dpi=120, layout="constrained")
    columns = list(dict.fromkeys(work.sweep for work, _ in found))
    panels = figure.subplots(2, len(columns), sharex="col", squeeze=False)
    for column, sweep in enumerate(columns):
        for row, quantity in enumerate(("seconds", "megabytes")):
            axes: Axes = panels[row, column]
            here = [(work, measured) for work, measured in found if work.sweep == sweep]
            for i, name in enumerate(dict.fromkeys(work.estimator for work, _ in here)):
                line = [pair for pair in here if pair[0].estimator == name]
                sizes = [work.size for work, _ in line]
                values = [max(getattr(measured, quantity), 1e-5) for _, measured in line]
                grows = f"p = {exponent(sizes, values):.2f}" if len(sizes) > 1 else ""
                # Less than a page or two is noise of the allocator.
                shown = [max(v, 0.1) for v in values] if quantity == "megabytes" else values
                axes.plot(sizes, shown, "os"[i % 2] + "-", color=f"C{i}", label=f"{name}, {grows}")
            axes.set_xscale("log", base=2 if sweep != "samples" else 10)
            axes.set(yscale="log", ylabel=quantity)
            axes.grid(alpha=0.3)
            axes.legend(fontsize=8)
            if row == 0:
                axes.set_title(_fixed([work for work, _ in here]), fontsize=9)
            else:
                axes.set_xlabel(f"number of {sweep}")
    figure.suptitle(f"One score, float32; {processor()}, threads: {torch.get_num_threads()}")
    figure.savefig(path)
    print(f"  -> {path}")


def _fixed(works: Sequence[Work]) -> str:
    """What a sweep leaves as it is; once, if that is one thing."""
    fixed = {}
    for work in works:
        sizes = {"samples": f"d = {work.d}", "dimensions": f"M = {work.M}",
                 "groups": f"M = {work.M}, d = {work.d}"}  # fmt: skip
        fixed[work.estimator] = sizes[work.sweep]
    if len(set(fixed.values())) == 1:
        return next(iter(fixed.values()))
    return "; ".join(f"{name}: {size}" for name, size in fixed.items())


# --- error ----------------------------------------------------------------------------------------


def _mixture(n: int, d: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two normals at ±2 of the first axis; their score is −z + 2 tanh(2 z_1) e_1."""
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    x[:, 0] += 4 * torch.randint(0, 2, (n,), generator=generator) - 2
    score = -x
    score[:, 0] += 2 * (2 * x[:, 0]).tanh()
    return x, score


def _normal(n: int, d: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return x, -x


def _student(n: int, d: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Student's t with ν = 5 in each dimension; its score is −(ν + 1) z / (ν + z²)."""
    normal = torch.randn(n, d, 6, generator=generator, dtype=torch.float64)
    x = normal[..., 0] / normal[..., 1:].square().mean(-1).sqrt()
    return x, -6 * x / (5 + x.square())


DENSITIES: dict[str, Callable[[int, torch.Generator], tuple[Tensor, Tensor]]] = {
    "normal, d = 2": lambda n, g: _normal(n, 2, g),
    "normal, d = 8": lambda n, g: _normal(n, 8, g),
    "normal, d = 64": lambda n, g: _normal(n, 64, g),
    "two normals, d = 8": lambda n, g: _mixture(n, 8, g),
    "Student's t, d = 4": lambda n, g: _student(n, 4, g),
}
METHODS = ("landmarks", "m samples alone")


def error(out: Path, quick: bool) -> None:
    """Compares m landmarks among M samples with the full SSGE and with the true score."""
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
            sigma = SSGE().diagnose(x).bandwidth.item()  # one kernel, so that one thing changes
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
    write_csv(out / "landmarks.csv", (*HERE, *header), [(*here(), *row) for row in rows])
    print_table("Relative error of the score, float64, medians", header, rows)
    _draw_error(out / "landmarks.png", rows)


def _relative(value: Tensor, exact: Tensor) -> float:
    return float((value - exact).norm() / exact.norm())


def _draw_error(path: Path, rows: Sequence[tuple[str, int, int, str, float, float, float]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3 * len(DENSITIES), 6), dpi=120, layout="constrained")
    panels = figure.subplots(2, len(DENSITIES), sharex=True, sharey="row", squeeze=False)
    for column, name in enumerate(DENSITIES):
        above, below = panels[:, column]
        for i, method in enumerate(METHODS):
            line = [row for row in rows if row[0] == name and row[3] == method]
            # At m = M nothing but rounding is left.
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


# --- command line ---------------------------------------------------------------------------------


def main(arguments: Sequence[str]) -> None:
    """Runs what the arguments ask for."""
    parser = argparse.ArgumentParser(
        prog="python -m mige_ext bench scaling",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="smaller sizes")
    parser.add_argument("--threads", type=int, metavar="N", help="torch's default if not given")
    parser.add_argument(
        "--seconds", type=float, default=240.0, metavar="S",
        help="computing time of a sweep over samples, which ends before a size that needs more",
    )  # fmt: skip
    parser.add_argument("--only", choices=("cost", "error"), help="one of the two studies")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of tables and figures")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # a point of its own process, as JSON
    options = parser.parse_args(arguments)
    threads = torch.get_num_threads()
    torch.set_num_threads(options.threads or threads)
    try:
        if options.one:
            print(json.dumps(asdict(measure(Work(**json.loads(options.one))))))
            return
        print(f"{machine()}; threads: {torch.get_num_threads()}")
        if options.only != "error":
            cost(options.out, options.quick, options.seconds)
        if options.only != "cost":
            error(options.out, options.quick)
    finally:
        torch.set_num_threads(threads)


if __name__ == "__main__":
    main(sys.argv[1:])
