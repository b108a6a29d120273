// Inverses of symmetric positive definite matrices: A = L Lᵀ, X = L⁻¹ in place of A, A⁻¹ = XᵀX.
//
// 64 pivots at a time, right-looking. With the rows and columns K of the pivots, X_KK = L_KK⁻¹ from
// the Cholesky factor of A_KK, and R the block row [X_K,J<K  X_KK  L_JKᵀ for J > K]:
//   L_IK = A_IK X_KKᵀ,   X_KJ ← X_KK X_KJ (J < K),   A_IJ ← A_IJ − L_IK R_J (I > K, J <= I),
// where block J = K starts from 0. So blocks J <= K of the lower triangle become those of X as
// blocks J > K cease to be those of A. A⁻¹ = XᵀX then costs as much as both.
//
// Three launches for 64 pivots would be two for the factor and one for the rest; here they are two:
// L_IK and X_KJ, 64 rows or columns a block, and the update by 64×64 tiles, in which the block that
// updates the next A_KK also factorises it, while its elements are in registers. What is computed
// depends on n alone, so a matrix has the same bits in any batch. A pivot that is not positive
// makes NaN of all that follows.
//
// Why not Gauss-Jordan, which needs no product at the end: its error grows with the square of the
// condition. Measured in float for IMQ matrices of n = 257 and condition 1e5: 4e-1, where this has
// 7e-4, which is what rounding A costs.
//
// Work: n³ flop, a third of it in the product; about n³ / 96 reads and writes.
#pragma once

#include "cuda/linalg/contraction.cuh"

namespace mige::cuda {

constexpr int kPivots = kProductTile;  // at a time

template <typename T>
struct InverseArguments {
  T* a;       // [groups, n, n]: the lower triangle of A; becomes X
  T* out;     // [groups, n, n]: A⁻¹
  T* pivot;   // [groups, kPivots, kPivots]: X_KK
  T* column;  // [groups, n, kPivots]: L_IK
  int64_t groups, n;
  const int32_t* next;  // [groups] or nullptr: a group with a negative one is left out

