// The product with a kernel matrix, out = k(q, X) W. Tiles of k are formed in shared memory one
// after another and never stored.
//
//   out_ic = Σ_j exp(−γ ‖q_i − x_j‖²) w_jc,   q [m, d], X [n, d], W [n, p], out [m, p], row-major.
//
// A thread block takes 64 queries and every gridDim.y-th piece of 64 columns of W, groups along z.
// For every 64 samples it writes the transposed 64×64 tile of k to shared memory. It multiplies the
// tile with its pieces of W, one after another, and adds the sums to `out` in global memory. These
// elements of `out` stay in the second-level cache. A thread holds 4×4 elements of a tile
// (tile.cuh).
//
// Invariant: samples are summed in ascending order for any grid, so the bits do not depend on the
// grid.
//
// Work: m n (3 d gridDim.y + 2 p) flop; reads m n (2 d gridDim.y + p) / 64 values, and reads and
// writes 64 p values of `out` per tile of k. Shared memory: (2 × 16 + 64) × 68 values, 25.5 KiB in
// float and 51 KiB in double.
#pragma once

#include "common/operators.h"
#include "cuda/core/scale.cuh"
#include "cuda/linalg/contraction.cuh"

namespace mige::cuda {

// Two thread blocks on each of the 132 multiprocessors of an H100 or H200.
constexpr int64_t kProductBlocks = 264;
template <typename T>
constexpr size_t kRbfProductSmem =
    (Tile<kProductThreadTile>::kSlices + kProductTile * Tile<kProductThreadTile>::kPitch) *
    sizeof(T);
static_assert(kRbfProductSmem<double> <= 99 * 1024, "the smallest architecture has only 99 KiB");

// Computes `out` for 64 queries per thread block. Registers: at most 128 in float, 255 in double.
template <typename T>
__global__ void __launch_bounds__(kTileThreads, kTileBlocks<T>)
    rbf_product_kernel(RbfProductArguments<T> of,
                       const Key<T>* __restrict__ largest) {  // [groups], magnitudes of q and x
  constexpr int kThreadTile = kProductThreadTile, kPitch = Tile<kThreadTile>::kPitch;
  T* const slices = dynamic_smem<T>();                    // [2, kTileDepth, kPitch]
  T* const k_tile = slices + Tile<kThreadTile>::kSlices;  // [64 samples, 64 queries], pitch kPitch
  const int tx = threadIdx.x % kTileSide, ty = threadIdx.x / kTileSide;
  const int64_t row0 = static_cast<int64_t>(blockIdx.x) * kProductTile;
  const int64_t m = of.m, n = of.n, d = of.d, p = of.p, pieces = divide_up(p, kProductTile);

  for (int64_t g = blockIdx.z; g < of.groups; g += gridDim.z) {
    const T magnitude = magnitude_of<T>(largest[g]);
    const T sigma = of.bandwidth[g];
    const ScaledBandwidth<T> width = ScaledBandwidth<T>::of(sigma, magnitude);
    const T gamma = is_bandwidth(sigma, magnitude) ? width.gamma : not_a_number<T>();
    const Operand<T, true> queries{of.q + g * m * d, m, d, d, width.scale};
    const Operand<T, true> samples{of.x + g * n * d, n, d, d, width.scale};
    T* const target = of.out + g * m * p;

    // There is at least one round, so that zeros are written for n = 0.
    for (int64_t sample0 = 0; sample0 == 0 || sample0 < n; sample0 += kProductTile) {
      {
        T sum[kThreadTile][kThreadTile] = {};
        accumulate(queries, row0, samples, sample0, slices, sum, SquaredDifference{});
#pragma unroll
        for (int j = 0; j < kThreadTile; ++j) {
          Quad<T> quad;  // four queries of one sample
          const int c = Tile<kThreadTile>::index(tx, j);
#pragma unroll
          for (int i = 0; i < kThreadTile; ++i)
            quad.v[i] = sample0 + c < n ? rbf(sum[i][j], gamma) : T(0);
          *reinterpret_cast<Quad<T>*>(k_tile + c * kPitch + Tile<kThreadTile>::index(ty, 0)) = quad;
        }
      }
      for (int64_t piece = blockIdx.y; piece < pieces; piece += gridDim.y) {
        const int64_t column0 = piece * kProductTile;
        T sum[kThreadTile][kThreadTile] = {};
        T values[kThreadTile];
        const Operand<T, false> weights{of.w + g * n * p, p, n, p, T(1)};
        for (int k0 = 0; k0 < kProductTile; k0 += kTileDepth) {
          weights.fetch(column0, sample0 + k0, values);
          __syncthreads();  // the tile of k is complete, and the previous slice has been read
          weights.store(values, slices);
          __syncthreads();
          use_slice(k_tile + k0 * kPitch, slices, sum);
        }
        for_each_element(row0, column0, m, p, [&](int i, int j, int64_t r, int64_t c) {
          T* const at = target + r * p + c;
          *at = sample0 == 0 ? sum[i][j] : *at + sum[i][j];
        });
      }
      __syncthreads();  // before the next tile of k overwrites this one
    }
  }
}

}  // namespace mige::cuda
