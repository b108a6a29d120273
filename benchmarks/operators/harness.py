"""What every microbenchmark shares: operator and baselines timed, and put on the roofline.

A file ``benchmarks/<operator>.py`` says which sizes are measured and what they count as; this file
does the rest.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from benchmarks.common import processor, time_each
from benchmarks.operators.records import Record
from benchmarks.operators.roofline import Ceilings

# Bytes that the one large array of a published algorithm may take before it is left out.
PUBLISHED_LIMIT = {"cpu": 2**31, "cuda": 2**34}

Size = tuple[int, ...]


@dataclass(frozen=True)
class Problem:
    """One operator at one size: its arguments, what the work counts as, and what else does it.

    Bytes are those that any algorithm has to move: every argument read once, every result written
    once. What an operator keeps in between is left out, because it may stay in cache; GB/s are a
    lower bound then. Flop are those in the docstrings of ``mige_ext.ops``; exponentials, listed
    apart there, are not among them.

    Attributes:
        arguments: of the operator and of the baselines, by name.
        flop: floating-point operations.
        values: numbers read and written, in the dtype that is measured.
        published: the algorithm as public implementations have it, if it is another one.
        published_values: numbers in the largest array that it forms.
    """

    arguments: dict[str, Any]
    flop: float
    values: float
    published: Callable[..., object] | None = None
    published_values: int = 0


@dataclass(frozen=True)
class Benchmark:
    """An operator to measure.

    Attributes:
        name: of the operator, the same here and in ``mige_ext.ops``.
        fields: what the numbers of a size mean; the first is the number of groups.
        sizes: to measure, by device.
        problem: from something that draws samples, and a size.
        operator: what is measured.
        eager: the same in eager PyTorch; where there are several, the fastest counts, and the first
            is compiled. One that takes a single group is told by its name's end, ``pdist``.
        library: name and function of a library's own routine for a device, or why there is none.
    """

    name: str
    fields: tuple[str, ...]
    sizes: Mapping[str, tuple[Size, ...]]
    problem: Callable[..., Problem]
    operator: Callable[..., object]
    eager: tuple[Callable[..., object], ...]
    library: Callable[[str], tuple[str, Callable[..., object] | None]] | None = None

    def describe(self, size: Size) -> str:
        """``groups=128 M=64 d=64``, without the groups where there is one."""
        pairs = list(zip(self.fields, size, strict=True))
        return " ".join(f"{name}={n}" for name, n in (pairs[1:] if size[0] == 1 else pairs))


@dataclass(frozen=True)
class Samples:
    """Draws standard normal numbers, the same from run to run."""

    device: str
    dtype: torch.dtype
    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))

    def __call__(self, groups: int, *shape: int) -> Tensor:
        """(groups, ...), or (...) for one group, as a caller with one group has it."""
        batch = () if groups == 1 else (groups,)
        values = torch.randn(*batch, *shape, generator=self.generator, dtype=self.dtype)
        return values.to(self.device)

    def bandwidth(self, x: Tensor) -> Tensor:
        """√(2d) for each group of x, near the median distance of such samples."""
        return x.new_full(x.shape[:-2], (2 * x.shape[-1]) ** 0.5)


@dataclass
class Meter:
    """What is the same for all measurements of a run; collects notes on what was left out."""

    device: str
    dtype: torch.dtype
    ceilings: Ceilings
    compiled: bool = True
    seconds: float = 1.0
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Keeps a remark, once."""
        if text not in self.notes:
            self.notes.append(text)

    def measure(
        self, benchmark: Benchmark, sizes: Sequence[Size] | None = None
    ) -> Iterator[Record]:
        """Measures an operator at its sizes for this device, or at those given."""
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
        """The operator as "own", the baselines that can run, and the library's name."""
        functions = {"own": benchmark.operator}
        for function in benchmark.eager:
            if size[0] == 1 or not function.__name__.endswith("pdist"):
                functions[f"eager/{function.__name__}"] = function
        if problem.published is not None:
            bytes_ = problem.published_values * self.dtype.itemsize
            if bytes_ <= PUBLISHED_LIMIT[self.device]:
                functions["published"] = problem.published
            else:
                self.note(f"{label}: published not run, it would form {bytes_ / 1e9:.3g} GB.")
        if self.compiled:
            compiled = self._compile(benchmark.eager[0], problem.arguments, label)
            if compiled is not None:
                functions["compiled"] = compiled
        else:
            self.note("torch.compile was left out, as asked.")
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
        """The function compiled for exactly this size, and called once; None with a note if not."""
        torch.compiler.reset()  # or the compiler would generalise, and after eight sizes give up
        try:
            compiled = torch.compile(function, dynamic=False)
            compiled(**arguments)
        except Exception as error:  # whatever a compiler may find missing
            first_line = str(error).strip().split("\n")[0]
            self.note(f"{label}: not compiled, {type(error).__name__}: {first_line}")
            return None
        return compiled
