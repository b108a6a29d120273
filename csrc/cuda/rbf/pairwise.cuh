// Squared distances and RBF Gram matrices by direct differences, a square tile per block.
//
//   s_ij = Σ_c (r (x_ic − y_jc))²,   k_ij = exp(−γ s_ij),   r a power of two (exact), γ = 1 /
//   2(rσ)²
//
// With y == nullptr (y = x) only the tiles on and above the diagonal are computed, and each is
// written to both sides of it: 16-byte pieces of rows on the one side, of columns on the other,
// straight from the registers.
//
// Work for m = n: 3 m² d flop in 2 m² d instructions (half with y == nullptr), 2 m² d / kSize
// reads, m² writes. Shared memory: 2 × 16 × (kSize + 4) values: 16.5 KiB for 128×128 tiles of
// float, 17 KiB for 64×64 of double. 64×64 tiles of float leave room
// for two blocks on a multiprocessor. Registers: at most 128 in <float, 4>, otherwise 255.
#pragma once

#include "cuda/core/scale.cuh"
#include "cuda/linalg/tile.cuh"

namespace mige::cuda {

enum class Pairwise {
  kSquaredDistance,        // of the coordinates as they are
  kScaledSquaredDistance,  // of coordinates times normal_scale
  kRbf,                    // of the coordinates as they are
  kScaledRbf               // of coordinates that `centre` has scaled for the bandwidth
};

// Up to here tiles of 64×64: of larger ones there would be too few to fill the device.
constexpr int64_t kSmallPairwise = 1024;

template <typename T, int kOwn, Pairwise kKind>
__global__ void __launch_bounds__(kTileThreads, kTileBlocks<T, kOwn>)
    pairwise_kernel(const T* __restrict__ x,  // [groups, m, d]
                    const T* __restrict__ y,  // [groups, n, d] or nullptr
                    int64_t groups, int64_t m, int64_t n, int64_t d,
                    const Key<T>* __restrict__ largest,  // [groups], magnitudes of x and y
                    const T* __restrict__ bandwidth,     // [groups]: kRbf, kScaledRbf
                    T* __restrict__ out) {               // [groups, m, n]
  using Shape = Tile<kOwn>;
  constexpr bool kGram = kKind == Pairwise::kRbf || kKind == Pairwise::kScaledRbf;
  __shared__ __align__(16) T slices[Shape::kSlices];
  static_assert(sizeof(slices) <= 48 * 1024, "static shared memory");

  const bool symmetric = y == nullptr;
  const int64_t across = divide_up(n, Shape::kSize);
  const int64_t tile_row = blockIdx.x / across, tile_column = blockIdx.x % across;
  if (symmetric && tile_column < tile_row) return;  // written by the block across the diagonal
  const int tx = threadIdx.x % kTileSide, ty = threadIdx.x / kTileSide;
  const int64_t row0 = tile_row * Shape::kSize;
  const int64_t column0 = tile_column * Shape::kSize;
  const bool mirrored = symmetric && row0 != column0;

  for (int64_t g = blockIdx.z; g < groups; g += gridDim.z) {
    T* const target = out + g * m * n;
    T sum[kOwn][kOwn] = {};
    {
      const T magnitude = magnitude_of<T>(largest[g]);
      T scale = kKind == Pairwise::kScaledSquaredDistance ? normal_scale(magnitude) : T(1);
      if (kKind == Pairwise::kRbf) scale = ScaledBandwidth<T>::of(bandwidth[g], magnitude).scale;
      const Operand<T, true> left{x + g * m * d, m, d, d, scale};
      const Operand<T, true> right{symmetric ? x + g * m * d : y + g * n * d, n, d, d, scale};
      accumulate<T, kOwn>(left, row0, right, column0, slices, sum, SquaredDifference{});
    }

    // Read again rather than kept: the loop above needs all registers.
    const T magnitude = magnitude_of<T>(largest[g]);
    if (kGram) {
      const T sigma = bandwidth[g];
      const bool usable = sigma > T(0) && sigma - sigma == T(0) && magnitude == magnitude;
      const T gamma = usable ? ScaledBandwidth<T>::of(sigma, magnitude).gamma : not_a_number<T>();
#pragma unroll
      for (int i = 0; i < kOwn; ++i)
#pragma unroll
        for (int j = 0; j < kOwn; ++j) sum[i][j] = rbf(sum[i][j], gamma);
    } else {
      const T poison = magnitude - magnitude;  // 0, or NaN
#pragma unroll
      for (int i = 0; i < kOwn; ++i)
#pragma unroll
        for (int j = 0; j < kOwn; ++j)
          sum[i][j] = (sum[i][j] > kLargestFinite<T> ? kLargestFinite<T> : sum[i][j]) + poison;
    }

    const bool quads = n % 4 == 0;  // rows then start on the alignment of a Quad
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      const int64_t r = row0 + Shape::own(ty, i);
#pragma unroll
      for (int j = 0; j < kOwn; j += 4) {
        const int64_t c = column0 + Shape::own(tx, j);
        if (r < m && quads && c < n) {
          Quad<T> quad;
#pragma unroll
          for (int e = 0; e < 4; ++e) quad.v[e] = sum[i][j + e];
          *reinterpret_cast<Quad<T>*>(&target[r * n + c]) = quad;
        } else if (r < m) {
#pragma unroll
          for (int e = 0; e < 4; ++e)
            if (c + e < n) target[r * n + c + e] = sum[i][j + e];
        }
      }
    }
    if (!mirrored) continue;
#pragma unroll
    for (int j = 0; j < kOwn; ++j) {
      const int64_t r = column0 + Shape::own(tx, j);
#pragma unroll
      for (int i = 0; i < kOwn; i += 4) {
        const int64_t c = row0 + Shape::own(ty, i);
        if (r < m && quads && c < n) {
          Quad<T> quad;
#pragma unroll
          for (int e = 0; e < 4; ++e) quad.v[e] = sum[i + e][j];
          *reinterpret_cast<Quad<T>*>(&target[r * n + c]) = quad;
        } else if (r < m) {
#pragma unroll
          for (int e = 0; e < 4; ++e)
            if (c + e < n) target[r * n + c + e] = sum[i + e][j];
        }
      }
    }
  }
}

