"""CUDA kernels keep to their register budgets; ``tools/resources.py`` reports the violations."""

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from mige_ext import _C
from tests.support.process import ROOT
from tools import resources
from tools.resources import Usage

ALLOWED = {"sum_kernel": {"float": 80, "double": 128}}
GOOD = Usage("sum_kernel", "float", 90, registers=80, local=0, shared=1024, threads=256)

needs_cuobjdump = pytest.mark.skipif(
    resources.cuobjdump() is None, reason="needs cuobjdump: pip install nvidia-cuda-cuobjdump"
)


def printed(registers: int = 80, stack: int = 0, local: int = 0, shared: int = 17664) -> str:
    """The output of cuobjdump --dump-resource-usage for sum_kernel<float>."""
    return f"""
Fatbin elf code:
================
arch = sm_90
code version = [1,8]

Resource usage:
 Common:
  GLOBAL:0
 Function _ZN4mige4cuda10sum_kernelIfEEvPKT_PS2_:
  REG:{registers} STACK:{stack} SHARED:{shared} LOCAL:{local} CONSTANT[0]:600 TEXTURE:0 SURFACE:0

Fatbin ptx code:
================
arch = sm_120
"""


ELF = """
Fatbin elf code:
================
arch = sm_90

.nv.info._ZN4mige4cuda10sum_kernelIfEEvPKT_PS2_
\t<0x1>
\tAttribute:\tEIATTR_MAX_THREADS
\tFormat:\tEIFMT_SVAL
\tValue:\t0x80 0x2 0x1\x20
"""


# --- the kernels of this library ------------------------------------------------------------------


@pytest.mark.library
@pytest.mark.skipif(not _C.cuda_architectures, reason="built without nvcc: there are no kernels")
@needs_cuobjdump
def test_kernels_keep_to_their_budgets_without_local_memory() -> None:
    usages = resources.read(Path(_C.__file__))
    assert {u.architecture for u in usages} == {int(a) for a in _C.cuda_architectures.split(",")}
    assert resources.violations(usages, resources.budgets()) == []


def test_every_kernel_in_the_sources_has_a_budget_next_to_it() -> None:
    budgets = resources.budgets()
    assert budgets["pairwise_kernel"]
    assert [name for name, budget in budgets.items() if not budget] == []
    code = "\n".join(p.read_text() for p in (ROOT / "csrc" / "cuda").rglob("*.cu*"))
    assert code.count("__global__ void") == len(budgets)


# --- the gate itself ------------------------------------------------------------------------------


def test_a_kernel_is_read_from_the_text_of_cuobjdump() -> None:
    (usage,) = resources.parse(printed(), ELF)
    assert usage == replace(GOOD, shared=16640)
    assert usage.title == "sum_kernel<float>"
    assert resources.violations([usage], ALLOWED) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (printed(registers=81), "81 registers, expected at most 80"),
        (printed(stack=40), "40 bytes of local memory"),
        (printed(local=8), "8 bytes of local memory"),
        (printed(shared=50 * 1024), "50176 bytes of static shared memory, expected at most 49152"),
    ],
)
def test_the_gate_refuses_what_breaks_a_rule(text: str, message: str) -> None:
    (violation,) = resources.violations(resources.parse(text, ELF), ALLOWED)
    assert violation.startswith("sum_kernel<float> on sm_90: ")
    assert message in violation


def test_the_gate_refuses_a_kernel_without_launch_bounds_or_budget() -> None:
    (unbounded,) = resources.parse(printed(), "")
    assert "no __launch_bounds__" in resources.violations([unbounded], ALLOWED)[0]
    assert "no budget" in resources.violations([GOOD], {})[0]
    assert "no budget" in resources.violations([GOOD], {"sum_kernel": {"double": 128}})[0]


@pytest.mark.parametrize(
    ("parameters", "limit"), [("float, 4, true", 128), ("float, 8", 255), ("float, 44", 255)]
)
def test_a_budget_may_depend_on_several_template_arguments(parameters: str, limit: int) -> None:
    assert resources.limit_of(parameters, {"float, 4": 128, "": 255}) == limit


def test_the_gate_refuses_a_budget_that_no_multiprocessor_has() -> None:
    found = resources.violations([replace(GOOD, threads=1024)], ALLOWED)
    assert found == [
        "sum_kernel<float> on sm_90: 80 registers × 1024 threads, expected at most 65536"
    ]


