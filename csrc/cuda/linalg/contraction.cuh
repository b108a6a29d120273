// Batched matrix products: for every group g
//
//   out_ij = finish(Σ_k a_ik b_jk),   out [m, n],
//
// with batched operands and a finish that the caller chooses. All products use this kernel, so all
// sums have the same order. The precision is T and does not depend on torch's settings (TF32) or on
// a library's choice for a size. The result of a group has the same bits alone and in a batch.
//
// An operand has a function at(g, row0), which returns what the tile engine reads for the 64 rows
// from row0 on. A finish has a type Sum, the type of the sums, and a function of(g, m, n), which
// returns a function (i, j, sum) that writes one element. With kWithRowSums this function also
// takes Σ_k a_ik. With kLowerTriangle only tiles on and below the diagonal are computed.
#pragma once

#include "cuda/core/device.cuh"
#include "cuda/linalg/tile.cuh"

namespace mige::cuda {

// --- operands ---

// Value (i, k) is p_ik. With kTriangle p is lower triangular, and columns that are zero in all rows
// of a tile are skipped.
template <typename T, bool kTriangle = false>
struct Rows {
  const T* p;  // [groups, rows, depth]
  int64_t rows, depth;

  __device__ auto at(int64_t g, int64_t row0) const {
    const bool shorter = kTriangle && row0 + kProductTile < depth;
    return Operand<T, true>{p + g * rows * depth, rows, shorter ? row0 + kProductTile : depth,
                            depth, T(1)};
  }
};
template <typename T>
using LowerTriangle = Rows<T, true>;

// Value (i, k) is p_ki. With kBelow the first row0 values of k are skipped. For a lower triangular
// p as the left operand, these values are zeros.
template <typename T, bool kBelow = false>
struct Columns {
  const T* p;  // [groups, depth, columns]
  int64_t depth, columns;
  int64_t stride = depth * columns;  // between groups

  __device__ auto at(int64_t g, int64_t row0) const {
    const int64_t first = kBelow ? row0 : 0;
    return Operand<T, false>{p + g * stride + first * columns, columns, depth - first, columns,
                             T(1)};
  }
};
template <typename T>
using ColumnsBelow = Columns<T, true>;

// --- finishes ---

template <typename Finish>
constexpr bool kWithRowSums = false;
template <typename Finish>
constexpr bool kLowerTriangle = false;

// Stores the sums.
template <typename T>
struct Store {
  using Sum = T;
  T* out;  // [groups, m, n]

  __device__ auto of(int64_t g, int64_t m, int64_t n) const {
    T* const target = out + g * m * n;
    return [=](int64_t i, int64_t j, T sum) { target[i * n + j] = sum; };
  }
};

// Stores a symmetric matrix from its lower triangle.
template <typename T>
struct StoreSymmetric {
  using Sum = T;
  T* out;  // [groups, n, n]

  __device__ auto of(int64_t g, int64_t, int64_t n) const {
    T* const target = out + g * n * n;
    return [=](int64_t i, int64_t j, T sum) {
      if (j > i) return;
      target[i * n + j] = sum;
      target[j * n + i] = sum;
    };
  }
};
template <typename T>
constexpr bool kLowerTriangle<StoreSymmetric<T>> = true;

// Stores the sums times a factor of their row (kByRow) or of their column, limited to the range of
// T.
template <typename T, bool kByRow>
struct StoreScaled {
  using Sum = T;
  T* out;           // [groups, m, n]
  const T* factor;  // [groups, m] or [groups, n]

  __device__ auto of(int64_t g, int64_t m, int64_t n) const {
    T* const target = out + g * m * n;
    const T* const factors = factor + g * (kByRow ? m : n);
    return [=](int64_t i, int64_t j, T sum) {
      target[i * n + j] = clamped(factors[kByRow ? i : j] * sum);
    };
  }
};

// --- the product ---

struct ContractionShape {
  int64_t groups, m, n;
  const int32_t* next = nullptr;  // [groups]: a group with a negative value is skipped
};

// Computes the product. A thread block takes a 64×64 tile of every gridDim.z-th group, a thread 4×4
// elements. Work: 2 m n depth flop; reads 2 m n depth / 64 values, and what `finish` reads and
// writes. (An operand that is an elementwise product of two matrices reads twice as many values.)
// Shared memory: 8.5 KiB in float, 17 KiB in double. Registers: at most 128 in float, 255 in
// double.
template <typename T, typename Left, typename Right, typename Finish>
__global__ void __launch_bounds__(kTileThreads, kTileBlocks<T>)
    contraction_kernel(Left left, Right right, Finish finish, ContractionShape shape) {
  __shared__ __align__(16) T slices[Tile<kProductThreadTile>::kSlices];
  const int64_t row0 = static_cast<int64_t>(blockIdx.y) * kProductTile;
  const int64_t column0 = static_cast<int64_t>(blockIdx.x) * kProductTile;
  if (kLowerTriangle<Finish> && column0 > row0) return;
  for (int64_t g = blockIdx.z; g < shape.groups; g += gridDim.z) {
    if (shape.next != nullptr && shape.next[g] < 0) continue;
    typename Finish::Sum sum[kProductThreadTile][kProductThreadTile] = {};
    T row_sum[kProductThreadTile] = {};
    accumulate(left.at(g, row0), row0, right.at(g, row0), column0, slices, sum,
               [&](auto& s, const auto& a, const auto& b) {
                 if (kWithRowSums<Finish>)
#pragma unroll
                   for (int i = 0; i < kProductThreadTile; ++i) row_sum[i] += a[i];
                 Multiply{}(s, a, b);
               });
    const auto element = finish.of(g, shape.m, shape.n);
    for_each_element(row0, column0, shape.m, shape.n, [&](int i, int j, int64_t r, int64_t c) {
      if constexpr (kWithRowSums<Finish>)
        element(r, c, sum[i][j], row_sum[i]);
      else
        element(r, c, sum[i][j]);
    });
  }
}

template <typename T, typename Left, typename Right, typename Finish>
void contract(const Left& left, const Right& right, const Finish& finish,
              const ContractionShape& shape, Stream& stream) {
  stream.launch(contraction_kernel<T, Left, Right, Finish>,
                {{divide_up(shape.n, kProductTile), divide_up(shape.m, kProductTile),
                  group_blocks(shape.groups)},
                 kTileThreads},
                left, right, finish, shape);
}

}  // namespace mige::cuda
