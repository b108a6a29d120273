"""Print registers, shared memory, occupancy and inner loops of the CUDA kernels in the library.

    python tools/resources.py        # or: make resources

The numbers come from the machine code, so no GPU is needed. The exit status is 1 if a kernel
violates one of these rules on an architecture. A kernel must

- use no local memory (spills and stack frames);
- have a register budget and ``__launch_bounds__``, and keep the budget;
- use no more static shared memory than a block may have;
- keep the instruction budgets of its loops (``tools/instructions.py``).

The register budget is a sentence in the comment above the kernel:

    // Registers: at most 80 in float and 128 in double.

CONTRIBUTING.md has the other forms of this sentence.
"""

import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KERNELS = ROOT / "csrc" / "cuda"
REGISTERS = 65536  # number of registers of a multiprocessor on every architecture
RESERVED = 1024  # bytes of shared memory that the system reserves for each block
STATIC_LIMIT = 48 * 1024


@dataclass(frozen=True)
class Multiprocessor:
    """The resources of one multiprocessor (CUDA Programming Guide)."""

    threads: int
    blocks: int
    shared: int  # bytes


MULTIPROCESSORS = {
    80: Multiprocessor(2048, 32, 164 * 1024),
    90: Multiprocessor(2048, 32, 228 * 1024),
    100: Multiprocessor(2048, 32, 228 * 1024),
    120: Multiprocessor(1536, 24, 100 * 1024),
}


@dataclass(frozen=True)
class Usage:
    """One kernel in the machine code of one architecture.

    Attributes:
        name: name of the kernel, without namespaces and arguments.
        parameters: template arguments of the kernel as the demangler writes them, or "".
        architecture: 90 for sm_90.
        registers: number of registers of a thread.
        local: bytes of local memory of a thread (stack frame and spilled registers).
        shared: bytes of static shared memory, without the part that the system reserves.
        threads: number of threads of the largest block that ``__launch_bounds__`` allows; None if
            the kernel has no launch bounds.
    """

    name: str
    parameters: str
    architecture: int
    registers: int
    local: int
    shared: int
    threads: int | None

    @property
    def title(self) -> str:
        """The kernel with its template arguments, as in C++."""
        return f"{self.name}<{self.parameters}>" if self.parameters else self.name


# --- the machine code -----------------------------------------------------------------------------


def cuobjdump() -> str | None:
    """The path of cuobjdump, from the CUDA toolkit or the package nvidia-cuda-cuobjdump."""
    packages = [Path(sysconfig.get_path("purelib")) / "nvidia" / "cu13" / "bin" / "cuobjdump"]
    return shutil.which("cuobjdump") or next((str(p) for p in packages if p.is_file()), None)


def read(library: Path) -> list[Usage]:
    """The kernels in a library, an object file or a cubin."""
    tool = cuobjdump()
    if tool is None:
        raise FileNotFoundError("cuobjdump is missing: pip install nvidia-cuda-cuobjdump")

    def dump(option: str) -> str:
        return subprocess.run(
            [tool, option, str(library)], capture_output=True, text=True, check=True
        ).stdout

    return parse(dump("--dump-resource-usage"), dump("--dump-elf"))


def parse(resources: str, elf: str) -> list[Usage]:
    """The kernels in the output of cuobjdump for ``--dump-resource-usage`` and ``--dump-elf``."""
    bounds: dict[tuple[int, str], int] = {}
    architecture, function = 0, ""
    lines = iter(elf.splitlines())
    for line in lines:
        if found := re.match(r"arch = sm_(\d+)", line):
            architecture, function = int(found[1]), ""
        elif found := re.match(r"\.nv\.info\.(\S+)$", line):
            function = found[1]
        elif "EIATTR_MAX_THREADS" in line:
            next(lines)
            sizes = [int(size, 16) for size in next(lines).split(":")[1].split()]
            bounds[architecture, function] = sizes[0] * sizes[1] * sizes[2]

    found_kernels = []
    for line in resources.splitlines():
        if found := re.match(r"arch = sm_(\d+)", line):
            architecture = int(found[1])
        elif found := re.match(r"\s*Function (\S+):", line):
            function = found[1]
        elif "REG:" in line:
            number = {key: int(value) for key, value in re.findall(r"(\w+):(\d+)", line)}
            found_kernels.append((architecture, function, number))
    names = demangled(function for _, function, _ in found_kernels)
    usages = []
    for architecture, function, number in found_kernels:
        name, parameters = names[function]
        # From compute capability 9.0 on, SHARED includes the bytes that the system reserves.
        reserved = RESERVED if architecture >= 90 and number["SHARED"] >= RESERVED else 0
        usages.append(
            Usage(
                name,
                parameters,
                architecture,
                registers=number["REG"],
                local=number["STACK"] + number["LOCAL"],
                shared=number["SHARED"] - reserved,
                threads=bounds.get((architecture, function)),
            )
        )
    # If several files have the same instantiation, the library contains it several times.
    return sorted(dict.fromkeys(usages), key=lambda u: (u.name, u.parameters, u.architecture))


