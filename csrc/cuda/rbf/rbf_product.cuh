// k(q, X) W with k formed a tile at a time in shared memory and never stored.
//
// A block takes 64 queries and a share of the columns of W. For each 64 samples: the tile of k,
// 64×64, goes to shared memory transposed, and is multiplied with one 64-column piece of W after
// the other; the sums are added to the result in global memory, which stays in the second-level
// cache. Samples are taken in ascending order whatever the grid, so that it does not show in the
// bits.
//
// Work: m n (3 d shares + 2 p) flop; reads m n (d shares + p) / 64 values and, per tile of k, reads
// and writes 64 p values of the result. Shared memory: (2 × 16 + 64) × 68 values, 25.5 KiB in float
// and 51 KiB in double. Registers: at most 128 in float, 255 in double.
#pragma once

#include "cuda/linalg/product.cuh"

namespace mige::cuda {

constexpr int64_t kProductBlocks = 264;  // what the largest device takes at once, two each
template <typename T>
constexpr size_t kRbfProductSmem =
    (Tile<kProductOwn>::kSlices + kProductTile * Tile<kProductOwn>::kPitch) * sizeof(T);
static_assert(kRbfProductSmem<double> <= 99 * 1024, "shared memory of the smallest architecture");

template <typename T>
__global__ void __launch_bounds__(kTileThreads, kTileBlocks<T, kProductOwn>)
    rbf_product_kernel(const T* __restrict__ q,             // [groups, m, d]
                       const T* __restrict__ x,             // [groups, n, d]
                       const T* __restrict__ w,             // [groups, n, p]
                       const T* __restrict__ bandwidth,     // [groups]
                       const Key<T>* __restrict__ largest,  // [groups], magnitudes of q and x
                       int64_t groups, int64_t m, int64_t n, int64_t d, int64_t p,
                       T* __restrict__ out) {  // [groups, m, p]
  constexpr int kOwn = kProductOwn, kPitch = Tile<kOwn>::kPitch;
  T* const slices = dynamic_smem<T>();             // [2, kTileSlice, kPitch]
  T* const k_tile = slices + Tile<kOwn>::kSlices;  // [64 samples, 64 queries], pitch kPitch
  const int tx = threadIdx.x % kTileSide, ty = threadIdx.x / kTileSide;
  const int64_t row0 = static_cast<int64_t>(blockIdx.x) * kProductTile;
  const int64_t pieces = divide_up(p, kProductTile);

  for (int64_t g = blockIdx.z; g < groups; g += gridDim.z) {
    const T magnitude = magnitude_of<T>(largest[g]);
    const T sigma = bandwidth[g];
    const ScaledBandwidth<T> width = ScaledBandwidth<T>::of(sigma, magnitude);
    const bool usable = sigma > T(0) && sigma - sigma == T(0) && magnitude == magnitude;
    const T gamma = usable ? width.gamma : not_a_number<T>();
    const Operand<T, true> queries{q + g * m * d, m, d, d, width.scale};
    const Operand<T, true> samples{x + g * n * d, n, d, d, width.scale};
    T* const target = out + g * m * p;

    // Once at least, so that n = 0 writes zeros.
    for (int64_t sample0 = 0; sample0 == 0 || sample0 < n; sample0 += kProductTile) {
      {
        T sum[kOwn][kOwn] = {};
        accumulate<T, kOwn>(queries, row0, samples, sample0, slices, sum, SquaredDifference{});
#pragma unroll
        for (int j = 0; j < kOwn; ++j) {
          Quad<T> quad;  // four queries of one sample
          const int c = Tile<kOwn>::own(tx, j);
#pragma unroll
          for (int i = 0; i < kOwn; ++i) quad.v[i] = sample0 + c < n ? rbf(sum[i][j], gamma) : T(0);
          *reinterpret_cast<Quad<T>*>(k_tile + c * kPitch + Tile<kOwn>::own(ty, 0)) = quad;
        }
      }
      for (int64_t piece = blockIdx.y; piece < pieces; piece += gridDim.y) {
        const int64_t column0 = piece * kProductTile;
        T sum[kOwn][kOwn] = {};
        T held[kOwn];
        const Operand<T, false> weights{w + g * n * p, p, n, p, T(1)};
        for (int k0 = 0; k0 < kProductTile; k0 += kTileSlice) {
          weights.template fetch<kOwn>(column0, sample0 + k0, held);
          __syncthreads();  // the tile of k is complete; the slice before has been read
          weights.template store<kOwn>(held, slices);
          __syncthreads();
          use_slice<T, kOwn>(k_tile + k0 * kPitch, slices, sum, Multiply{});
        }
#pragma unroll
        for (int i = 0; i < kOwn; ++i) {
          const int64_t r = row0 + Tile<kOwn>::own(ty, i);
#pragma unroll
          for (int j = 0; j < kOwn; ++j) {
            const int64_t c = column0 + Tile<kOwn>::own(tx, j);
            if (r < m && c < p) {
              T* const at = target + r * p + c;
              *at = sample0 == 0 ? sum[i][j] : *at + sum[i][j];
            }
          }
        }
      }
      __syncthreads();  // before the next tile of k overwrites this one
    }
  }
}

}  // namespace mige::cuda
