// Panels, the layout of the right operand [depth, n] of the tile kernels (tile.h):
// [ceil(n / L)][depth][L], where L columns fill 64 bytes and missing columns are zero. The inner
// loop then reads one whole vector per step.
#pragma once

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
template <typename T>
void pack_columns(const T* b,  // [depth, n]
                  int64_t depth, int64_t n, T scale,
                  T* panels);  // panels_size(depth, n)

// Panels of scale * xᵀ: the rows of x are the columns of the operand.
template <typename T>
void pack_rows(const T* x,  // [n, depth]
               int64_t n, int64_t depth, T scale,
               T* panels);  // panels_size(depth, n)

}  // namespace mige::cpu
