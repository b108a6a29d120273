// Panels, the layout of the right operand [depth, n] of the tile kernels (tile.h):
// [ceil(n / L)][depth][L], where L columns fill 64 bytes and missing columns are zero. The inner
// loop then reads one whole vector per step.
#pragma once

#include <algorithm>

#include "cpu/simd.h"

namespace mige::cpu {

template <typename T>
constexpr int64_t panel_count(int64_t columns) {
  return divide_up(columns, kLanes<T>);
}

template <typename T>
constexpr int64_t panels_size(int64_t depth, int64_t columns) {
  return panel_count<T>(columns) * depth * kLanes<T>;
}

// Panels of scale * b.
template <int kBytes, typename T>
MIGE_INLINE void pack_columns_impl(const T* b,  // [depth, n]
                                   int64_t depth, int64_t n, T scale,
                                   T* panels) {  // panels_size(depth, n)
  for (int64_t j = 0; j < n; j += kLanes<T>) {
    const int64_t columns = std::min(kLanes<T>, n - j);
    for (int64_t c = 0; c < depth; ++c, panels += kLanes<T>) {
      for (int64_t l = 0; l < columns; ++l) panels[l] = scale * b[c * n + j + l];
      for (int64_t l = columns; l < kLanes<T>; ++l) panels[l] = T(0);
    }
  }
}

// Panels of scale * xᵀ: the rows of x are the columns of the operand.
template <int kBytes, typename T>
MIGE_INLINE void pack_rows_impl(const T* x,  // [n, depth]
                                int64_t n, int64_t depth, T scale,
                                T* panels) {  // panels_size(depth, n)
  for (int64_t j = 0; j < n; j += kLanes<T>, panels += depth * kLanes<T>) {
    const int64_t columns = std::min(kLanes<T>, n - j);
    for (int64_t l = 0; l < columns; ++l) {
      const T* row = x + (j + l) * depth;
      for (int64_t c = 0; c < depth; ++c) panels[c * kLanes<T> + l] = scale * row[c];
    }
    for (int64_t l = columns; l < kLanes<T>; ++l)
      for (int64_t c = 0; c < depth; ++c) panels[c * kLanes<T> + l] = T(0);
  }
}

MIGE_KERNEL(pack_columns, pack_columns_impl)
MIGE_KERNEL(pack_rows, pack_rows_impl)

}  // namespace mige::cpu
