"""Count the instructions in inner loops of CUDA kernels, from the machine code.

``tools/resources.py`` (``make resources``) prints the counts, and compares them with budgets. The
budget of a loop is a sentence in the comment above the kernel:

    // Instructions of the loop with MUFU.RSQ and SHFL: at most 216 in <float, 8, 13>.

A loop is the code from the target of a backward branch to this branch. The named instructions
identify the loop: it is the shortest loop that contains them. Each instruction counts once, so
inner loops must be unrolled.
"""

import os
import re
import shutil
import subprocess
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path

from tools import resources


@dataclass(frozen=True)
class LoopBudget:
    """The budget in the sentence above a kernel.

    Attributes:
        opcodes: beginnings of the instructions that identify the loop.
        limits: largest number of instructions, by the first template arguments of the kernel. Other
            instantiations have no limit.
    """

    opcodes: tuple[str, ...]
    limits: dict[str, int]


@dataclass(frozen=True)
class Loop:
    """The loop of one kernel on one architecture. ``count`` is None if there is no such loop."""

    name: str
    parameters: str
    architecture: int
    count: int | None
    budget: int

    @property
    def title(self) -> str:
        """The kernel with its template arguments, as in C++."""
        return f"{self.name}<{self.parameters}>" if self.parameters else self.name


# --- the machine code -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Code:
    """The addresses and texts of the instructions of one kernel."""

    function: str
    architecture: int
    instructions: tuple[tuple[int, str], ...]


def parse(sass: str) -> Iterator[Code]:
    """The kernels in the output of ``cuobjdump --dump-sass``."""
    architecture, function = 0, ""
    instructions: list[tuple[int, str]] = []
    for line in [*sass.splitlines(), "Function : end"]:
        # Address, instruction and encoding, such as "/*0010*/  EXIT ;  /* 0x... */".
        if found := re.match(r"\s*/\*([0-9a-f]{4,})\*/\s+([^;]+?)\s*;", line):
            instructions.append((int(found[1], 16), found[2]))
        elif found := re.match(r"arch = sm_(\d+)|\s*Function : (\S+)", line):
            if instructions:
                yield Code(function, architecture, tuple(instructions))
            instructions = []
            architecture, function = int(found[1] or architecture), found[2] or ""


def opcode(instruction: str) -> str:
    """``@!P0 STS.64 [R2], R4`` -> ``STS.64``."""
    return re.sub(r"^@!?U?P\w+\s+", "", instruction).split()[0]


def shortest_loop(code: Code, opcodes: tuple[str, ...]) -> int | None:
    """The number of instructions of the shortest loop that contains all opcodes."""
    addresses = [address for address, _ in code.instructions]
    names = [opcode(instruction) for _, instruction in code.instructions]
    # For each opcode, the number of its instructions before each position in the code.
    before = [[0, *accumulate(name.startswith(wanted) for name in names)] for wanted in opcodes]
    counts = []
    for last, (address, instruction) in enumerate(code.instructions):
        target = re.search(r"0x([0-9a-f]+)", instruction) if names[last].startswith("BRA") else None
        if not target or int(target[1], 16) > address:
            continue
        first = bisect_left(addresses, int(target[1], 16))
        if all(number[last + 1] > number[first] for number in before):
            counts.append(last + 1 - first)
    return min(counts, default=None)


def nvdisasm() -> str | None:
    """Path of nvdisasm, which cuobjdump needs, from the toolkit or nvidia-cuda-nvdisasm."""
    beside = Path(resources.cuobjdump() or "cuobjdump").with_name("nvdisasm")
    return shutil.which("nvdisasm") or (str(beside) if beside.is_file() else None)