def demangled(functions: Iterable[str]) -> dict[str, tuple[str, str]]:
    """The name and the template arguments of each mangled function."""
    mangled = sorted(set(functions))
    listing = subprocess.run(
        ["c++filt", *mangled], capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL
    ).stdout
    return {m: _parted(d) for m, d in zip(mangled, listing.splitlines(), strict=True)}


def _parted(declaration: str) -> tuple[str, str]:
    """``void a::kernel<float, 4>(float*)`` -> ("kernel", "float, 4")."""
    head = declaration.replace("(anonymous namespace)", "").removeprefix("void ")
    depth, end = 0, len(head)
    for i, character in enumerate(head):
        depth += (character == "<") - (character == ">")
        if character == "(" and depth == 0:
            end = i
            break
    name, _, parameters = head[:end].partition("<")
    return name.rsplit("::", 1)[-1], parameters.removesuffix(">").strip()


# --- the budgets ----------------------------------------------------------------------------------

_NUMBER = r"\d+(?: in (?:\w+|<[^>]*>))?"
#: A list of limits, such as "64 in <float, 8>, otherwise 128", without groups.
LIMITS = rf"{_NUMBER}(?:(?:,| and|, and|, otherwise) {_NUMBER})*"
_SENTENCE = re.compile(rf"Registers: at most ({LIMITS})")


def budgets(folder: Path = KERNELS) -> dict[str, dict[str, int]]:
    """The budgets of each kernel in the sources, by type. The type "" means all types."""
    found: dict[str, dict[str, int]] = {}
    for path in sorted(folder.rglob("*.cu*")):
        if path.suffix in (".cu", ".cuh"):
            found.update(budgets_of(path.read_text()))
    return found


def budgets_of(source: str) -> dict[str, dict[str, int]]:
    """The budgets in the text of one file. A kernel without a sentence has no budgets."""
    found = {}
    parts = source.split("__global__")
    for before, after in pairwise(parts):
        name = kernel_name(after)
        if name is None:
            continue
        sentences = _SENTENCE.findall(comment_text(before))
        found[name] = limits_of(sentences[-1]) if sentences else {}
    return found


def comment_text(source: str) -> str:
    """The comments in a part of a source file, in one line."""
    return " ".join(
        line.strip().removeprefix("//").strip()
        for line in source.splitlines()
        if line.strip().startswith("//")
    )


def limits_of(text: str) -> dict[str, int]:
    """The numbers in a text that matches LIMITS, by type. The type "" means all other types."""
    numbers = re.findall(r"(\d+)(?: in (\w+|<[^>]*>))?", text)
    return {kind.strip("<>"): int(n) for n, kind in numbers}


def kernel_name(declaration: str) -> str | None:
    """Name of the function that the text after ``__global__`` declares, or None."""
    declaration = re.sub(r"//[^\n]*", "", declaration)
    bounds = re.match(r"\s*(?:void\s*)?__launch_bounds__\s*\(", declaration)
    if bounds:
        depth, i = 1, bounds.end()
        while depth and i < len(declaration):
            depth += (declaration[i] == "(") - (declaration[i] == ")")
            i += 1
        declaration = declaration[i:]
    name = re.match(r"\s*(?:void\s+)?(\w+)\s*\(", declaration)
    return name[1] if name else None


