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
//   129 <= n <= 2048, with MIGE_CUSOLVER      cuSOLVER, instead of the two rows above
//
// The first two rows of this table are in eigh_small.cuh, which calls cholesky.cuh and jacobi.cuh.
// The third row is in large_matrix.cuh (memory), cholesky_large.cuh, jacobi_large.cuh and
// eigh_large.cu, and the fourth in eigh_library.cuh. This file chooses the row.
#pragma once

#include "cuda/linalg/eigh_library.cuh"
#include "cuda/linalg/large_matrix.cuh"

namespace mige::cuda {

enum class EighPath { kWarp, kBlock, kManyBlocks, kLibrary };

// The smallest matrix that a thread block takes. ssge_fused decomposes Gram matrices of up to 128
// rows, except in double: of more than 112 rows on a device with 163 KiB of shared memory, and of
// more than 80 rows with 99 KiB. The kernels for Gram matrices of up to 104 rows are left out,
// which saves a quarter of the time to compile ssge.cu. Many thread blocks take the few such
// matrices.
template <typename T, MatrixKind kKind>
constexpr int kSmallestInBlock =
    kKind == MatrixKind::kSymmetric ? kWarp + 1 : (sizeof(T) == 8 ? 105 : 129);

// Which kernel decomposes a matrix of n rows. The number of groups has no influence, so the result
// of a matrix has the same bits in any batch.
template <typename T, MatrixKind kKind>
EighPath eigh_path(int n) {
  if (kKind == MatrixKind::kSymmetric && n <= kWarp) return EighPath::kWarp;
  if (solver_of(n) == Solver::kLibrary) return EighPath::kLibrary;
  const bool fits = kSmallestInBlock<T, kKind> <= n && n <= kLargestInBlock &&
                    shared_matrix_size<T>(n) <= largest_smem();
  return fits ? EighPath::kBlock : EighPath::kManyBlocks;
}

// The bytes of workspace that eigendecompose() needs.
template <typename T, MatrixKind kKind>
int64_t eigendecompose_work(int64_t groups, int64_t n) {
  Eigenproblem<T> e{};
  e.groups = groups;
  e.n = static_cast<int>(n);
  switch (eigh_path<T, kKind>(e.n)) {
    case EighPath::kManyBlocks:
      return LargeArguments<T>{Workspace(nullptr), e}.size();
    case EighPath::kLibrary:
      return library_work(e);
    default:
      return 0;
  }
}

// Writes the eigenvalues, the eigenvectors and info of every group. The caller must have computed
// e.largest.
template <typename T, MatrixKind kKind>
void eigendecompose(const Eigenproblem<T>& e, void* work, Stream& stream) {
  const auto take_a_block = [&](auto lanes, auto rows) {
    stream.launch(eigh_block_kernel<T, lanes, rows, kKind>,
                  {{e.groups}, kEighThreads<lanes, rows>, shared_matrix_size<T>(e.n)}, e);
  };
  switch (eigh_path<T, kKind>(e.n)) {
    case EighPath::kWarp:
      if constexpr (kKind == MatrixKind::kSymmetric)
        stream.launch(eigh_warp_kernel<T, kKind>,
                      {{divide_up(e.groups, kWarpsABlock)}, kWarpsABlock * kWarp}, e);
      break;
    case EighPath::kBlock:
      if constexpr (kKind == MatrixKind::kSymmetric)
        with_shape(e.n, take_a_block);
      else if (e.n > 128)
        with_sixteen_lanes(e.n, take_a_block);
      else if constexpr (sizeof(T) == 8)
        take_a_block(std::integral_constant<int, 8>{}, std::integral_constant<int, 16>{});
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
