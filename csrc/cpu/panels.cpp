// Copies of a right operand into panels (panels.h).
#include "cpu/panels.h"

#include <algorithm>

namespace mige::cpu {
namespace {

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

MIGE_KERNEL(pack_columns_kernel, pack_columns_impl)
MIGE_KERNEL(pack_rows_kernel, pack_rows_impl)

}  // namespace

template <typename T>
void pack_columns(const T* b, int64_t depth, int64_t n, T scale, T* panels) {
  pack_columns_kernel(b, depth, n, scale, panels);
}

template <typename T>
void pack_rows(const T* x, int64_t n, int64_t depth, T scale, T* panels) {
  pack_rows_kernel(x, n, depth, scale, panels);
}

#define MIGE_INSTANTIATE_PANELS(T)                               \
  template void pack_columns(const T*, int64_t, int64_t, T, T*); \
  template void pack_rows(const T*, int64_t, int64_t, T, T*)
MIGE_INSTANTIATE_PANELS(float);
MIGE_INSTANTIATE_PANELS(double);

}  // namespace mige::cpu