template <typename T, int kOwn, Pairwise kKind>
int launch_pairwise(const T* x, const T* y, int64_t groups, int64_t m, int64_t n, int64_t d,
                    const Key<T>* largest, const T* bandwidth, T* out, void* stream) {
  const int64_t tiles = divide_up(n, Tile<kOwn>::kSize) * divide_up(m, Tile<kOwn>::kSize);
  if (tiles > kLargestGridX) return static_cast<int>(cudaErrorInvalidConfiguration);
  const dim3 grid(static_cast<unsigned>(tiles), 1, grid_z(groups));
  return launch(pairwise_kernel<T, kOwn, kKind>, grid, dim3(kTileThreads), 0, stream, x, y, groups,
                m, n, d, largest, bandwidth, out);
}

// Chooses the tile by the size of the matrix alone: the bits do not depend on it.
template <typename T, Pairwise kKind>
int pairwise(const T* x, const T* y, int64_t groups, int64_t m, int64_t n, int64_t d,
             const Key<T>* largest, const T* bandwidth, T* out, void* stream) {
  if (groups == 0 || m == 0 || n == 0) return 0;
  if constexpr (sizeof(T) == 4) {
    if (m > kSmallPairwise && n > kSmallPairwise)
      return launch_pairwise<T, 8, kKind>(x, y, groups, m, n, d, largest, bandwidth, out, stream);
  }
  return launch_pairwise<T, 4, kKind>(x, y, groups, m, n, d, largest, bandwidth, out, stream);
}

}  // namespace mige::cuda
