// The RBF Gram matrix by direct differences, a 64×64 tile of it per block.
//
//   k_ij = exp(−γ Σ_c (r (x_ic − y_jc))²),   r a power of two near 1/σ (exact), γ = 1 / 2(rσ)²
//
// 256 threads as 16×16; thread (tx, ty) owns rows ty + 16 i and columns tx + 16 j, i, j < 4, so
// that a warp writes two rows of 16 neighbours. Slices of 16 coordinates go through shared memory:
// for each, a thread reads 8 values and does 16 differences, scalings and fused multiply-adds.
//
// Work for m = n: 4 m² d flop (half with y == nullptr), reads 2 m² d / 64 values, writes m² once.
// Shared memory: 2 × 16 × 65 values for the slices, 64 × 65 for the transposed tile, the larger of
// the two: 16.3 KiB in float, 32.5 KiB in double. Registers: at most 80 in float and 128 in double,
// which lets 3 and 2 blocks share a multiprocessor; __launch_bounds__ holds the compiler to it, and
// a spill fails the build.
#pragma once

#include "../math.h"
#include "device.cuh"

namespace mige::cuda {

constexpr int kGramTile = 64;
constexpr int kGramSlice = 16;
constexpr int kGramSide = 16;  // threads along each side of the block
constexpr int kGramThreads = kGramSide * kGramSide;
constexpr int kGramOwn = kGramTile / kGramSide;  // rows, and columns, a thread owns
constexpr int kGramPitch = kGramTile + 1;        // avoids bank conflicts of column reads
template <typename T>
constexpr int kGramBlocks = sizeof(T) == 4 ? 3 : 2;  // on a multiprocessor, at least
static_assert(kGramTile % kGramSide == 0, "a thread owns whole rows and columns");
static_assert(kGramTile * kGramPitch * sizeof(double) <= 48 * 1024, "static shared memory");

template <typename T>
__global__ void __launch_bounds__(kGramThreads, kGramBlocks<T>)
    rbf_gram_kernel(const T* __restrict__ x,          // [groups, m, d]
                    const T* __restrict__ y,          // [groups, n, d]
                    const T* __restrict__ bandwidth,  // [groups]
                    int64_t groups, int64_t m, int64_t n, int64_t d, bool symmetric,
                    T* __restrict__ out) {  // [groups, m, n]
  __shared__ T tile[kGramTile * kGramPitch];
  T* const x_slice = tile;                            // [kGramSlice, kGramPitch]
  T* const y_slice = tile + kGramSlice * kGramPitch;  // [kGramSlice, kGramPitch]

  if (symmetric && blockIdx.x < blockIdx.y) return;  // written by the block across the diagonal
  const int tx = threadIdx.x % kGramSide;
  const int ty = threadIdx.x / kGramSide;
  const int64_t row0 = static_cast<int64_t>(blockIdx.y) * kGramTile;
  const int64_t column0 = static_cast<int64_t>(blockIdx.x) * kGramTile;

  for (int64_t g = blockIdx.z; g < groups; g += gridDim.z) {
    const T* const x_group = x + g * m * d;
    const T* const y_group = y + g * n * d;
    T* const out_group = out + g * m * n;
    const double sigma = static_cast<double>(bandwidth[g]);
    const T scale = power_of_two<T>(-exponent_of(sigma));
    const double scaled_sigma = sigma * static_cast<double>(scale);
    const bool usable = sigma > 0 && sigma - sigma == 0;  // otherwise all of the group is NaN
    const T gamma = static_cast<T>(usable ? 0.5 / (scaled_sigma * scaled_sigma) : 0.0 / 0.0);

    T sum[kGramOwn][kGramOwn] = {};
    for (int64_t c0 = 0; c0 < d; c0 += kGramSlice) {
      // Thread t loads coordinate t % 16 of rows t / 16 + 16 i: 16 neighbours of memory at a time.
      const bool inside = c0 + tx < d;
#pragma unroll
      for (int i = 0; i < kGramOwn; ++i) {
        const int r = ty + kGramSide * i;
        x_slice[tx * kGramPitch + r] =
            inside && row0 + r < m ? x_group[(row0 + r) * d + c0 + tx] : T(0);
        y_slice[tx * kGramPitch + r] =
            inside && column0 + r < n ? y_group[(column0 + r) * d + c0 + tx] : T(0);
      }
      __syncthreads();
#pragma unroll 2
      for (int c = 0; c < kGramSlice; ++c) {
        T a[kGramOwn], b[kGramOwn];
#pragma unroll
        for (int i = 0; i < kGramOwn; ++i) a[i] = x_slice[c * kGramPitch + ty + kGramSide * i];
#pragma unroll
        for (int j = 0; j < kGramOwn; ++j) b[j] = y_slice[c * kGramPitch + tx + kGramSide * j];
#pragma unroll
        for (int i = 0; i < kGramOwn; ++i)
#pragma unroll
          for (int j = 0; j < kGramOwn; ++j) {
            const T difference = scale * (a[i] - b[j]);
            sum[i][j] += difference * difference;
          }
      }
      __syncthreads();
    }

#pragma unroll
    for (int i = 0; i < kGramOwn; ++i)
#pragma unroll
      for (int j = 0; j < kGramOwn; ++j) {
        const int r = ty + kGramSide * i, c = tx + kGramSide * j;
        const T value = rbf(sum[i][j], gamma);
        if (row0 + r < m && column0 + c < n) out_group[(row0 + r) * n + column0 + c] = value;
        tile[c * kGramPitch + r] = value;
      }
    __syncthreads();
    if (symmetric && row0 != column0) {
      for (int t = threadIdx.x; t < kGramTile * kGramTile; t += kGramThreads) {
        const int r = t / kGramTile, c = t % kGramTile;
        if (column0 + r < n && row0 + c < m)
          out_group[(column0 + r) * n + row0 + c] = tile[r * kGramPitch + c];
      }
    }
    __syncthreads();  // before the next group overwrites the tile
  }
}

}  // namespace mige::cuda
