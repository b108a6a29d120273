// The register tile of every product and distance: six rows of the left operand and one panel of
// the right operand. The columns of a panel fill 64 bytes (panels.h).
//
//   acc[r] = Σ_c f(a[r][c], panel[c])        f(a, b) = a b   or   (a − b)²
//
// A tile has six rows, because six accumulators take 12 of the 16 registers of AVX2, and hide the
// latency of a fused multiply-add on AVX-512. A long sum is computed from partial sums of kChunk
// terms, so its rounding error is near the error of pairwise summation.
#pragma once

#include "cpu/simd.h"

namespace mige::cpu {

constexpr int kTileRows = 6;
constexpr int64_t kChunk = 256;

// The number of rows that use a panel while it is in the first-level cache.
constexpr int64_t kBlockRows = 8 * kTileRows;

struct Multiply {
  template <typename V, typename T>
  MIGE_INLINE void operator()(V& acc, T a, const V& b) const {
    acc += a * b;
  }
};

template <typename T>
struct SquaredDifference {
  T scale;  // multiplies a; the panels already contain scaled b
  template <typename V>
  MIGE_INLINE void operator()(V& acc, T a, const V& b) const {
    const V difference = scale * a - b;
    acc += difference * difference;
  }
};

// The left operand: element (r, c) lies at data[(r - first) * stride + c].
template <typename T>
struct Rows {
  const T* data;
  int64_t stride, first = 0;
};

// The right operand: `count` panels (panels.h), with `stride` rows each.
template <typename T>
struct Panels {
  const T* data;
  int64_t count, stride;
};

// Computes acc[0..kTileRows) for the rows from i on. Rows after `last` are replaced by row `last`.
template <int kBytes, typename T, typename Op>
MIGE_INLINE void accumulate_tile(const Rows<T>& a, int64_t i, int64_t last,
                                 const T* panel,  // [depth, kLanes]
                                 int64_t depth, const Op& op,
                                 Vector<T, kBytes>* acc) {  // [kTileRows]
  constexpr int kPieces = Vector<T, kBytes>::kPieces;
  const T* row[kTileRows];
  for (int r = 0; r < kTileRows; ++r)
    row[r] = a.data + ((i + r < last ? i + r : last) - a.first) * a.stride;
  for (int r = 0; r < kTileRows; ++r) acc[r] = Vector<T, kBytes>{};
  for (int64_t c0 = 0; c0 < depth; c0 += kChunk) {
    const int64_t c1 = c0 + kChunk < depth ? c0 + kChunk : depth;
    Piece<T, kBytes> sum[kTileRows][kPieces] = {};
    for (int64_t c = c0; c < c1; ++c) {
      const auto* b = reinterpret_cast<const Piece<T, kBytes>*>(panel + c * kLanes<T>);
#pragma GCC unroll 6
      for (int r = 0; r < kTileRows; ++r)
#pragma GCC unroll 4
        for (int p = 0; p < kPieces; ++p) op(sum[r][p], row[r][c], b[p]);
    }
#pragma GCC unroll 6
    for (int r = 0; r < kTileRows; ++r)
#pragma GCC unroll 4
      for (int p = 0; p < kPieces; ++p) acc[r].piece[p] += sum[r][p];
  }
}

// Calls store(i, rows, j, acc) for every tile of the rows [begin, end). A tile begins at row i and
// column j, and has `rows` rows. With `upper`, tiles below the diagonal are left out.
template <int kBytes, typename T, typename Op, typename Store>
MIGE_INLINE void for_each_tile(const Rows<T>& a, const Panels<T>& b, int64_t depth, int64_t begin,
                               int64_t end, const Op& op, bool upper, const Store& store) {
  const auto first = [=](int64_t i) { return upper ? i / kLanes<T> : int64_t(0); };
  for (int64_t block = begin; block < end; block += kBlockRows) {
    const int64_t block_end = block + kBlockRows < end ? block + kBlockRows : end;
    for (int64_t p = first(block); p < b.count; ++p) {
      const T* panel = b.data + p * b.stride * kLanes<T>;
      for (int64_t i = block; i < block_end; i += kTileRows) {
        if (p < first(i)) continue;
        const int64_t rows = i + kTileRows < block_end ? kTileRows : block_end - i;
        Vector<T, kBytes> acc[kTileRows];
        accumulate_tile(a, i, block_end - 1, panel, depth, op, acc);
        store(i, rows, p * kLanes<T>, acc);
      }
    }
  }
}

// Writes the first `columns` lanes of acc[r] to out + r * stride.
template <int kBytes, typename T>
MIGE_INLINE void store_tile(const Vector<T, kBytes>* acc,  // [rows]
                            int64_t rows, int64_t columns,
                            T* out,  // [rows, columns], its rows `stride` apart
                            int64_t stride) {
  for (int64_t r = 0; r < rows; ++r, out += stride)
    if (columns >= kLanes<T>)
      std::memcpy(out, &acc[r], kVectorBytes);
    else
      std::memcpy(out, &acc[r], static_cast<size_t>(columns) * sizeof(T));
}

// Adds the first `columns` lanes of acc[r] to out + r * stride.
template <int kBytes, typename T>
MIGE_INLINE void add_tile(const Vector<T, kBytes>* acc,  // [rows]
                          int64_t rows, int64_t columns,
                          T* out,  // [rows, columns], its rows `stride` apart
                          int64_t stride) {
  for (int64_t r = 0; r < rows; ++r, out += stride) {
    const T* lane = reinterpret_cast<const T*>(&acc[r]);
    if (columns >= kLanes<T>) {
#pragma omp simd
      for (int64_t l = 0; l < kLanes<T>; ++l) out[l] += lane[l];
    } else {
      for (int64_t l = 0; l < columns; ++l) out[l] += lane[l];
    }
  }
}

}  // namespace mige::cpu
