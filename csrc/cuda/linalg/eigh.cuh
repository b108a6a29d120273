// Eigendecomposition of symmetric matrices, K = U diag(λ) Uᵀ, in two steps:
//
//   scale K + shift I = L Lᵀ       pivoted Cholesky decomposition
//   A = L V,  V orthogonal         one-sided Jacobi iteration, until the columns a_j are orthogonal
//
// Then A Aᵀ = L Lᵀ, so ‖a_j‖² = scale λ_j + shift and u_j = a_j / ‖a_j‖. `scale` is a power of two
// that prevents overflow, and `shift` makes the matrix positive definite. Gram matrices get no
// shift. After a large shift, ‖a_j‖² − shift is inaccurate, so the eigenpairs of matrices with a
// shift must be refined (eigh_refinement.cuh).
//
//   n <= 32                                   a warp, in registers
//   n <= 240, if it fits the shared memory    a thread block, in shared memory
//   larger n                                  many thread blocks, in global memory
//   129 <= n <= 2048, with MIGE_CUSOLVER      cuSOLVER
//
// The first two rows of this table are in eigh_small.cuh, which calls cholesky.cuh and jacobi.cuh.
// The third row is in large_matrix.cuh (memory), cholesky_large.cuh and jacobi_large.cuh, and the
// fourth in eigh_library.cuh. This file writes the results of the third row and chooses the row.
#pragma once

#include "cuda/linalg/cholesky_large.cuh"
#include "cuda/linalg/eigh_library.cuh"
#include "cuda/linalg/jacobi_large.cuh"

namespace mige::cuda {

// Writes the squared norms of the columns. A warp takes a column, and blockIdx.y the group.
// Work: 2 n² flop; reads n² values. Registers: at most 64.
template <typename T>
__global__ void __launch_bounds__(kRowThreads, 4) large_norms_kernel(LargeArguments<T> p) {
  const int64_t n = p.e.n;
  for (int64_t g = blockIdx.y; g < p.e.groups; g += gridDim.y)
    for_each_row(n, [&](int64_t j) {
      const T sum = squared_norm(p.columns(g) + j * n, n);
      if (threadIdx.x % kWarp == 0) p.norm[g * n + j] = sum;
    });
}

// Writes eigenvalues in ascending order, unit eigenvectors, and info. A warp takes a column,
// and blockIdx.y the group. Work: reads 2 n² values, writes n². Registers: at most 64.
template <typename T, MatrixKind kKind>
__global__ void __launch_bounds__(kRowThreads, 4) large_sort_kernel(LargeArguments<T> p) {
  const int64_t n = p.e.n;
  for (int64_t g = blockIdx.y; g < p.e.groups; g += gridDim.y) {
    const T magnitude = magnitude_of<T>(p.e.largest[g]);
    const bool finite = magnitude == magnitude;
    const Iteration iteration = p.state[g].iteration();
    const Eigenpairs<T> out{large_shift(p, kKind, g),
                            matrix_scale(kKind, magnitude),
                            false,
                            !(finite && iteration.converged),
                            p.e.values + g * n,
                            p.e.vectors + g * n * n};
    for_each_row(n, [&](int64_t j) {
      write_eigenpair(p.columns(g) + j * n, p.norm + g * n, n, j, out, [](int64_t i) { return i; });
    });
    if (p.e.info && blockIdx.x == 0 && threadIdx.x == 0) p.e.info[g] = info_of(finite, iteration);
  }
}

template <typename T, MatrixKind kKind>
void eigh_large(const Eigenproblem<T>& e, void* work, Stream& stream) {
  const LargeArguments<T> p{Workspace(work), e};
  stream.zero(p.state, e.groups);
  stream.zero(p.sweeps, kMaxLargeSweeps);
  stream.zero(p.a, p.a_size());
  cholesky_large<T, kKind>(p, stream);
  jacobi_large(p, stream);
  stream.launch(large_norms_kernel<T>, row_warps(e.n, e.groups), p);
  stream.launch(large_sort_kernel<T, kKind>, row_warps(e.n, e.groups), p);
}

// --- the choice of the kernels ---

enum class EighPath { kWarp, kBlock, kManyBlocks, kLibrary };

// Which kernel decomposes a matrix of n rows. The number of groups has no influence, so the result
// of a matrix has the same bits in any batch.
template <typename T>
EighPath eigh_path(int n) {
  if (n <= kWarp) return EighPath::kWarp;
  if (solver_of(n) == Solver::kLibrary) return EighPath::kLibrary;
  const bool fits = n <= kLargestInBlock && shared_matrix_size<T>(n) <= largest_smem();
  return fits ? EighPath::kBlock : EighPath::kManyBlocks;
}

// The bytes of workspace that eigendecompose() needs.
template <typename T>
int64_t eigendecompose_work(int64_t groups, int64_t n) {
  Eigenproblem<T> e{};
  e.groups = groups;
  e.n = static_cast<int>(n);
  switch (eigh_path<T>(e.n)) {
    case EighPath::kManyBlocks:
      return LargeArguments<T>{Workspace(nullptr), e}.size();
    case EighPath::kLibrary:
      return library_work(e);
    default:
      return 0;
  }
}

// Writes the eigenvalues, the eigenvectors and info of every group. The caller must
// have computed e.largest.
template <typename T, MatrixKind kKind>
void eigendecompose(const Eigenproblem<T>& e, void* work, Stream& stream) {
  switch (eigh_path<T>(e.n)) {
    case EighPath::kWarp:
      stream.launch(eigh_warp_kernel<T, kKind>,
                    {{divide_up(e.groups, kWarpsABlock)}, kWarpsABlock * kWarp}, e);
      break;
    case EighPath::kBlock:
      with_shape(e.n, [&](auto lanes, auto rows) {
        stream.launch(eigh_block_kernel<T, lanes, rows, kKind>,
                      {{e.groups}, kEighThreads<lanes, rows>, shared_matrix_size<T>(e.n)}, e);
      });
      break;
    case EighPath::kManyBlocks:
      eigh_large<T, kKind>(e, work, stream);
      break;
    case EighPath::kLibrary:
      eigh_by_library<T>(e, kKind, work, stream);
      break;
  }
}

}  // namespace mige::cuda
