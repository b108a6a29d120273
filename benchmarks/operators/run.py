"""The command line of the benchmarks: ``python -m mige_ext bench [operator|accuracy|scaling]``."""

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.common import RESULTS, machine, print_table
from benchmarks.operators import records, roofline
from benchmarks.operators.harness import Benchmark, Meter
from benchmarks.operators.records import Record
from mige_ext import report
from mige_ext.ops import OPERATORS as OPERATORS

HEADER = ("size", "ms", "GFLOP/s", "GB/s", "% of roofline")
BASELINES = tuple(name.replace("x_", "× ") for name in records.RATIOS)  # "× eager" and so on
SLOWER, NOTHING_COMPARED = 1, 2  # exit status


def load(operator: str) -> Benchmark:
    """The benchmark in the file of that name."""
    module = importlib.import_module(f"benchmarks.operators.problems.{operator}")
    benchmark: Benchmark = module.BENCHMARK
    return benchmark


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mige_ext bench",
        description="Without an operator: the end-to-end benchmark (parity, accuracy, time, "
        "memory), which takes no options. With one: its microbenchmark, time beside the baselines "
        "and on the roofline. `accuracy` instead of an operator: score estimators against known "
        "scores; `scaling`: time and memory as work grows; they have options of their own.",
        epilog=f"operators: {', '.join(OPERATORS)}; all runs every one of them",
    )
    parser.add_argument(
        "operator", nargs="?", choices=(*OPERATORS, "all"), metavar="operator",
        help="what to measure: one of those below, or all",
    )  # fmt: skip
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--threads", type=int, metavar="N", help="on the CPU; torch's default")
    parser.add_argument(
        "--seconds", type=float, default=1.0, metavar="S",
        help="how long to measure at each size (default 1; five rounds at least)",
    )  # fmt: skip
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--markdown", action="store_true", help="print the tables in Markdown")
    parser.add_argument(
        "--csv", type=Path, metavar="PATH",
        help="write the results there; rows of other machines, operators and sizes stay",
    )  # fmt: skip
    parser.add_argument("--figure", type=Path, metavar="PATH", help="draw the roofline there")
    parser.add_argument(
        "--save", action="store_true",
        help="both, named after the machine: benchmarks/results/operators-<machine>.csv and "
        "roofline-<machine>.png, the latter with every operator that the file holds",
    )  # fmt: skip
    parser.add_argument(
        "--compare", type=Path, metavar="CSV",
        help="compare with rows of the same machine there; exit status 1 if one has become slower, "
        "2 if there is nothing to compare with",
    )  # fmt: skip
    parser.add_argument(
        "--tolerance", type=float, default=25.0, metavar="PERCENT",
        help="how much slower is not yet slower (default 25)",
    )  # fmt: skip
    return parser


def main(arguments: Sequence[str]) -> None:
    """Runs what the arguments ask for."""
    if arguments[:1] in (["accuracy"], ["scaling"]):
        try:
            name = "accuracy.command" if arguments[0] == "accuracy" else "scaling"
            module = importlib.import_module(f"benchmarks.{name}")
        except ImportError as error:
            sys.exit(f"`{arguments[0]}` needs the extra `experiments` ({error})")
        if module.main(arguments[1:]):
            sys.exit(1)
        return
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.operator is None:
        if arguments:
            parser.error(f"options need an operator: {', '.join(OPERATORS)}, or all")
        from benchmarks import end_to_end

        end_to_end.main()
        return
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error(f"--device cuda: {report.cuda_status()}")
    if options.compare is not None and not options.compare.is_file():
        parser.error(f"--compare: there is no file {options.compare}")
    operators = OPERATORS if options.operator == "all" else (options.operator,)
    threads = torch.get_num_threads()
    torch.set_num_threads(options.threads or threads)
    try:
        status = _run([load(operator) for operator in operators], options)
    finally:
        torch.set_num_threads(threads)
    if status:
        sys.exit(status)


