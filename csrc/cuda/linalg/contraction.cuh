// Batched matrix products: for every group g
//
//   out_ij = finish(Σ_k a_ik b_jk),   out [m, n],
//
// with batched operands and a finish that the caller chooses. All products use this kernel, so all
// sums have the same order. The precision is T and does not depend on torch's settings (TF32) or on
// a library's choice for a size. Long sums of products with few tiles are divided into parts
// (parts.cuh). A group has the same bits alone and in a batch.
//
// An operand has a function at(g, row0). It returns an Operand of the tile engine (tile.cuh) for
// the 64 rows from row0 on. A finish has a type Sum, which is the type of the sums, and a function
// of(g, m, n). The latter returns a function (i, j, sum) that writes one element. With kWithRowSums
// the returned function also takes Σ_k a_ik. With kLowerTriangle only tiles on and below the
// diagonal are computed.
#pragma once

#include "cuda/linalg/parts.cuh"
#include "cuda/linalg/tile.cuh"

namespace mige::cuda {

// --- operands ---

// Value (i, k) is p_ik, converted to T. With kTriangle p is lower triangular, and columns that are
// zero in all rows of a tile are skipped.
template <typename T, bool kTriangle = false, typename Source = T>
struct Rows {
  const Source* p;  // [groups, rows, depth]
  int64_t rows, depth;

