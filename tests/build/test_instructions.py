"""Inner loops of CUDA kernels keep to their instruction budgets (``tools/instructions.py``)."""

from dataclasses import replace
from pathlib import Path

import pytest

from mige_ext import _C
from tools import instructions, resources
from tools.instructions import Loop, LoopBudget

# Two nested loops of one kernel. The inner loop has six instructions, and a seventh instruction for
# the early exit, which branches forward. After the return, nvcc fills the code with branches to
# themselves.
SASS = """
Fatbin elf code:
================
arch = sm_90
code version = [1,8]

\t.headerflags\t@"EF_CUDA_TEXMODE_UNIFIED"
\t\tFunction : _ZN4mige4cuda12pairs_kernelIfLi8EEEvPT_
\t.headerflags\t@"EF_CUDA_TEXMODE_UNIFIED"
        /*0000*/                   LDC R1, c[0x0][0x28] ;                        /* 0x00000a00 */
                                                                                 /* 0x000fe200 */
        /*0010*/                   S2R R0, SR_TID.X ;                            /* 0x00000a00 */
        /*0020*/                   LDS R2, [R0] ;                                /* 0x00000a00 */
        /*0030*/                   SHFL.BFLY PT, R3, R2, 0x1, 0x1f ;             /* 0x00000a00 */
        /*0040*/              @!P0 MUFU.RSQ R4, R3 ;                             /* 0x00000a00 */
        /*0050*/               @P1 BRA 0x70 ;                                    /* 0x00000a00 */
        /*0060*/                   STS [R0], R4 ;                                /* 0x00000a00 */
        /*0070*/                   ISETP.NE.AND P0, PT, R0, RZ, PT ;             /* 0x00000a00 */
        /*0080*/               @P0 BRA 0x20 ;                                    /* 0x00000a00 */
        /*0090*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;                 /* 0x00000a00 */
        /*00a0*/               @P2 BRA 0x10 ;                                    /* 0x00000a00 */
        /*00b0*/                   EXIT ;                                        /* 0x00000a00 */
        /*00c0*/                   BRA 0xc0;                                     /* 0x00000a00 */
\t\t..........
"""
BUDGET = {"pairs_kernel": LoopBudget(("MUFU.RSQ", "SHFL"), {"float, 8": 7})}
GOOD = Loop("pairs_kernel", "float, 8", 90, 7, 7)


def test_the_shortest_loop_with_the_named_instructions_is_counted() -> None:
    (code,) = instructions.parse(SASS)
    assert code.architecture == 90
    assert len(code.instructions) == 13
    assert instructions.shortest_loop(code, ("MUFU.RSQ", "SHFL")) == 7
    assert instructions.shortest_loop(code, ("MUFU.RSQ", "BAR")) == 10
    assert instructions.shortest_loop(code, ("MUFU.RCP",)) is None
    assert instructions.shortest_loop(code, ("EXIT",)) is None  # EXIT is outside of every loop


def test_kernels_of_several_architectures_are_kept_apart() -> None:
    both = SASS + SASS.replace("sm_90", "sm_120").replace("@P0 BRA 0x20", "@P0 BRA 0x10")
    (new, old) = instructions.measure(both, BUDGET)
    assert (new, old) == (GOOD, replace(GOOD, architecture=120, count=8))
    (violation,) = instructions.violations([new, old], BUDGET)
    assert violation == (
        "pairs_kernel<float, 8> on sm_120: 8 instructions in the loop, expected at most 7"
    )


def test_kernels_within_their_budgets_are_no_violation() -> None:
    assert instructions.violations(instructions.measure(SASS, BUDGET), BUDGET) == []
    assert "| `pairs_kernel<float, 8>` | 90 | 7 | 7 |" in instructions.table([GOOD])


def test_a_kernel_without_the_loop_is_a_violation() -> None:
    budget = {"pairs_kernel": LoopBudget(("MUFU.EX2",), {"float, 8": 7})}
    (violation,) = instructions.violations(instructions.measure(SASS, budget), budget)
    assert "no loop with MUFU.EX2" in violation


def test_an_instantiation_that_the_library_lacks_is_a_violation() -> None:
    budget = {"pairs_kernel": LoopBudget(("SHFL",), {"float, 8": 7, "float, 16": 7})}
    (violation,) = instructions.violations(instructions.measure(SASS, budget), budget)
    assert violation.startswith("pairs_kernel<float, 16>: has an instruction budget")


def test_a_budget_is_read_from_the_comment_above_its_kernel() -> None:
    source = """
// Registers: at most 64. Instructions of the loop with MUFU.RSQ, SHFL and STS: at most 172 in
// <float, 8>, otherwise 300.
template <typename T, int kLanes>
__global__ void __launch_bounds__(256) first_kernel(T* x) {}
// Registers: at most 64.
__global__ void __launch_bounds__(256) second_kernel(float* x) {}
"""
    assert instructions.budgets_of(source) == {
        "first_kernel": LoopBudget(("MUFU.RSQ", "SHFL", "STS"), {"float, 8": 172, "": 300})
    }


def test_the_jacobi_kernels_have_budgets() -> None:
    budgets = instructions.budgets()
    # At most 65 instructions for each of the four pairs that a warp rotates at once.
    assert budgets["eigh_block_kernel"].limits["float, 8, 13"] <= 4 * 65
    assert budgets["ssge_fused_kernel"].limits["float, 8, 13"] <= 4 * 65
    assert budgets["sweep_kernel"].limits["float"] <= 380


@pytest.mark.library
@pytest.mark.skipif(not _C.cuda_architectures, reason="built without nvcc: there are no kernels")
@pytest.mark.skipif(
    resources.cuobjdump() is None, reason="needs cuobjdump: pip install nvidia-cuda-cuobjdump"
)
@pytest.mark.skipif(
    instructions.nvdisasm() is None, reason="needs nvdisasm: pip install nvidia-cuda-nvdisasm"
)
def test_loops_of_the_library_keep_to_their_budgets() -> None:
    budgets = instructions.budgets()
    loops = instructions.read(Path(_C.__file__), budgets)
    assert instructions.violations(loops, budgets) == []
