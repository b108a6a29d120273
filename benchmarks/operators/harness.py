"""The measurement of an operator: its time, its baselines, and the fraction of the roofline.

A file ``problems/<operator>.py`` has the sizes to measure, and the number of operations and of
values at each size. The roofline is the largest speed that the machine allows (docs/glossary.md).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from benchmarks.machine import processor
from benchmarks.operators import cusolver, solvers
from benchmarks.operators.records import Record
from benchmarks.operators.roofline import Ceilings
from benchmarks.timing import time_each

# A published algorithm is left out if its largest array has more bytes than this.
PUBLISHED_LIMIT = {"cpu": 2**31, "cuda": 2**34}

BATCHED = " by the batched solver"  # end of the name of an eager variant

Size = tuple[int, ...]


@dataclass(frozen=True)
class Problem:
    """One operator at one size: its arguments, its counted work, and the published algorithm.

    The counted bytes are one read of each argument and one write of each result. Intermediate
    arrays do not count, because they may stay in cache, so GB/s is a lower bound of the memory
    traffic. The docstrings of ``mige_ext.ops`` have the counted flop, without exponentials.

    Attributes:
        arguments: Arguments of the operator and of the baselines by name.
        flop: Floating-point operations.
        values: Numbers that are read and written, in the measured dtype.
        published: The algorithm of public implementations, and the number of values in its largest
            array; None if this algorithm is one of the eager baselines.
    """

    arguments: dict[str, Any]
    flop: float
    values: float
    published: tuple[Callable[..., object], int] | None = None


@dataclass(frozen=True)
class Benchmark:
    """An operator to measure.

    Attributes:
        name: The operator's name in ``mige_ext.ops``.
        sizes: Sizes to measure, by device.
        problem: A function of a :class:`Samples` and the numbers of a size, which makes the
            problem.
        operator: The measured function.
        eager: Baselines in eager PyTorch. The fastest counts, and the first is compiled. A function
            whose name ends in ``pdist`` takes only a single group.
        library: A function of the device, which returns the name and the function of a library's
            routine. If there is no routine, it returns the reason and None.
        decomposes: Whether the eager variants decompose a matrix (``solvers.eigh``). On CUDA they
            are then timed with torch's solver and with cuSOLVER's batched routine.
        fields: Names of the numbers of a size, of which the first is the number of groups.
    """

    name: str
    sizes: Mapping[str, tuple[Size, ...]]
    problem: Callable[..., Problem]
    operator: Callable[..., object]
    eager: tuple[Callable[..., object], ...]
    library: Callable[[str], tuple[str, Callable[..., object] | None]] | None = None
    decomposes: bool = False
    fields: tuple[str, ...] = ("groups", "M", "d")

    def describe(self, size: Size) -> str:
        """The size as text, such as ``groups=128 M=64 d=64``. One group is not mentioned."""
        pairs = list(zip(self.fields, size, strict=True))
        return " ".join(f"{name}={n}" for name, n in (pairs[1:] if size[0] == 1 else pairs))


@dataclass(frozen=True)
class Samples:
    """A generator of standard normal numbers, which are the same in every run."""

    device: str
    dtype: torch.dtype
    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))

    def __call__(self, groups: int, *shape: int) -> Tensor:
        """Draw (groups, ...), or (...) for one group."""
        batch = () if groups == 1 else (groups,)
        values = torch.randn(*batch, *shape, generator=self.generator, dtype=self.dtype)
        return values.to(self.device)

    def bandwidth(self, x: Tensor) -> Tensor:
        """√(2d) for each group of x, which is near the median distance of such samples."""
        return x.new_full(x.shape[:-2], (2 * x.shape[-1]) ** 0.5)


@dataclass
class Meter:
    """A series of measurements with one setting, and notes on baselines that were left out.

    Attributes:
        device: "cpu" or "cuda".
        dtype: Dtype of the samples.
        ceilings: Ceilings of the roofline.
        compiled: Whether the first eager baseline is also measured under ``torch.compile``.
        seconds: Approximate time that the timing of one size takes.
        notes: Baselines that were left out, and the reasons.
    """

    device: str
    dtype: torch.dtype
    ceilings: Ceilings
    compiled: bool = True
    seconds: float = 1.0
    notes: list[str] = field(default_factory=list)
    _solver: tuple[str, solvers.Solver | None] | None = field(default=None, init=False)

    def solver(self) -> tuple[str, solvers.Solver | None]:
        """The name and the function of the library's batched eigensolver; None on the CPU."""
        if self._solver is None:
            self._solver = cusolver.batched_eigh(self.device)
        return self._solver

    def note(self, text: str) -> None:
        """Add a note once."""
        if text not in self.notes:
            self.notes.append(text)

    def measure(
        self, benchmark: Benchmark, sizes: Sequence[Size] | None = None
    ) -> Iterator[Record]:
        """Measure an operator at the given sizes, by default at the sizes of the benchmark."""
        for size in benchmark.sizes[self.device] if sizes is None else sizes:
            yield self._measure(benchmark, size)

    def _measure(self, benchmark: Benchmark, size: Size) -> Record:
        problem = benchmark.problem(Samples(self.device, self.dtype), *size)
        label = f"{benchmark.name} {benchmark.describe(size)}"
        functions, library = self._candidates(benchmark, problem, size, label)

        def call(function: Callable[..., object]) -> Callable[[], object]:
            return lambda: function(**problem.arguments)

        times = time_each(
            {name: call(function) for name, function in functions.items()},
            self.seconds, device=self.device,
        )  # fmt: skip
        own = times["own"]
        solved = {name: time for name, time in times.items() if name.endswith(BATCHED)}
        for name, time in solved.items():
            with_torch = times[name.removesuffix(BATCHED)]
            self.note(
                f"{label}: {name.split('/')[1].removesuffix(BATCHED)} takes {1e3 * with_torch:.3g} "
                f"ms with torch.linalg.eigh and {1e3 * time:.3g} ms with {self.solver()[0]}."
            )

        def ratio(kind: str) -> float | None:
            variants = [time for name, time in times.items() if name.split("/")[0] == kind]
            return min(variants) / own if variants else None

        moved = problem.values * self.dtype.itemsize
        return Record(
            machine=processor() if self.device == "cpu" else torch.cuda.get_device_name(),
            device=self.device,
            threads=str(torch.get_num_threads()) if self.device == "cpu" else "-",
            torch=torch.__version__,
            operator=benchmark.name,
            size=benchmark.describe(size),
            dtype=str(self.dtype).removeprefix("torch."),
            ms=1e3 * own,
            gflops=problem.flop / own / 1e9,
            gbs=moved / own / 1e9,
            roofline_percent=self.ceilings.percent(problem.flop, moved, own),
            x_published=ratio("published"),
            x_eager=ratio("eager"),
            x_compiled=ratio("compiled"),
            x_library=ratio("library"),
            library=library,
            peak_gflops=self.ceilings.gflops,
            peak_gbs=self.ceilings.gbs,
        )

    def _candidates(
        self, benchmark: Benchmark, problem: Problem, size: Size, label: str
    ) -> tuple[dict[str, Callable[..., object]], str]:
        """The functions to time by name ("own" is the operator), and the library's name."""
        functions = {"own": benchmark.operator}
        for function in benchmark.eager:
            if size[0] == 1 or not function.__name__.endswith("pdist"):
                functions[f"eager/{function.__name__}"] = function
                solver = self.solver()[1] if benchmark.decomposes else None
                if solver is not None:
                    solved = solvers.solved_by(solver, function)
                    functions[f"eager/{function.__name__}{BATCHED}"] = solved
        if problem.published is not None:
            published, largest = problem.published
            bytes_ = largest * self.dtype.itemsize
            if bytes_ <= PUBLISHED_LIMIT[self.device]:
                functions["published"] = published
            else:
                self.note(f"{label}: published was left out, as it needs {bytes_ / 1e9:.3g} GB.")
        if self.compiled:
            compiled = self._compile(benchmark.eager[0], problem.arguments, label)
            if compiled is not None:
                functions["compiled"] = compiled
        else:
            self.note("torch.compile was left out.")
        library = ""
        if benchmark.library is not None:
            library, routine = benchmark.library(self.device)
            self.note(f"{benchmark.name}, library: {library}.")
            if routine is not None:
                functions["library"] = routine
        return functions, library

    def _compile(
        self, function: Callable[..., object], arguments: dict[str, Any], label: str
    ) -> Callable[..., object] | None:
        """The function, compiled for this size and called once, or None with a note on failure."""
        # Without a reset, torch.compile generalizes over sizes, and stops after eight sizes.
        torch.compiler.reset()
        try:
            compiled = torch.compile(function, dynamic=False)
            compiled(**arguments)
        except Exception as error:  # a compiler may fail in any way
            first_line = str(error).strip().split("\n")[0]
            self.note(f"{label}: not compiled, {type(error).__name__}: {first_line}")
            return None
        return compiled
