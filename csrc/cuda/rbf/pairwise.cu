// Squared distances and RBF Gram matrices, by tiles. A thread block takes one square tile of the
// result, a thread takes kThreadTile×kThreadTile elements (tile.cuh), and blockIdx.z selects the
// groups. With y == nullptr (y = x) only the tiles on and above the diagonal are computed. A thread
// writes its elements to both sides of the diagonal, four neighbors at a time.
//
// Work for m = n: 3 m² d flop in 2 m² d instructions (half with y == nullptr), 2 m² d / kSize
// reads, m² writes. Shared memory: 2 × 16 × (kSize + 4) values, which is 16.5 KiB for 128×128 tiles
// of float and 17 KiB for 64×64 tiles of double. Two thread blocks with 64×64 tiles of float fit a
// multiprocessor.
#include "cuda/linalg/tile.cuh"
#include "cuda/rbf/pairwise.cuh"

namespace mige::cuda {
namespace {

// If m or n is at most kSmallPairwise, tiles are 64×64. Larger tiles would leave multiprocessors
// idle.
constexpr int64_t kSmallPairwise = 1024;

// Writes four neighbors of a row: at once if rows have the alignment of a Quad, otherwise one after
// another.
template <typename T>
__device__ __forceinline__ void write_quad(T* out,  // [m, n]
                                           int64_t m, int64_t n, int64_t r, int64_t c,
                                           const Quad<T>& quad) {
  if (r >= m) return;
  if (n % 4 == 0 && c < n) {
    *reinterpret_cast<Quad<T>*>(&out[r * n + c]) = quad;
  } else {
#pragma unroll
    for (int e = 0; e < 4; ++e)
      if (c + e < n) out[r * n + c + e] = quad.v[e];
  }
}

// Computes tiles of `out`. Registers: at most 128 in <float, 4>, otherwise 255.
template <typename T, int kThreadTile, Pairwise kKind>
__global__ void __launch_bounds__(kTileThreads, kTileBlocks<T, kThreadTile>)
    pairwise_kernel(PairwiseArguments<T> p,
                    const Key<T>* __restrict__ largest) {  // [groups], magnitudes of x and y
  using Shape = Tile<kThreadTile>;
  constexpr bool kGram = kKind == Pairwise::kRbf || kKind == Pairwise::kScaledRbf;
  __shared__ __align__(16) T slices[Shape::kSlices];
  static_assert(sizeof(slices) <= 48 * 1024, "static shared memory is limited to 48 KiB");

  const int64_t m = p.m, n = p.n, d = p.d;
  const bool symmetric = p.y == nullptr;
  const int64_t across = divide_up(n, Shape::kSize);
  const int64_t tile_row = blockIdx.x / across, tile_column = blockIdx.x % across;
  if (symmetric && tile_column < tile_row) return;  // its mirror image writes this tile
  const int tx = threadIdx.x % kTileSide, ty = threadIdx.x / kTileSide;
  const int64_t row0 = tile_row * Shape::kSize;
  const int64_t column0 = tile_column * Shape::kSize;
  const bool mirrored = symmetric && row0 != column0;

  for (int64_t g = blockIdx.z; g < p.groups; g += gridDim.z) {
    T* const target = p.out + g * m * n;
    T sum[kThreadTile][kThreadTile] = {};
    {
      const T magnitude = magnitude_of<T>(largest[g]);
      T scale = kKind == Pairwise::kScaledSquaredDistance ? normal_scale(magnitude) : T(1);
      if (kKind == Pairwise::kRbf) scale = ScaledBandwidth<T>::of(p.bandwidth[g], magnitude).scale;
      const Operand<T, true> left{p.x + g * m * d, m, d, d, scale};
      const Operand<T, true> right{symmetric ? p.x + g * m * d : p.y + g * n * d, n, d, d, scale};
      accumulate(left, row0, right, column0, slices, sum, SquaredDifference{});
    }

    // The magnitude is read again, because the loop above needs all registers.
    const T magnitude = magnitude_of<T>(largest[g]);
    if (kGram) {
      const T sigma = p.bandwidth[g];
      const T gamma = is_bandwidth(sigma, magnitude)
                          ? ScaledBandwidth<T>::of(sigma, magnitude).gamma
                          : not_a_number<T>();
      for_each_sum<kThreadTile>([&](int i, int j) { sum[i][j] = rbf(sum[i][j], gamma); });
    } else {
      const T poison = magnitude - magnitude;  // 0, or NaN
      for_each_sum<kThreadTile>([&](int i, int j) {
        sum[i][j] = (sum[i][j] > kLargestFinite<T> ? kLargestFinite<T> : sum[i][j]) + poison;
      });
    }

#pragma unroll
    for (int i = 0; i < kThreadTile; ++i)
#pragma unroll
      for (int j = 0; j < kThreadTile; j += 4)
        write_quad(target, m, n, row0 + Shape::index(ty, i), column0 + Shape::index(tx, j),
                   Quad<T>{{sum[i][j], sum[i][j + 1], sum[i][j + 2], sum[i][j + 3]}});
    if (!mirrored) continue;
#pragma unroll
    for (int j = 0; j < kThreadTile; ++j)
#pragma unroll
      for (int i = 0; i < kThreadTile; i += 4)
        write_quad(target, m, n, column0 + Shape::index(tx, j), row0 + Shape::index(ty, i),
                   Quad<T>{{sum[i][j], sum[i + 1][j], sum[i + 2][j], sum[i + 3][j]}});
  }
}

}  // namespace

// Launches the kernel. The size of a matrix alone determines the tile, and the bits of the result
// do not depend on the tile.
template <typename T, Pairwise kKind>
void pairwise(const PairwiseArguments<T>& p,
              const Key<T>* largest,  // [groups]
              Stream& stream) {
  if (p.groups == 0 || p.m == 0 || p.n == 0) return;
  const auto launch = [&](auto kernel, int64_t tile) {
    const Grid grid{divide_up(p.n, tile) * divide_up(p.m, tile), 1, group_blocks(p.groups)};
    stream.launch(kernel, {grid, kTileThreads}, p, largest);
  };
  if constexpr (sizeof(T) == 4) {
    if (p.m > kSmallPairwise && p.n > kSmallPairwise)
      return launch(pairwise_kernel<T, 8, kKind>, Tile<8>::kSize);
  }
  launch(pairwise_kernel<T, 4, kKind>, Tile<4>::kSize);
}

#define MIGE_INSTANTIATE_PAIRWISE(T, kind) \
  template void pairwise<T, Pairwise::kind>(const PairwiseArguments<T>&, const Key<T>*, Stream&)
#define MIGE_INSTANTIATE_PAIRWISES(T)                   \
  MIGE_INSTANTIATE_PAIRWISE(T, kSquaredDistance);       \
  MIGE_INSTANTIATE_PAIRWISE(T, kScaledSquaredDistance); \
  MIGE_INSTANTIATE_PAIRWISE(T, kRbf);                   \
  MIGE_INSTANTIATE_PAIRWISE(T, kScaledRbf)
MIGE_INSTANTIATE_PAIRWISES(float);
MIGE_INSTANTIATE_PAIRWISES(double);

}  // namespace mige::cuda
