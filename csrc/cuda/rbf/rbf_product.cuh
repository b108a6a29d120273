// The product with a kernel matrix, out = k(q, X) W. Tiles of k are formed in shared memory, one
// after another, and the matrix k is not stored.
//
//   out_ic = Σ_j exp(−γ ‖q_i − x_j‖²) w_jc,   q [m, d], X [n, d], W [n, p], out [m, p], row-major.
//
// A thread block takes 64 queries, every gridDim.y-th piece of 64 columns of W, and one part or all
// parts of the samples (parts.cuh), and blockIdx.z selects the groups. For every 64 samples the
// thread block writes the transposed 64×64 tile of k to shared memory. Then it multiplies the tile
// with each of its pieces of W, and adds the products to the partial sums in global memory. The
// partial sums stay in the second-level cache. A thread holds 4×4 elements of a tile (tile.cuh).
//
// Invariant: the samples of a part are summed in ascending order, and so are the parts. The bits of
// the result depend neither on the grid nor on the number of groups.
//
// Work: m n (3 d gridDim.y + 2 p) flop; reads m n (2 d gridDim.y + p) / 64 values, and reads and
// writes 64 p values of partial sums per tile of k. Shared memory: (2 × 16 + 64) × 68 values,
// 25.5 KiB in float and 51 KiB in double.
#pragma once

#include "common/operators.h"
#include "cuda/core/scale.cuh"
#include "cuda/linalg/contraction.cuh"

