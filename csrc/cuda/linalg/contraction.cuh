// Matrix products whose operands and results a small struct describes, its *form*: for every group
// what is multiplied, out_ij = finish(Σ_k a_ik b_jk), and whether the group needs it at all. One
// kernel, so that every product of the adaptive score keeps one order of sums.
//
// A form has, on the device:
//   bool idle(g)              nothing is to be done for group g
//   left(g, row0), right(g, row0)  operands of the tile engine, for the 64 rows from row0 on: of a
//                             triangular factor, the columns that are not zero
//   finish(g, i, j, sum)      what becomes of an element
//   Sum                       the type that is summed in
//
// 64×64 tiles, 4×4 elements a thread. Work: 2 m n depth flop, 2 m n depth / 64 reads (twice those
// of `left` for a Hadamard product), and what `finish` reads and writes. Shared memory: 8.5 KiB in
// float, 17 KiB in double.
#pragma once

#include "cuda/linalg/product.cuh"

namespace mige::cuda {

// An operand's elements, each cubed: φ³ of a stored Gram matrix φ.
template <typename Inner>
struct Cubed {
  Inner inner;
  int64_t depth;

  __device__ explicit Cubed(const Inner& from) : inner(from), depth(from.depth) {}

  template <int kOwn, typename T>
  __device__ __forceinline__ void fetch(int64_t row0, int64_t k0, T (&held)[kOwn]) const {
    inner.template fetch<kOwn>(row0, k0, held);
#pragma unroll
    for (int e = 0; e < kOwn; ++e) held[e] *= held[e] * held[e];
  }
  template <int kOwn, typename T>
  static __device__ __forceinline__ void store(const T (&held)[kOwn], T* slices) {
    Inner::template store<kOwn>(held, slices);
  }
};

// The elementwise product of two operands of one shape.
template <typename A, typename B>
struct Hadamard {
  A a;
  B b;
  int64_t depth;

  __device__ Hadamard(const A& first, const B& second) : a(first), b(second), depth(a.depth) {}

  template <int kOwn, typename T>
  __device__ __forceinline__ void fetch(int64_t row0, int64_t k0, T (&held)[kOwn]) const {
    T other[kOwn];
    a.template fetch<kOwn>(row0, k0, held);
    b.template fetch<kOwn>(row0, k0, other);
#pragma unroll
    for (int e = 0; e < kOwn; ++e) held[e] *= other[e];
  }
  template <int kOwn, typename T>
  static __device__ __forceinline__ void store(const T (&held)[kOwn], T* slices) {
    A::template store<kOwn>(held, slices);
  }
};

// Row-major p, [rows, depth]: value (i, k) is p_ik.
template <typename T>
__device__ __forceinline__ Operand<T, true> rows_of(const T* p, int64_t rows, int64_t depth) {
  return {p, rows, depth, depth, T(1)};
}

// Row-major p, [depth, columns]: value (j, k) is p_kj.
template <typename T>
__device__ __forceinline__ Operand<T, false> columns_of(const T* p, int64_t depth,
                                                        int64_t columns) {
  return {p, columns, depth, columns, T(1)};
}

// Registers: at most 128 in float, 255 in double.
template <typename T, typename Form>
__global__ void __launch_bounds__(kTileThreads, kTileBlocks<T, kProductOwn>)
    contraction_kernel(Form form, int64_t groups, int64_t m, int64_t n) {
  __shared__ __align__(16) T slices[Tile<kProductOwn>::kSlices];
  const int tx = threadIdx.x % kTileSide, ty = threadIdx.x / kTileSide;
  const int64_t row0 = static_cast<int64_t>(blockIdx.y) * kProductTile;
  const int64_t column0 = static_cast<int64_t>(blockIdx.x) * kProductTile;
  for (int64_t g = blockIdx.z; g < groups; g += gridDim.z) {
    if (form.idle(g)) continue;
    typename Form::Sum sum[kProductOwn][kProductOwn] = {};
    accumulate<T, kProductOwn>(form.left(g, row0), row0, form.right(g, row0), column0, slices, sum,
                               Multiply{});
#pragma unroll
    for (int i = 0; i < kProductOwn; ++i) {
      const int64_t r = row0 + Tile<kProductOwn>::own(ty, i);
      if (r >= m) continue;
#pragma unroll
      for (int j = 0; j < kProductOwn; ++j) {
        const int64_t c = column0 + Tile<kProductOwn>::own(tx, j);
        if (c < n) form.finish(g, r, c, sum[i][j]);
      }
    }
  }
}

// The product of a form, out [groups, m, n].
template <typename T, typename Form>
int contract(const Form& form, int64_t groups, int64_t m, int64_t n, void* stream) {
  const int64_t grid_x = divide_up(n, kProductTile), grid_y = divide_up(m, kProductTile);
  if (grid_x > kLargestGridX || grid_y > kLargestGridYZ)
    return static_cast<int>(cudaErrorInvalidConfiguration);
  const dim3 grid(static_cast<unsigned>(grid_x), static_cast<unsigned>(grid_y), grid_z(groups));
  return launch(contraction_kernel<T, Form>, grid, dim3(kTileThreads), 0, stream, form, groups, m,
                n);
}

template <typename T>
__device__ __forceinline__ T clamped(T value) {
  constexpr T kBound = kLargestFinite<T>;
  return value > kBound ? kBound : (value < -kBound ? -kBound : value);
}

// The sum over the lanes of a warp, in every lane, in a fixed order.
__device__ __forceinline__ double warp_sum(double value) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2)
    value += __shfl_xor_sync(kFullMask, value, offset);
  return value;
}

}  // namespace mige::cuda