def _run(benchmarks: Sequence[Benchmark], options: argparse.Namespace) -> int:
    """Measures, prints, keeps and compares; returns the exit status."""
    # Read before the same file is written.
    stored = None if options.compare is None else records.read(options.compare)
    torch.set_float32_matmul_precision("highest")  # no TF32, in the ceiling and the baselines too
    dtype = getattr(torch, options.dtype)
    ceilings = roofline.measure_ceilings(options.device, dtype)
    meter = Meter(options.device, dtype, ceilings, not options.no_compile, options.seconds)
    print(_setting(meter))
    found: list[Record] = []
    for benchmark in benchmarks:
        try:
            rows = list(meter.measure(benchmark))
        except NotImplementedError as error:  # an operator without a kernel for this device
            meter.note(f"{benchmark.name}: not measured, {error}")
            continue
        _print_rows(benchmark.name, rows, options.markdown)
        found += rows
    if meter.notes:
        print("\n" + "\n".join(f"- {note}" for note in meter.notes))
    if not found:
        sys.exit("nothing was measured")
    _keep(found, ceilings, options)
    return 0 if stored is None else _compare(found, stored, options)


def _setting(meter: Meter) -> str:
    where = f"threads: {torch.get_num_threads()}"
    if meter.device == "cuda":
        where = f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"
    return (
        f"{machine()}; {where}; {meter.dtype}. Ceilings, measured in this run: multiply-adds "
        f"{meter.ceilings.gflops:.3g} GFLOP/s, copy {meter.ceilings.gbs:.3g} GB/s."
    )


def _print_rows(title: str, rows: Sequence[Record], markdown: bool) -> None:
    cells = [
        [
            row.size,
            *(f"{v:.3g}" for v in (row.ms, row.gflops, row.gbs, row.roofline_percent)),
            *("-" if v is None else f"{v:.2f}" for v in (getattr(row, r) for r in records.RATIOS)),
        ]
        for row in rows
    ]
    header = (*HEADER, *BASELINES)
    if not markdown:
        print_table(title, header, cells)
        return
    print(f"\n### {title}\n")
    for line in (header, ["---"] * len(header), *cells):
        print(f"| {' | '.join(line)} |")


def _keep(
    found: Sequence[Record], ceilings: roofline.Ceilings, options: argparse.Namespace
) -> None:
    """Writes what --csv, --figure and --save ask for."""
    if options.csv is not None:
        records.merge(options.csv, found)
    if options.save:
        name = records.slug(found[0])
        everything = records.merge(RESULTS / f"operators-{name}.csv", found)
        here = (found[0].group(), found[0].dtype)
        drawn = [record for record in everything if (record.group(), record.dtype) == here]
        suffix = "" if found[0].dtype == "float32" else f"-{found[0].dtype}"
        roofline.draw(RESULTS / f"roofline-{name}{suffix}.png", drawn, ceilings)
    if options.figure is not None:
        roofline.draw(options.figure, found, ceilings)


def _compare(found: Sequence[Record], stored: Sequence[Record], options: argparse.Namespace) -> int:
    pairs = records.compare(found, stored, options.tolerance)
    if not pairs:
        here = f"{found[0].machine} ({found[0].where()})"
        print(
            f"Nothing was compared: {options.compare} holds no row of {here} with one of these "
            "operators, sizes and dtypes.",
            file=sys.stderr,
        )
        return NOTHING_COMPARED
    print_table(
        f"Against {options.compare}",
        ("operator", "size", "stored ms", "ms", "ratio", ""),
        [
            (
                pair.now.operator, pair.now.size, pair.stored.ms, pair.now.ms, pair.ratio,
                "SLOWER" if pair.slower else "",
            )
            for pair in pairs
        ],
    )  # fmt: skip
    if len(pairs) < len(found):
        print(f"  {len(found) - len(pairs)} rows are new: nothing is stored for them.")
    slower = [f"{pair.now.operator} {pair.now.size}" for pair in pairs if pair.slower]
    if slower:
        print(f"slower by more than {options.tolerance:g} %: {', '.join(slower)}", file=sys.stderr)
        return SLOWER
    return 0