def read(library: Path, budgets: dict[str, LoopBudget]) -> list[Loop]:
    """The loops with a budget in a library, an object file or a cubin."""
    tool, disassembler = resources.cuobjdump(), nvdisasm()
    if tool is None:
        raise FileNotFoundError("cuobjdump is missing: pip install nvidia-cuda-cuobjdump")
    if disassembler is None:
        raise FileNotFoundError("nvdisasm is missing: pip install nvidia-cuda-nvdisasm")
    path = f"{Path(disassembler).parent}{os.pathsep}{os.environ.get('PATH', '')}"

    def dump(*options: str) -> str:
        return subprocess.run(
            [tool, *options, str(library)],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PATH": path},  # for cuobjdump to find nvdisasm
        ).stdout

    functions = re.findall(r"Function (\S+):", dump("--dump-resource-usage"))
    names = resources.demangled(functions)
    wanted = sorted(
        function
        for function, (name, parameters) in names.items()
        if name in budgets and resources.limit_of(parameters, budgets[name].limits) is not None
    )
    if not wanted:
        return []
    return measure(dump("--dump-sass", "--function", ",".join(wanted)), budgets)


def measure(sass: str, budgets: dict[str, LoopBudget]) -> list[Loop]:
    """The loops with a budget in the output of ``cuobjdump --dump-sass``."""
    codes = list(parse(sass))
    names = resources.demangled(code.function for code in codes)
    found = []
    for code in codes:
        name, parameters = names[code.function]
        budget = budgets.get(name)
        limit = resources.limit_of(parameters, budget.limits) if budget else None
        if budget and limit is not None:
            count = shortest_loop(code, budget.opcodes)
            found.append(Loop(name, parameters, code.architecture, count, limit))
    # If several files have the same instantiation, the library contains it several times.
    return sorted(set(found), key=lambda loop: (loop.title, loop.architecture))


# --- the budgets ----------------------------------------------------------------------------------

_SENTENCE = re.compile(
    r"Instructions of the loop with ([A-Z0-9.]+(?:(?:,| and) [A-Z0-9.]+)*): "
    rf"at most ({resources.LIMITS})"
)


def budgets(folder: Path = resources.KERNELS) -> dict[str, LoopBudget]:
    """The budgets in the sources, by kernel."""
    found: dict[str, LoopBudget] = {}
    for path in sorted(folder.rglob("*.cu*")):
        found.update(budgets_of(path.read_text()))
    return found


def budgets_of(source: str) -> dict[str, LoopBudget]:
    """The budgets in the text of one file."""
    found = {}
    for before, after in pairwise(source.split("__global__")):
        name = resources.kernel_name(after)
        sentences = _SENTENCE.findall(resources.comment_text(before))
        if name and sentences:
            opcodes, limits = sentences[-1]
            found[name] = LoopBudget(
                tuple(re.split(r", | and ", opcodes)), resources.limits_of(limits)
            )
    return found


def violations(loops: list[Loop], allowed: dict[str, LoopBudget]) -> list[str]:
    """A sentence for every budget that a kernel exceeds."""
    found = []
    for loop in loops:
        where = f"{loop.title} on sm_{loop.architecture}"
        if loop.count is None:
            opcodes = " and ".join(allowed[loop.name].opcodes)
            found.append(f"{where}: no loop with {opcodes}, which has an instruction budget")
        elif loop.count > loop.budget:
            found.append(
                f"{where}: {loop.count} instructions in the loop, expected at most {loop.budget}"
            )
    for name, budget in sorted(allowed.items()):
        for kind in budget.limits:
            if not any(loop.name == name and _is_of(loop, kind) for loop in loops):
                found.append(
                    f"{name}<{kind}>: has an instruction budget, but is not in the library"
                )
    return found


def _is_of(loop: Loop, kind: str) -> bool:
    return resources.limit_of(loop.parameters, {kind: 0}) == 0


def table(loops: list[Loop]) -> str:
    """The counts as a Markdown table."""
    rows = ["| loop of | sm | instructions | budget |", "|---|---|---|---|"]
    for loop in loops:
        count = "–" if loop.count is None else loop.count
        rows.append(f"| `{loop.title}` | {loop.architecture} | {count} | {loop.budget} |")
    return "\n".join(rows)
