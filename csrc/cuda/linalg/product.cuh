// Matrix products C = A B in the working precision, whatever torch is set to do (TF32, a library's
// choice by size): the same bits for a group alone and for a group in a batch.
//
// 64×64 tiles of C, 4×4 elements a thread. Work: 2 m n depth flop, 2 m n depth / 64 reads, m n
// writes. Shared memory: 8.5 KiB in float, 17 KiB in double. Registers: at most 128 in float,
// 255 in double.
#pragma once

#include "cuda/core/scale.cuh"
#include "cuda/linalg/tile.cuh"

namespace mige::cuda {

constexpr int kProductOwn = 4;
constexpr int kProductTile = Tile<kProductOwn>::kSize;

// What is done with an element of the product before it is stored.
enum class Epilogue {
  kGradientSum,  // c_ij = (x_ij Σ_k a_ik − c_ij) / σ²: H, with x = B and a = K
  kScaleRows,    // c_ij = row_factor_i c_ij
  kScore         // c_ij = scale c_ij, kept within ±bound
};

template <typename T>
struct ProductArguments {
  const T* a;  // [groups, m, depth], or [groups, depth, m] for kScore
  const T* b;  // [groups, depth, n]
  T* c;        // [groups, m, n]
  int64_t groups, m, n, depth;
  const Key<T>* largest;  // [groups]
  const T* bandwidth;     // [groups]: kGradientSum, kScore
  const T* row_factor;    // [groups, m]: kScaleRows
  bool near_bandwidth;    // kGradientSum: coordinates are in units fit for the bandwidth, and are
                          // brought back here; otherwise they fit the magnitude alone
  T bound;                // kScore
};

template <typename T, Epilogue kEpilogue>
__global__ void __launch_bounds__(kTileThreads, kTileBlocks<T, kProductOwn>)
    product_kernel(ProductArguments<T> p) {
  constexpr bool kTransposed = kEpilogue == Epilogue::kScore;
  __shared__ __align__(16) T slices[Tile<kProductOwn>::kSlices];
  const int tx = threadIdx.x % kTileSide, ty = threadIdx.x / kTileSide;
  const int64_t row0 = static_cast<int64_t>(blockIdx.y) * kProductTile;
  const int64_t column0 = static_cast<int64_t>(blockIdx.x) * kProductTile;

  for (int64_t g = blockIdx.z; g < p.groups; g += gridDim.z) {
    T sum[kProductOwn][kProductOwn] = {};
    T row_sum[kProductOwn] = {};
    const Operand<T, !kTransposed> left{p.a + g * p.m * p.depth, p.m, p.depth,
                                        kTransposed ? p.m : p.depth, T(1)};
    const Operand<T, false> right{p.b + g * p.depth * p.n, p.n, p.depth, p.n, T(1)};
    accumulate<T, kProductOwn>(left, row0, right, column0, slices, sum,
                               [&](auto& s, const auto& a, const auto& b) {
                                 if (kEpilogue == Epilogue::kGradientSum)
#pragma unroll
                                   for (int i = 0; i < kProductOwn; ++i) row_sum[i] += a[i];
                                 Multiply{}(s, a, b);
                               });

    const T magnitude = magnitude_of<T>(p.largest[g]);
    T factor = 0, back = 1;
    if (kEpilogue != Epilogue::kScaleRows) {
      const T sigma = p.bandwidth[g];
      const ScaledBandwidth<T> width = p.near_bandwidth
                                           ? ScaledBandwidth<T>::of(sigma, magnitude)
                                           : ScaledBandwidth<T>(sigma, normal_scale(magnitude));
      const bool usable = sigma > T(0) && sigma - sigma == T(0) && magnitude == magnitude;
      if (kEpilogue == Epilogue::kGradientSum) {
        // Equal samples, which have σ = 0 by the bandwidth rule, have H = 0.
        const bool equal = !p.near_bandwidth && sigma == T(0);
        factor = usable ? width.inverse_variance : (equal ? T(0) : not_a_number<T>());
        back = p.near_bandwidth ? width.scale : T(1);
      } else {
        // They have a score of 0, too; anything else that is no bandwidth gives NaN.
        factor = usable ? width.scale : (sigma == T(0) ? T(0) : not_a_number<T>());
      }
    }
#pragma unroll
    for (int i = 0; i < kProductOwn; ++i) {
      const int64_t r = row0 + Tile<kProductOwn>::own(ty, i);
      if (r >= p.m) continue;
      if (kEpilogue == Epilogue::kScaleRows) factor = p.row_factor[g * p.m + r];
#pragma unroll
      for (int j = 0; j < kProductOwn; ++j) {
        const int64_t c = column0 + Tile<kProductOwn>::own(tx, j);
        if (c >= p.n) continue;
        T value = sum[i][j];
        if (kEpilogue == Epilogue::kGradientSum) {
          const T x = p.b[(g * p.depth + r) * p.n + c];
          value = back * (factor * (row_sum[i] * x - value));
        } else {
          value = factor * value;
        }
        const T bound = kEpilogue == Epilogue::kScore ? p.bound : kLargestFinite<T>;
        value = value > bound ? bound : (value < -bound ? -bound : value);
        p.c[(g * p.m + r) * p.n + c] = value;
      }
    }
  }
}

template <typename T, Epilogue kEpilogue>
int product(const ProductArguments<T>& arguments, void* stream) {
  const int64_t grid_x = divide_up(arguments.n, kProductTile);
  const int64_t grid_y = divide_up(arguments.m, kProductTile);
  if (grid_x > kLargestGridX || grid_y > kLargestGridYZ)
    return static_cast<int>(cudaErrorInvalidConfiguration);
  const dim3 grid(static_cast<unsigned>(grid_x), static_cast<unsigned>(grid_y),
                  grid_z(arguments.groups));
  return launch(product_kernel<T, kEpilogue>, grid, dim3(kTileThreads), 0, stream, arguments);
}

}  // namespace mige::cuda