def limit_of(parameters: str, budget: dict[str, int]) -> int | None:
    """The budget for these template arguments, or else for all types, or None."""
    for kind, limit in budget.items():
        if kind and f"{parameters},".startswith(f"{kind},"):
            return limit
    return budget.get("")


def violations(usages: list[Usage], allowed: dict[str, dict[str, int]]) -> list[str]:
    """A sentence for every rule that a kernel violates."""
    found = []
    for u in usages:
        where = f"{u.title} on sm_{u.architecture}"
        limit = limit_of(u.parameters, allowed.get(u.name, {}))
        if u.local:
            found.append(f"{where}: {u.local} bytes of local memory (stack or spills), expected 0")
        if u.shared > STATIC_LIMIT:
            found.append(
                f"{where}: {u.shared} bytes of static shared memory, "
                f"expected at most {STATIC_LIMIT}"
            )
        if u.threads is None:
            found.append(f"{where}: no __launch_bounds__, from which the compiler gets the budget")
        elif limit is not None and rounded_up(limit, 8) * u.threads > REGISTERS:
            found.append(
                f"{where}: {limit} registers × {u.threads} threads, expected at most {REGISTERS}"
            )
        if limit is None:
            found.append(
                f"{where}: no budget; write `// Registers: at most N in float and N in double.` "
                "above the kernel"
            )
        elif u.registers > limit:
            found.append(f"{where}: {u.registers} registers, expected at most {limit}")
    for name in sorted(allowed.keys() - {u.name for u in usages}):
        found.append(f"{name}: in the sources, but not in the library; build the library again")
    return found


# --- the table ------------------------------------------------------------------------------------


def rounded_up(value: int, unit: int) -> int:
    """The smallest multiple of ``unit`` that is not below ``value``."""
    return -(-value // unit) * unit


def resident_blocks(usage: Usage, threads: int, dynamic: int = 0) -> int:
    """The number of blocks of ``threads`` threads that run on a multiprocessor at the same time.

    ``dynamic`` is the dynamic shared memory of a block in bytes.
    """
    sm = MULTIPROCESSORS[usage.architecture]
    warps = rounded_up(threads, 32) // 32
    # A warp gets registers in units of 256. The four parts of a multiprocessor run whole warps.
    warps_by_registers = REGISTERS // (rounded_up(usage.registers, 8) * 32) // 4 * 4
    shared = rounded_up(usage.shared + dynamic + RESERVED, 128)
    return min(
        sm.blocks, sm.threads // (32 * warps), warps_by_registers // warps, sm.shared // shared
    )


def table(usages: list[Usage], allowed: dict[str, dict[str, int]]) -> str:
    """The numbers as a Markdown table. Occupancy is the fraction of the threads in use."""
    rows = [
        "| kernel | sm | registers | budget | shared, bytes | threads | blocks | occupancy |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for u in usages:
        limit = limit_of(u.parameters, allowed.get(u.name, {})) or "–"
        cells = [f"`{u.title}`", u.architecture, u.registers, limit, u.shared, u.threads or "–"]
        if u.threads and u.architecture in MULTIPROCESSORS:
            blocks = resident_blocks(u, u.threads)
            occupancy = blocks * u.threads / MULTIPROCESSORS[u.architecture].threads
            cells += [blocks, f"{occupancy:.0%}"]
        else:
            cells += ["–", "–"]
        rows.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(rows)


def main() -> None:
    """Print the tables and the violations."""
    sys.path.insert(0, str(ROOT))
    from mige_ext import _C
    from tools import instructions

    if not _C.cuda_architectures:
        sys.exit("mige_ext was built without CUDA kernels: put nvcc on PATH and build again")
    try:
        usages = read(Path(_C.__file__))
        loops = instructions.read(Path(_C.__file__), loop_budgets := instructions.budgets())
    except FileNotFoundError as error:
        sys.exit(str(error))
    allowed = budgets()
    print(table(usages, allowed))
    print("\nShared memory and occupancy do not include dynamic shared memory.")
    print(f"\n{instructions.table(loops)}")
    found = violations(usages, allowed) + instructions.violations(loops, loop_budgets)
    sys.exit("\n".join(["", *found]) if found else 0)


if __name__ == "__main__":
    main()
