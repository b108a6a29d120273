"""A run of the microbenchmarks: measure, print, write files, and compare with older results.

This file needs only torch, for machines without the packages of the command line.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.machine import machine
from benchmarks.operators import problems, records, roofline
from benchmarks.operators.harness import Meter
from benchmarks.operators.records import Record
from benchmarks.tables import RESULTS, print_table
from mige_ext._installation import cuda_status
from mige_ext.ops import OPERATORS as OPERATORS

HEADER = ("size", "ms", "GFLOP/s", "GB/s", "% of roofline")
BASELINES = tuple(name.replace("x_", "× ") for name in records.RATIOS)  # "× eager" and so on
SLOWER, NOTHING_COMPARED = 1, 2  # exit status


@dataclass(frozen=True)
class Options:
    """Options of a run.

    Attributes:
        device: "cpu" or "cuda".
        dtype: "float32" or "float64".
        threads: Threads on the CPU; None keeps torch's number.
        seconds: Seconds at each size; at least five rounds are measured.
        compiled: Whether the eager baseline is also measured under ``torch.compile``.
        markdown: Whether the tables are printed in Markdown.
        csv: File to which the results are added. Rows of other machines, operators and sizes are
            kept.
        figure: File of the roofline figure.
        save: Whether both files are also written to ``benchmarks/results``, with the machine in
            their names.
        compare: File of older results to compare with.
        tolerance: Slowdown in percent above which a row counts as slower.

    Raises:
        ValueError: The device is not available, or the file to compare with does not exist.
    """

    device: str = "cpu"
    dtype: str = "float32"
    threads: int | None = None
    seconds: float = 1.0
    compiled: bool = True
    markdown: bool = False
    csv: Path | None = None
    figure: Path | None = None
    save: bool = False
    compare: Path | None = None
    tolerance: float = 25.0

    def __post_init__(self) -> None:
        """Check that the device and the file exist."""
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError(f"--device cuda: {cuda_status()}")
        if self.compare is not None and not self.compare.is_file():
            raise ValueError(f"--compare: there is no file {self.compare}")


def run(operators: Sequence[str], options: Options) -> int:
    """Measure operators, and return the exit status.

    The status is 1 if an operator became slower, and 2 if there was nothing to compare with.
    """
    threads = torch.get_num_threads()
    precision = torch.get_float32_matmul_precision()
    torch.set_num_threads(options.threads or threads)
    torch.set_float32_matmul_precision("highest")  # no TF32 in the ceiling and in the baselines
    try:
        return _run(operators, options)
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)


def _run(operators: Sequence[str], options: Options) -> int:
    # The older results are read first, because --csv may name the same file.
    stored = None if options.compare is None else records.read(options.compare)
    dtype = getattr(torch, options.dtype)
    ceilings = roofline.measure_ceilings(options.device, dtype)
    meter = Meter(options.device, dtype, ceilings, options.compiled, options.seconds)
    print(_setting(meter))
    found: list[Record] = []
    for operator in operators:
        rows: list[Record] = []
        try:
            for row in meter.measure(problems.load(operator)):
                rows.append(row)
                if options.csv is not None:  # after every row, because a later size may crash
                    records.merge(options.csv, [row])
        except NotImplementedError as error:  # the operator has no kernel for this device
            meter.note(f"{operator}: not measured, {error}")
            continue
        print_table(
            operator, (*HEADER, *BASELINES), [_cells(row) for row in rows],
            markdown=options.markdown,
        )  # fmt: skip
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


def _cells(row: Record) -> list[str]:
    ratios = (getattr(row, name) for name in records.RATIOS)
    return [
        row.size,
        *(f"{v:.3g}" for v in (row.ms, row.gflops, row.gbs, row.roofline_percent)),
        *("-" if v is None else f"{v:.2f}" for v in ratios),
    ]


def _keep(found: Sequence[Record], ceilings: roofline.Ceilings, options: Options) -> None:
    """Write the files of ``figure`` and ``save``."""
    if options.save:
        name = records.slug(found[0])
        everything = records.merge(RESULTS / f"operators-{name}.csv", found)
        here = (found[0].group(), found[0].dtype)
        drawn = [record for record in everything if (record.group(), record.dtype) == here]
        suffix = "" if found[0].dtype == "float32" else f"-{found[0].dtype}"
        roofline.draw(RESULTS / f"roofline-{name}{suffix}.png", drawn, ceilings)
    if options.figure is not None:
        roofline.draw(options.figure, found, ceilings)


def _compare(found: Sequence[Record], stored: Sequence[Record], options: Options) -> int:
    pairs = records.compare(found, stored, options.tolerance)
    if not pairs:
        here = f"{found[0].machine} ({found[0].where()})"
        print(
            f"Nothing was compared: {options.compare} has no row of {here} with one of these "
            "operators, sizes and dtypes.",
            file=sys.stderr,
        )
        return NOTHING_COMPARED
    print_table(
        f"Compared with {options.compare}",
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
        print(f"  {len(found) - len(pairs)} rows have no older result in the file.")
    slower = [f"{pair.now.operator} {pair.now.size}" for pair in pairs if pair.slower]
    if slower:
        print(f"slower by more than {options.tolerance:g} %: {', '.join(slower)}", file=sys.stderr)
        return SLOWER
    return 0
