// Eigendecomposition K = U diag(λ) Uᵀ of matrices that fit one warp (n <= 32) or one thread block:
// pivoted Cholesky (cholesky.cuh), then one-sided Jacobi (jacobi.cuh). Both work in shared memory
// or registers.
//
// With MatrixKind::kSymmetric a matrix may be indefinite. A multiple of the identity, the shift, is
// added to the matrix first and subtracted from the eigenvalues at the end; eigenvectors do not
// change. The shift is small (small_shift). If Cholesky then finds a pivot of at most a quarter of
// the shift, the matrix counts as indefinite. It is decomposed again with a shift that exceeds the
// magnitudes of all eigenvalues. The results of kSymmetric are refined later
// (eigh_refinement.cuh).
#pragma once

#include <type_traits>

#include "common/operators.h"
#include "cuda/linalg/jacobi.cuh"

namespace mige::cuda {

// The kind of matrix. kGram is positive semi-definite with a unit diagonal. It is not shifted, so
// small eigenvalues keep their relative accuracy. The Cholesky factor then has no columns for the
// null space, so eigenvectors of the null space may be zeros. kSymmetric is any symmetric matrix;
// only its lower triangle is read.
enum class MatrixKind { kGram, kSymmetric };

// The matrices of all groups, where their results are written, and their magnitudes.
template <typename T>
struct Eigenproblem : EighArguments<T> {
  // [groups]: magnitude of the lower triangle (kSymmetric) or of the samples (kGram). A Key is an
  // unsigned integer, and keys have the order of the magnitudes (common/radix_select.h)
  const Key<T>* largest;
};

// The shift for a matrix whose largest entry is 1 to 2. It is twice 4 n ε, a bound of the rounding
// error of a pivot.
template <typename T>
__host__ __device__ constexpr T small_shift(int64_t n) {
  return 8 * static_cast<T>(n) * kEpsilon<T>;
}

// The shift for an indefinite matrix whose eigenvalues have at most the magnitude `bound`. The
// term after the bound covers rounding errors of pivots, which grow with the bound.
template <typename T>
__device__ __forceinline__ T indefinite_shift(int64_t n, T bound) {
  return bound + small_shift<T>(n) * (1 + bound);
}

// With kSymmetric, the power of two that brings the entries of the matrix below 2; with kGram, 1.
template <typename T>
__device__ __forceinline__ T matrix_scale(MatrixKind kind, T magnitude) {
  return kind == MatrixKind::kGram ? T(1)
                                   : power_of_two<T>(-exponent_of(static_cast<double>(magnitude)));
}

// Loads s = scale K + shift I from the lower triangle of K.
template <typename Team, typename T>
__device__ void load_matrix(const SharedMatrix<T>& a,
                            const T* k,  // [n, n]
                            T scale, T shift) {
  const int lane = Team::thread() % kWarp, n = a.n;
  for (int i = Team::thread() / kWarp; i < n; i += Team::threads() / kWarp)
    for (int j = lane; j <= i; j += kWarp) {
      const T value = scale * k[static_cast<int64_t>(i) * n + j];
      a.s[i * a.pitch + j] = i == j ? value + shift : value;
      a.s[j * a.pitch + i] = i == j ? value + shift : value;
    }
  Team::sync();
}

// Σ_j |(K²)_ij| of a symmetric matrix. All lanes of a warp compute one sum together.
template <typename T, typename Index>
__device__ __forceinline__ T row_sum_of_square(const T* k,  // [n, pitch]
                                               Index n, Index pitch, Index i) {
  T sum = 0;
  for (Index j = threadIdx.x % kWarp; j < n; j += kWarp) {
    T dot = 0;
#pragma unroll 2
    for (Index l = 0; l < n; ++l) dot += k[l * pitch + i] * k[l * pitch + j];
    sum += dot < T(0) ? -dot : dot;
  }
  return warp_sum(sum);
}

// A bound of the magnitude of the eigenvalues, √‖K²‖_∞. The rounding errors of the results grow
// with the shift, so the bound should be small. For random entries this bound grows with n^¾, the
// eigenvalues grow with n^½, and Gershgorin's bound grows with n.
template <typename Team, typename T>
__device__ T eigenvalue_bound(const SharedMatrix<T>& a) {
  const int n = a.n;
  for (int i = Team::thread() / kWarp; i < n; i += Team::threads() / kWarp) {
    const T sum = row_sum_of_square(a.s, n, a.pitch, i);
    if (Team::thread() % kWarp == 0) a.norm[i] = sum;
  }
  Team::sync();
  T largest = 0;
  for (int i = 0; i < n; ++i) largest = a.norm[i] > largest ? a.norm[i] : largest;
  Team::sync();
  return sqrt(largest);
}

// Loads K of one group and replaces it by its Cholesky factor. Returns the rank, and sets `shift`.
template <typename Team, MatrixKind kKind, typename T>
__device__ int factorize(const SharedMatrix<T>& a,
                         const T* k,  // [n, n]
                         T scale, T& shift) {
  if (kKind == MatrixKind::kGram) {
    load_matrix<Team>(a, k, scale, T(0));
    return pivoted_cholesky<Team>(a, kGramStop<T>);
  }
  shift = small_shift<T>(a.n);
  load_matrix<Team>(a, k, scale, shift);
  // Every pivot of a semi-definite matrix is at least the shift, up to rounding.
  const int rank = pivoted_cholesky<Team>(a, shift / 4);
  if (rank == a.n) return rank;
  load_matrix<Team>(a, k, scale, T(0));
  shift = indefinite_shift(a.n, eigenvalue_bound<Team>(a));
  load_matrix<Team>(a, k, scale, shift);
  return pivoted_cholesky<Team>(a, T(0));
}

// The value of `info` (common/operators.h).
__device__ __forceinline__ int32_t info_of(bool finite, const Iteration& iteration) {
  if (!finite) return -1;
  return iteration.converged ? iteration.sweeps : -2;
}

// Decomposes the matrix of group g. orthogonalize(rank) is the Jacobi iteration on the columns of
// the Cholesky factor; it returns an Iteration.
template <typename Team, MatrixKind kKind, typename T, typename F>
__device__ __forceinline__ void decompose_group(const SharedMatrix<T>& a, const Eigenproblem<T>& p,
                                                int64_t g, const F& orthogonalize) {
  const int64_t size = static_cast<int64_t>(p.n) * p.n;
  // The scale is computed twice, because the Jacobi iteration leaves no register to keep it.
  const auto scale = [&] { return matrix_scale(kKind, magnitude_of<T>(p.largest[g])); };
  const bool finite = p.largest[g] < KeyOf<T>::kInfinity;
  T shift = 0;
  Iteration iteration{0, false};
  if (finite) {
    iteration = orthogonalize(factorize<Team, kKind>(a, p.k + g * size, scale(), shift));
    column_norms<Team>(a);
  } else {
    for (int i = Team::thread(); i < p.n; i += Team::threads()) {
      a.norm[i] = 0;
      a.row[i] = i;
    }
    Team::sync();
  }
  const auto row_of = [&](int i) { return a.row[i]; };
  const Eigenpairs<T> out{
      shift, scale(), false, !iteration.converged, p.values + g * p.n, p.vectors + g * size};
  for (int j = Team::thread() / kWarp; j < p.n; j += Team::threads() / kWarp)
    write_eigenpair(a.s + j * a.pitch, a.norm, p.n, j, out, row_of);
  if (p.info && Team::thread() == 0) p.info[g] = info_of(finite, iteration);
  Team::sync();  // before the next matrix overwrites this one
}

// --- one warp per matrix, n <= 32 ---

constexpr int kWarpsABlock = 4;
constexpr int kWarpPitch = kWarp + 1;

// A thread block takes four matrices, a warp takes one matrix, and a lane one column. Work: see
// jacobi_in_registers. Shared memory per matrix: 4.4 KiB in float and 8.6 KiB in double. Registers:
// at most 168 in float, 255 in double.
template <typename T, MatrixKind kKind>
__global__ void __launch_bounds__(kWarpsABlock* kWarp, sizeof(T) == 4 ? 3 : 2)
    eigh_warp_kernel(Eigenproblem<T> p) {
  constexpr size_t kValues = SharedMatrix<T>::size(kWarp, kWarpPitch) / sizeof(T);
  __shared__ __align__(16) T memory[kWarpsABlock][kValues];
  static_assert(sizeof(memory) <= 48 * 1024, "static shared memory is limited to 48 KiB");
  const int lane = threadIdx.x % kWarp;
  const auto a = SharedMatrix<T>::at(memory[threadIdx.x / kWarp], p.n, kWarpPitch);
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kWarpsABlock;
  for (int64_t g = blockIdx.x * int64_t(kWarpsABlock) + threadIdx.x / kWarp; g < p.groups;
       g += stride)
    decompose_group<WarpTeam, kKind>(a, p, g, [&](int) {
      T column[kWarp];
#pragma unroll
      for (int e = 0; e < kWarp; ++e)
        column[e] = e < p.n && lane < p.n ? a.s[lane * kWarpPitch + e] : T(0);
      const Iteration iteration = jacobi_in_registers(column);
#pragma unroll
      for (int e = 0; e < kWarp; ++e)
        if (e < p.n && lane < p.n) a.s[lane * kWarpPitch + e] = column[e];
      __syncwarp();
      return iteration;
    });
}

// --- one thread block per matrix ---

constexpr int kLargestInBlock = PairShape<16, 15>::kLargest;

// Calls f(lanes, rows) with the template arguments of the PairShape for a matrix of n <= 128 rows,
// as std::integral_constant. Eight lanes take the fewest instructions per pair.
template <typename F>
auto with_eight_lanes(int n, const F& f) {
  constexpr std::integral_constant<int, 8> kEight{};
  if (n <= 64) return f(kEight, kEight);
  if (n <= 104) return f(kEight, std::integral_constant<int, 13>{});
  return f(kEight, std::integral_constant<int, 16>{});
}

// Calls f as with_eight_lanes does, for 128 < n <= kLargestInBlock. With eight lanes, the rows of a
// lane would not fit the registers.
template <typename F>
auto with_sixteen_lanes(int n, const F& f) {
  constexpr std::integral_constant<int, 16> kSixteen{};
  if (n <= 176) return f(kSixteen, std::integral_constant<int, 11>{});
  return f(kSixteen, std::integral_constant<int, 15>{});
}

// Calls f as with_eight_lanes does, for n <= kLargestInBlock.
template <typename F>
auto with_shape(int n, const F& f) {
  return n <= 128 ? with_eight_lanes(n, f) : with_sixteen_lanes(n, f);
}

template <typename T>
size_t shared_matrix_size(int n) {
  return with_shape(n, [&](auto lanes, auto rows) {
    return SharedMatrix<T>::size(n, PairShape<lanes, rows>::kPitch);
  });
}

// Threads of a thread block. They are enough to rotate all pairs of a round at once up to n = 128.
template <int kLanes, int kRows>
constexpr int kEighThreads = PairShape<kLanes, kRows>::kLargest <= 64 ? 256 : 512;

// Thread blocks on a multiprocessor. In float up to n = 104 a thread has at most 64 registers.
template <typename T, int kLanes, int kRows>
constexpr int kEighBlocks = (PairShape<kLanes, kRows>::kLargest <= 64 ? 2 : 1) *
                            (sizeof(T) == 4 && PairShape<kLanes, kRows>::kLargest <= 104 ? 2 : 1);

// The grid has a thread block per matrix; kLanes threads take a pair of columns. A loop over
// several matrices would need more registers. Work: see pivoted_cholesky and jacobi. Shared memory:
// n × pitch values; 227 KiB are enough for n = 240 in float and n = 163 in double. Registers: at
// most 64 in <float, 8, 8>, 64 in <float, 8, 13>, otherwise 128. A pass of the loop over pairs
// rotates four pairs with eight lanes, and two with sixteen. Instructions of the loop with
// MUFU.RSQ, SHFL and STS: at most 188 in <float, 8, 8>, 232 in <float, 8, 13>, 260 in <float, 8,
// 16>, 216 in <float, 16, 11> and 254 in <float, 16, 15>.
template <typename T, int kLanes, int kRows, MatrixKind kKind>
__global__ void __launch_bounds__(kEighThreads<kLanes, kRows>, kEighBlocks<T, kLanes, kRows>)
    eigh_block_kernel(Eigenproblem<T> p) {
  const auto a = SharedMatrix<T>::at(dynamic_smem<T>(), p.n, PairShape<kLanes, kRows>::kPitch);
  decompose_group<BlockTeam, kKind>(a, p, blockIdx.x,
                                    [&](int rank) { return jacobi<kLanes, kRows>(a, rank); });
}

}  // namespace mige::cuda