  __device__ auto at(int64_t g, int64_t row0) const {
    const bool shorter = kTriangle && row0 + kProductTile < depth;
    return Operand<T, true, Source>{p + g * rows * depth, rows,
                                    shorter ? row0 + kProductTile : depth, depth, T(1)};
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
  int64_t stride = depth * columns;  // distance between groups

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
  // Without this memory, one thread block computes all parts of a sum. The bits are the same.
  PartialSums partial{};
};

// The number of terms of the sums of a product with this left operand.
template <typename Left>
int64_t depth_of(const Left& left) {
  return left.depth;
}

constexpr int64_t kSmallestPart = 64;  // terms of a sum

inline int64_t product_tiles(int64_t m, int64_t n) {
  return divide_up(m, kProductTile) * divide_up(n, kProductTile);
}
inline Parts product_parts(int64_t m, int64_t n, int64_t depth) {
  return Parts::of(product_tiles(m, n), depth, kSmallestPart);
}

// The bytes of partial sums that contract() needs to give every part its own thread block. A row of
// a partial sum has room for Σ_k a_ik in an additional column.
template <typename Sum>
int64_t partial_bytes(int64_t groups, int64_t m, int64_t n, int64_t depth) {
  return product_parts(m, n, depth).bytes(groups, product_tiles(m, n), m * (n + 1), sizeof(Sum));
}

// The partial sum of row i of group g: `n` sums, then Σ_k a_ik.
template <typename Sum>
__device__ __forceinline__ Sum* partial_row(const ContractionShape& shape, int64_t part, int64_t g,
                                            int64_t i) {
  return static_cast<Sum*>(shape.partial.sums) +
         ((part * shape.groups + g) * shape.m + i) * (shape.n + 1);
}

// Computes the product, or the sums of one part of it. A thread block takes a 64×64 tile of every
// gridDim.z-th group, and one part or all parts of the sums. A thread takes 4×4 elements. Work:
// 2 m n depth flop; reads 2 m n depth / 64 values, and what `finish` reads and writes. (An operand
// that is an elementwise product of two matrices reads twice as many values.) Shared memory:
// 8.5 KiB in float, 17 KiB in double. Registers: at most 128 in float, 255 in double.
template <typename T, typename Left, typename Right, typename Finish>
__global__ void __launch_bounds__(kTileThreads, kTileBlocks<T>)
    contraction_kernel(Left left, Right right, Finish finish, ContractionShape shape, Parts parts) {
  using Sum = typename Finish::Sum;
  constexpr int kSide = kProductThreadTile;
  __shared__ __align__(16) T slices[Tile<kSide>::kSlices];
  const auto columns = static_cast<unsigned>(divide_up(shape.n, kProductTile));
  const unsigned tiles = columns * static_cast<unsigned>(divide_up(shape.m, kProductTile));
  const unsigned tile = blockIdx.x % tiles;
  const int64_t row0 = static_cast<int64_t>(tile / columns) * kProductTile;
  const int64_t column0 = static_cast<int64_t>(tile % columns) * kProductTile;
  const int64_t first = blockIdx.x / tiles;  // 0 if one thread block takes all parts
  const int64_t last = parts.separate ? first + 1 : parts.count;
  if (kLowerTriangle<Finish> && column0 > row0) return;
  for (int64_t g = blockIdx.z; g < shape.groups; g += gridDim.z) {
    if (shape.next != nullptr && shape.next[g] < 0) continue;
    // At the end of a part, its sums are added to the sums of the earlier parts. Meanwhile the
    // thread block fetches values of the next part.
    Sum sum[kSide][kSide] = {}, of_part[kSide][kSide] = {};
    T row_sum[kSide] = {}, row_of_part[kSide] = {};
    const auto step = [&](auto& s, const auto& a, const auto& b) {
      if (kWithRowSums<Finish>)
#pragma unroll
        for (int i = 0; i < kSide; ++i) row_of_part[i] += a[i];
      Multiply{}(s, a, b);
    };
    const auto add_part = [&] {
      for_each_sum([&](int i, int j) {
        sum[i][j] += of_part[i][j];
        of_part[i][j] = 0;
      });
#pragma unroll
      for (int i = 0; i < kSide; ++i) {
        row_sum[i] += row_of_part[i];
        row_of_part[i] = 0;
      }
    };
    int64_t end_of_part = (first + 1) * parts.depth;
    accumulate(left.at(g, row0), row0, right.at(g, row0), column0, slices, of_part, step,
               first * parts.depth, last * parts.depth, [&](int64_t k) {
                 if (k != end_of_part) return;
                 add_part();
                 end_of_part += parts.depth;
               });
    add_part();
    if (parts.separate) {
      for_each_element(row0, column0, shape.m, shape.n, [&](int i, int j, int64_t r, int64_t c) {
        Sum* const row = partial_row<Sum>(shape, first, g, r);
        row[c] = sum[i][j];
        if (kWithRowSums<Finish> && c == 0) row[shape.n] = row_sum[i];
      });
      continue;
    }
    const auto element = finish.of(g, shape.m, shape.n);
    for_each_element(row0, column0, shape.m, shape.n, [&](int i, int j, int64_t r, int64_t c) {
      if constexpr (kWithRowSums<Finish>)
        element(r, c, sum[i][j], row_sum[i]);
      else
        element(r, c, sum[i][j]);
    });
  }
}

// Adds the partial sums in ascending order and finishes the elements, elementwise. Work: reads
// `count` m n partial sums, and what `finish` reads and writes. Registers: at most 64.
template <typename Finish>
__global__ void __launch_bounds__(kElementThreads, 4)
    add_parts_kernel(Finish finish, ContractionShape shape, int64_t count) {
  using Sum = typename Finish::Sum;
  const int64_t n = shape.n;
  for (int64_t g = blockIdx.y; g < shape.groups; g += gridDim.y) {
    if (shape.next != nullptr && shape.next[g] < 0) continue;
    const auto element = finish.of(g, shape.m, n);
    const auto total = [&](int64_t i, int64_t j) {
      Sum sum = 0;
      for (int64_t part = 0; part < count; ++part) sum += partial_row<Sum>(shape, part, g, i)[j];
      return sum;
    };
    grid_stride<kElementThreads>(shape.m * n, [&](int64_t e) {
      const int64_t i = e / n, j = e % n;
      if (kLowerTriangle<Finish> && j / kProductTile > i / kProductTile) return;
      if constexpr (kWithRowSums<Finish>)
        element(i, j, total(i, j), total(i, n));
      else
        element(i, j, total(i, j));
    });
  }
}

// Launches the product. The parts get their own thread blocks if shape.partial has enough memory.
template <typename T, typename Left, typename Right, typename Finish>
void contract(const Left& left, const Right& right, const Finish& finish,
              const ContractionShape& shape, Stream& stream) {
  const int64_t m = shape.m, n = shape.n, depth = depth_of(left);
  Parts parts = product_parts(m, n, depth);
  const int64_t bytes = partial_bytes<typename Finish::Sum>(shape.groups, m, n, depth);
  parts.separate = bytes > 0 && bytes <= shape.partial.bytes;
  stream.launch(contraction_kernel<T, Left, Right, Finish>,
                {{divide_up(m, kProductTile) * divide_up(n, kProductTile) *
                      (parts.separate ? parts.count : 1),
                  1, group_blocks(shape.groups)},
                 kTileThreads},
                left, right, finish, shape, parts);
  if (parts.separate)
    stream.launch(add_parts_kernel<Finish>, elementwise(m * n, shape.groups), finish, shape,
                  parts.count);
}

}  // namespace mige::cuda