  __device__ __forceinline__ bool idle(int64_t g) const { return next != nullptr && next[g] < 0; }
  __device__ __forceinline__ int pivots(int64_t k0) const {
    return n - k0 < kPivots ? static_cast<int>(n - k0) : kPivots;
  }
};

template <typename T>
InverseArguments<T> inverse_layout(WorkSpace& space, int64_t groups, int64_t n) {
  InverseArguments<T> p{};
  p.groups = groups;
  p.n = n;
  p.a = space.take<T>(groups * n * n);
  p.out = space.take<T>(groups * n * n);
  p.pivot = space.take<T>(groups * kPivots * kPivots);
  p.column = space.take<T>(groups * n * kPivots);
  return p;
}

// X_KK = L_KK⁻¹ from A_KK in the registers of a block as the tile engine owns it, zero beyond the
// matrix, by the same steps with single pivots; row k, [X_kj for j < k, A_kj for j >= k], is shared
// through `row`. A barrier before is the caller's.
template <typename T>
__device__ __forceinline__ void invert_factor(T (&a)[kProductOwn][kProductOwn], int pivots,
                                              T (*row)[kPivots],  // [2] of shared memory
                                              T* inverse) {       // [kPivots, kPivots]
  constexpr int kOwn = kProductOwn;
  const int tx = threadIdx.x % kTileSide, ty = threadIdx.x / kTileSide;
  for (int k0 = 0; k0 < pivots; k0 += kOwn) {
#pragma unroll
    for (int e = 0; e < kOwn; ++e) {
      const int k = k0 + e;
      if (k < pivots) {
        T* const shared = row[e % 2];
        if (ty == k0 / kOwn)
#pragma unroll
          for (int j = 0; j < kOwn; ++j) shared[kOwn * tx + j] = a[e][j];
        __syncthreads();  // and the row before the last has been read by all
        const T scale = T(1) / sqrt(shared[k]);
#pragma unroll
        for (int i = 0; i < kOwn; ++i) {
          const int r = kOwn * ty + i;
          const T factor = shared[r] * scale;  // L_rk, of rows below k
#pragma unroll
          for (int j = 0; j < kOwn; ++j) {
            const int c = kOwn * tx + j;
            const T in_row = c == k ? scale : shared[c] * scale;
            const T before = c == k ? T(0) : a[i][j];
            a[i][j] = r > k ? before - factor * in_row : (r == k ? in_row : a[i][j]);
          }
        }
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kOwn; ++i)
#pragma unroll
    for (int j = 0; j < kOwn; ++j) {
      const int r = kOwn * ty + i, c = kOwn * tx + j;
      inverse[r * kPivots + c] = c > r ? T(0) : a[i][j];
    }
}

// X_KK of the first pivots. A block takes a group. Shared memory: 512 B in float, 1 KiB in double.
// Registers: at most 128 in float, 255 in double.
template <typename T>
__global__ void __launch_bounds__(kTileThreads, kTileBlocks<T, kProductOwn>)
    first_factor_kernel(InverseArguments<T> p) {
  __shared__ T row[2][kPivots];
  const int tx = threadIdx.x % kTileSide, ty = threadIdx.x / kTileSide;
  for (int64_t g = blockIdx.x; g < p.groups; g += gridDim.x) {
    if (p.idle(g)) continue;
    const int pivots = p.pivots(0);
    T a[kProductOwn][kProductOwn];
#pragma unroll
    for (int i = 0; i < kProductOwn; ++i)
#pragma unroll
      for (int j = 0; j < kProductOwn; ++j) {
        const int r = kProductOwn * ty + i, c = kProductOwn * tx + j;
        const int low = r > c ? r : c, high = r > c ? c : r;
        a[i][j] = low < pivots ? p.a[(g * p.n + low) * p.n + high] : T(0);
      }
    __syncthreads();  // the rows of the group before have been read
    invert_factor(a, pivots, row, p.pivot + g * kPivots * kPivots);
  }
}

// L_IK to `column` for the rows I below the pivots, X_KJ in place for the columns J before them,
// and X_KK to its place. A block takes 64 rows or columns. Work: 2 n 64² flop. Shared memory: 8.5
// KiB in float, 17 KiB in double. Registers: at most 128 in float, 255 in double.
template <typename T>
__global__ void __launch_bounds__(kTileThreads, kTileBlocks<T, kProductOwn>)
    factor_panel_kernel(InverseArguments<T> p, int64_t k0) {
  __shared__ __align__(16) T slices[Tile<kProductOwn>::kSlices];
  const int tx = threadIdx.x % kTileSide, ty = threadIdx.x / kTileSide;
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kPivots, n = p.n;
  const int pivots = p.pivots(k0);
  for (int64_t g = blockIdx.z; g < p.groups; g += gridDim.z) {
    if (p.idle(g)) continue;
    T* const a = p.a + g * n * n;
    const T* const inverse = p.pivot + g * kPivots * kPivots;
    const Operand<T, true> x_kk{inverse, kPivots, pivots, kPivots, T(1)};
    T sum[kProductOwn][kProductOwn] = {};
    if (at > k0)
      accumulate<T, kProductOwn>(Operand<T, true>{a + k0, n, pivots, n, T(1)}, at, x_kk, 0, slices,
                                 sum, Multiply{});
    else if (at < k0)
      accumulate<T, kProductOwn>(x_kk, 0, Operand<T, false>{a + k0 * n, n, pivots, n, T(1)}, at,
                                 slices, sum, Multiply{});
#pragma unroll
    for (int i = 0; i < kProductOwn; ++i) {
      const int r = Tile<kProductOwn>::own(ty, i);
#pragma unroll
      for (int j = 0; j < kProductOwn; ++j) {
        const int c = Tile<kProductOwn>::own(tx, j);
        if (at > k0) {
          if (at + r < n) p.column[(g * n + at + r) * kPivots + c] = sum[i][j];
        } else if (r < pivots && at + c < n) {
          a[(k0 + r) * n + at + c] = at == k0 ? inverse[r * kPivots + c] : sum[i][j];
        }
      }
    }
    __syncthreads();  // the slices have been read
  }
}

// A_IJ −= L_IK R_J below the pivots, and X_KK of the next ones. A block takes a tile of the lower
// triangle. Work: at most 64 n² flop; reads and writes n² / 2 values. Shared memory: 9 KiB in
// float, 18 KiB in double. Registers: at most 128 in float, 255 in double.
template <typename T>
__global__ void __launch_bounds__(kTileThreads, kTileBlocks<T, kProductOwn>)
    factor_update_kernel(InverseArguments<T> p, int64_t k0) {
  __shared__ __align__(16) T slices[Tile<kProductOwn>::kSlices];
  __shared__ T row[2][kPivots];
  const int tx = threadIdx.x % kTileSide, ty = threadIdx.x / kTileSide;
  const int64_t row0 = k0 + kPivots * (1 + static_cast<int64_t>(blockIdx.y));
  const int64_t column0 = static_cast<int64_t>(blockIdx.x) * kPivots, n = p.n;
  if (column0 > row0) return;
  for (int64_t g = blockIdx.z; g < p.groups; g += gridDim.z) {
    if (p.idle(g)) continue;
    T* const a = p.a + g * n * n;
    const Operand<T, true> l{p.column + g * n * kPivots, n, kPivots, kPivots, T(1)};
    T sum[kProductOwn][kProductOwn] = {};
    if (column0 > k0)
      accumulate<T, kProductOwn>(l, row0, l, column0, slices, sum, Multiply{});
    else
      accumulate<T, kProductOwn>(l, row0, Operand<T, false>{a + k0 * n, n, kPivots, n, T(1)},
                                 column0, slices, sum, Multiply{});
#pragma unroll
    for (int i = 0; i < kProductOwn; ++i) {
      const int64_t r = row0 + Tile<kProductOwn>::own(ty, i);
#pragma unroll
      for (int j = 0; j < kProductOwn; ++j) {
        const int64_t c = column0 + Tile<kProductOwn>::own(tx, j);
        const bool inside = r < n && c < n;
        T* const at = a + r * n + c;
        // The tile on the diagonal is computed on both sides of it, to the same bits.
        sum[i][j] = inside ? (column0 == k0 ? T(0) : *at) - sum[i][j] : T(0);
        if (inside) *at = sum[i][j];
      }
    }
    if (row0 == k0 + kPivots && column0 == row0)
      invert_factor(sum, p.pivots(row0), row, p.pivot + g * kPivots * kPivots);
  }
}

// A⁻¹_ij = Σ_k X_ki X_kj over the rows k of X from the tile of the larger of i and j on; of the
// lower triangle, written to both sides of the diagonal. A block takes a tile. Work: n³ / 3 flop.
// Shared memory: 8.5 KiB in float, 17 KiB in double. Registers: at most 128 in float, 255 in
// double.
template <typename T>
__global__ void __launch_bounds__(kTileThreads, kTileBlocks<T, kProductOwn>)
    inverse_product_kernel(InverseArguments<T> p) {
  __shared__ __align__(16) T slices[Tile<kProductOwn>::kSlices];
  const int tx = threadIdx.x % kTileSide, ty = threadIdx.x / kTileSide;
  const int64_t row0 = static_cast<int64_t>(blockIdx.y) * kPivots;
  const int64_t column0 = static_cast<int64_t>(blockIdx.x) * kPivots, n = p.n;
  if (column0 > row0) return;
  for (int64_t g = blockIdx.z; g < p.groups; g += gridDim.z) {
    if (p.idle(g)) continue;
    const Operand<T, false> x{p.a + (g * n + row0) * n, n, n - row0, n, T(1)};
    T sum[kProductOwn][kProductOwn] = {};
    accumulate<T, kProductOwn>(x, row0, x, column0, slices, sum, Multiply{});
#pragma unroll
    for (int i = 0; i < kProductOwn; ++i) {
      const int64_t r = row0 + Tile<kProductOwn>::own(ty, i);
#pragma unroll
      for (int j = 0; j < kProductOwn; ++j) {
        const int64_t c = column0 + Tile<kProductOwn>::own(tx, j);
        if (r >= n || c > r) continue;
        p.out[(g * n + r) * n + c] = sum[i][j];
        p.out[(g * n + c) * n + r] = sum[i][j];
      }
    }
  }
}

// out = A⁻¹.
template <typename T>
int invert(const InverseArguments<T>& p, void* stream) {
  const int64_t tiles = divide_up(p.n, kPivots);
  if (tiles > kLargestGridYZ) return static_cast<int>(cudaErrorInvalidConfiguration);
  const auto side = static_cast<unsigned>(tiles);
  const unsigned z = grid_z(p.groups);
  const dim3 threads(kTileThreads);
  int failed = launch(first_factor_kernel<T>, dim3(z), threads, 0, stream, p);
  for (unsigned k = 0; k < side && !failed; ++k) {
    const int64_t k0 = int64_t(k) * kPivots;
    failed = launch(factor_panel_kernel<T>, dim3(side, 1, z), threads, 0, stream, p, k0);
    if (!failed && k + 1 < side)
      failed =
          launch(factor_update_kernel<T>, dim3(side, side - 1 - k, z), threads, 0, stream, p, k0);
  }
  if (!failed)
    failed = launch(inverse_product_kernel<T>, dim3(side, side, z), threads, 0, stream, p);
  return failed;
}

}  // namespace mige::cuda