def test_the_gate_refuses_a_library_that_lacks_a_kernel_of_the_sources() -> None:
    (found,) = resources.violations([GOOD], {**ALLOWED, "other_kernel": {"": 64}})
    assert found.startswith("other_kernel: in the sources, but not in the library")


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("Registers: at most 80 in float and 128 in double.", {"float": 80, "double": 128}),
        ("Registers: at most 80 in float, and\n// 128 in double.", {"float": 80, "double": 128}),
        ("Registers: at most 64. Work: 3 flop", {"": 64}),
        ("Registers: at most 128 in <float, 4>, otherwise 255.", {"float, 4": 128, "": 255}),
        ("Work: 3 flop", {}),
    ],
)
def test_a_budget_is_read_from_the_comment_above_its_kernel(
    sentence: str, expected: dict[str, int]
) -> None:
    source = f"""
// Registers: at most 32.
__global__ void first_kernel(int* a) {{}}
// The second kernel. {sentence}
template <typename T>
__global__ void __launch_bounds__(f(kThreads), kBlocks<T>)  // [groups]
    second_kernel(const T* x) {{}}
"""
    assert resources.budgets_of(source) == {"first_kernel": {"": 32}, "second_kernel": expected}


@pytest.mark.parametrize(
    ("declaration", "expected"),
    [
        ("void mige::cuda::f<float, 4>(float const*, void (*)(int))", ("f", "float, 4")),
        ("mige::cuda::(anonymous namespace)::f(int)", ("f", "")),
        ("void f<std::pair<int, float>, true>(int)", ("f", "std::pair<int, float>, true")),
    ],
)
def test_names_are_parted_from_template_arguments(
    declaration: str, expected: tuple[str, str]
) -> None:
    assert resources._parted(declaration) == expected


@pytest.mark.parametrize(
    ("registers", "shared", "threads", "architecture", "blocks"),
    [
        (32, 0, 256, 90, 8),  # all 2048 threads
        (80, 0, 256, 90, 3),  # registers: 24 of 64 warps
        (128, 33280, 256, 80, 2),
        (32, 40960, 256, 120, 2),  # shared memory: 2 × 41 KiB of 100
        (16, 0, 32, 90, 32),  # the number of blocks
        (16, 0, 32, 120, 24),
    ],
)
def test_occupancy_is_what_the_scarcest_resource_allows(
    registers: int, shared: int, threads: int, architecture: int, blocks: int
) -> None:
    usage = Usage("f", "", architecture, registers, 0, shared, threads)
    assert resources.resident_blocks(usage, threads) == blocks
    assert f"| {threads} | {blocks} |" in resources.table([usage], {})


@needs_cuobjdump
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")
def test_the_gate_refuses_a_kernel_that_the_compiler_made_spill(tmp_path: Path) -> None:
    source = tmp_path / "greedy.cu"
    source.write_text("""
// Registers: at most 32.
__global__ void __launch_bounds__(1024, 2) greedy_kernel(float* x, int n) {
  float a[64];
#pragma unroll
  for (int i = 0; i < 64; ++i) a[i] = x[i * n + threadIdx.x];
  for (int t = 0; t < n; ++t) {
#pragma unroll
    for (int i = 0; i < 64; ++i) a[i] = a[i] * a[(i * 7 + 1) % 64] + 1;
  }
#pragma unroll
  for (int i = 0; i < 64; ++i) x[i * n + threadIdx.x] = a[i];
}
""")
    cubin = tmp_path / "greedy.cubin"
    compile_ = ["nvcc", "-cubin", "-arch=sm_90", str(source), "-o", str(cubin)]
    subprocess.run(compile_, check=True, capture_output=True)
    found = resources.violations(resources.read(cubin), resources.budgets(tmp_path))
    assert [v for v in found if "bytes of local memory (stack or spills), expected 0" in v]
    # The flags of the build also refuse to compile it.
    strict = [*compile_, "-Werror=all-warnings", "-Xptxas=-warn-spills,-warn-lmem-usage"]
    assert all(flag in (ROOT / "CMakeLists.txt").read_text() for flag in strict[-2:])
    assert subprocess.run(strict, capture_output=True).returncode != 0