namespace mige::cuda {

template <typename T>
constexpr size_t kRbfProductSmem =
    (Tile<kProductThreadTile>::kSlices + kProductTile * Tile<kProductThreadTile>::kPitch) *
    sizeof(T);
static_assert(kRbfProductSmem<double> <= 99 * 1024, "the smallest architecture has only 99 KiB");

// Writes the transposed tile of k for 64 queries and 64 samples to shared memory. All threads of a
// thread block must call write_kernel_tile.
template <typename T>
__device__ __forceinline__ void write_kernel_tile(const Operand<T, true>& queries, int64_t row0,
                                                  const Operand<T, true>& samples, int64_t sample0,
                                                  T gamma,
                                                  T* slices,    // [2, kTileDepth, kPitch]
                                                  T* k_tile) {  // [64 samples, 64 queries], kPitch
  constexpr int kThreadTile = kProductThreadTile, kPitch = Tile<kThreadTile>::kPitch;
  const int tx = threadIdx.x % kTileSide, ty = threadIdx.x / kTileSide;
  T sum[kThreadTile][kThreadTile] = {};
  accumulate(queries, row0, samples, sample0, slices, sum, SquaredDifference{});
#pragma unroll
  for (int j = 0; j < kThreadTile; ++j) {
    Quad<T> quad;  // four queries of one sample
    const int c = Tile<kThreadTile>::index(tx, j);
#pragma unroll
    for (int i = 0; i < kThreadTile; ++i)
      quad.v[i] = sample0 + c < samples.count ? rbf(sum[i][j], gamma) : T(0);
    *reinterpret_cast<Quad<T>*>(k_tile + c * kPitch + Tile<kThreadTile>::index(ty, 0)) = quad;
  }
}

// Computes the product of a tile of k with 64 columns of W, from column0 on. All threads of a
// thread block must call multiply_kernel_tile.
template <typename T>
__device__ __forceinline__ void multiply_kernel_tile(
    const T* k_tile,  // [64 samples, 64 queries], kPitch
    const Operand<T, false>& weights, int64_t sample0, int64_t column0,
    T* slices,  // [2, kTileDepth, kPitch]
    T (&sum)[kProductThreadTile][kProductThreadTile]) {
  T values[kProductThreadTile];
  for (int k0 = 0; k0 < kProductTile; k0 += kTileDepth) {
    weights.fetch(column0, sample0 + k0, values);
    __syncthreads();  // the tile of k is complete, and the previous slice has been read
    weights.store(values, slices);
    __syncthreads();
    use_slice(k_tile + k0 * Tile<kProductThreadTile>::kPitch, slices, sum);
  }
}

// The parts of the samples, and their partial sums. If every part has its own thread block, the
// partial sums are [count, groups, m, p + 1]. This is the layout of contraction.cuh, and its last
// column is not used. Otherwise they are [groups, m, p + 1], for one part after another. With a
// single part there are no partial sums.
struct RbfProductParts : Parts {
  PartialSums partial;
};

// Computes `out`, or the sums of one part, for 64 queries per thread block. Registers: at most 128
// in float, 255 in double.
template <typename T>
__global__ void __launch_bounds__(kTileThreads, kTileBlocks<T>)
    rbf_product_kernel(RbfProductArguments<T> of, RbfProductParts parts,
                       const Key<T>* __restrict__ largest) {     // [groups], magnitudes of q and x
  T* const slices = dynamic_smem<T>();                           // [2, kTileDepth, kPitch]
  T* const k_tile = slices + Tile<kProductThreadTile>::kSlices;  // [64 samples, 64 queries]
  const int64_t m = of.m, n = of.n, d = of.d, p = of.p, pieces = divide_up(p, kProductTile);
  const auto row_tiles = static_cast<unsigned>(divide_up(m, kProductTile));
  const int64_t row0 = static_cast<int64_t>(blockIdx.x % row_tiles) * kProductTile;
  const int64_t first = blockIdx.x / row_tiles;
  const int64_t last = parts.separate ? first + 1 : parts.count;
  const int64_t pitch = parts.count == 1 ? p : p + 1;

  for (int64_t g = blockIdx.z; g < of.groups; g += gridDim.z) {
    const T magnitude = magnitude_of<T>(largest[g]);
    const T sigma = of.bandwidth[g];
    const ScaledBandwidth<T> width = ScaledBandwidth<T>::of(sigma, magnitude);
    const T gamma = is_bandwidth(sigma, magnitude) ? width.gamma : not_a_number<T>();
    const Operand<T, true> queries{of.q + g * m * d, m, d, d, width.scale};
    const Operand<T, true> samples{of.x + g * n * d, n, d, d, width.scale};
    const Operand<T, false> weights{of.w + g * n * p, p, n, p, T(1)};
    T* const out = of.out + g * m * p;
    // `first` is 0 unless every part has its own thread block.
    T* const sums = parts.count == 1
                        ? out
                        : static_cast<T*>(parts.partial.sums) + (first * of.groups + g) * m * pitch;

    for (int64_t part = first; part < last; ++part) {
      const int64_t begin = part * parts.depth, end = at_most(begin + parts.depth, n);
      // The loop runs at least once, so that zeros are written for n = 0.
      for (int64_t sample0 = begin; sample0 == begin || sample0 < end; sample0 += kProductTile) {
        write_kernel_tile(queries, row0, samples, sample0, gamma, slices, k_tile);
        const bool complete = !parts.separate && parts.count > 1 && sample0 + kProductTile >= end;
        for (int64_t piece = blockIdx.y; piece < pieces; piece += gridDim.y) {
          T sum[kProductThreadTile][kProductThreadTile] = {};
          multiply_kernel_tile(k_tile, weights, sample0, piece * kProductTile, slices, sum);
          for_each_element(row0, piece * kProductTile, m, p,
                           [&](int i, int j, int64_t r, int64_t c) {
                             T* const at = sums + r * pitch + c;
                             const T of_part = sample0 == begin ? sum[i][j] : *at + sum[i][j];
                             if (!complete)
                               *at = of_part;
                             else
                               out[r * p + c] = part == 0 ? of_part : out[r * p + c] + of_part;
                           });
        }
        __syncthreads();  // before the next tile of k overwrites this one
      }
    }
  }
}

}  // namespace mige::cuda
