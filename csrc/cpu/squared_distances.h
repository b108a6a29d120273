// Squared distances of one group: s_ij = ‖x_i − y_j‖² by direct differences.
//
// Layout: x [m, d] is read by rows, y [n, d] in panels (panels.h). Work: 3 m n d flop, or half as
// many for y = x, where only the upper triangle is computed. (The form ‖x‖² + ‖y‖² − 2 x·y takes
// 2 m n d flop, but loses the digits of small distances.) Invariants: the distance of equal rows is
// exactly 0, no value is negative, and a value that overflows is the largest finite number.
#pragma once

#include <algorithm>
#include <limits>

#include "cpu/panels.h"
#include "cpu/runtime.h"
#include "cpu/tile.h"

namespace mige::cpu {

template <int kBytes, typename T>
MIGE_INLINE void squared_distance_rows_impl(const T* x,         // [m, d]
                                            const T* y_panels,  // [n, d] packed by rows
                                            int64_t n, int64_t d, T scale, bool upper,
                                            T* out,  // [m, n]
                                            int64_t begin, int64_t end) {
  const auto store = [=](int64_t i, int64_t rows, int64_t j, Vector<T, kBytes>* acc) {
    constexpr T kLargest = std::numeric_limits<T>::max();
    for (int r = 0; r < kTileRows; ++r)
      for (auto& piece : acc[r].piece)
        piece = piece > kLargest ? Piece<T, kBytes>{} + kLargest : piece;
    store_tile<kBytes, T>(acc, rows, n - j, out + i * n + j, n);
  };
  for_each_tile<kBytes>(Rows<T>{x, d}, Panels<T>{y_panels, panel_count<T>(n), d}, d, begin, end,
                        SquaredDifference<T>{scale}, upper, store);
}

template <int kBytes, typename T>
MIGE_INLINE void mirror_rows_impl(T* k, int64_t m, int64_t begin, int64_t end) {  // k [m, m]
  constexpr int64_t kTile = 16;  // both tiles of a transposition stay in the first-level cache
  for (int64_t i0 = begin; i0 < end; i0 += kTile) {
    const int64_t i1 = std::min(i0 + kTile, end);
    for (int64_t j0 = 0; j0 < i1; j0 += kTile)
      for (int64_t i = i0; i < i1; ++i) {
        const int64_t j1 = std::min(j0 + kTile, i);
        for (int64_t j = j0; j < j1; ++j) k[i * m + j] = k[j * m + i];
      }
  }
}

MIGE_KERNEL(squared_distance_rows, squared_distance_rows_impl)
MIGE_KERNEL(mirror_rows, mirror_rows_impl)

// s_ij = scale² ‖x_i − y_j‖² for all pairs. If y is nullptr, y is x, only the entries j >= i are
// computed, and the entries below the diagonal are undefined.
template <typename T>
void squared_distance_matrix(const T* x,  // [m, d]
                             const T* y,  // [n, d] or nullptr
                             int64_t m, int64_t n, int64_t d, T scale,
                             T* s) {  // [m, n]
  const Buffer<T> panels(panels_size<T>(d, n));
  pack_rows(y ? y : x, n, d, scale, panels.get());
  const auto rows = [&](int64_t begin, int64_t end) {
    squared_distance_rows(x, panels.get(), n, d, scale, !y, s, begin, end);
  };
  parallel_rows(m, !y, rows, 2 * n * d);
}

// k_ij = k_ji for j < i: the lower triangle from the upper one.
template <typename T>
void mirror(T* k, int64_t m) {  // k [m, m]
  parallel_triangle(m, [&](int64_t begin, int64_t end) { mirror_rows(k, m, begin, end); });
}

}  // namespace mige::cpu
