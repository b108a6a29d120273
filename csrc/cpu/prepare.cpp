// Preparation of the samples: range, centring, and the panel layout of the tile kernels.
#include <algorithm>
#include <limits>

#include "common/math.h"
#include "cpu/kernels.h"

namespace mige::cpu {
namespace {

template <int kBytes, typename T>
MIGE_INLINE T largest_magnitude_impl(const T* x, int64_t count) {
  // x − x is 0 for a finite x and NaN otherwise; one sum of them tells without a branch.
  T largest[kLanes<T>] = {};
  T poison[kLanes<T>] = {};
  int64_t i = 0;
  for (; i + kLanes<T> <= count; i += kLanes<T>) {
#pragma omp simd
    for (int64_t l = 0; l < kLanes<T>; ++l) {
      const T v = x[i + l];
      const T magnitude = v < T(0) ? -v : v;
      largest[l] = magnitude > largest[l] ? magnitude : largest[l];
      poison[l] += v - v;
    }
  }
  T result = 0, bad = 0;
  for (; i < count; ++i) {
    result = std::max(result, x[i] < T(0) ? -x[i] : x[i]);
    bad += x[i] - x[i];
  }
  for (int64_t l = 0; l < kLanes<T>; ++l) {
    result = std::max(result, largest[l]);
    bad += poison[l];
  }
  return bad == T(0) ? result : std::numeric_limits<T>::quiet_NaN();
}

template <int kBytes, typename T>
MIGE_INLINE void centre_impl(const T* x, int64_t m, int64_t d, T scale, T* centred) {
  const T* row[5];
  for (int64_t r = 0; r < 5; ++r) row[r] = x + r * (m - 1) / 4 * d;
  const Buffer<T> buffer(d);
  T* centre = buffer.get();
#pragma omp simd
  for (int64_t c = 0; c < d; ++c)
    centre[c] = scale * median_of_five(row[0][c], row[1][c], row[2][c], row[3][c], row[4][c]);
  for (int64_t i = 0; i < m; ++i) {
    const T* point = x + i * d;
    T* out = centred + i * d;
#pragma omp simd
    for (int64_t c = 0; c < d; ++c) out[c] = scale * point[c] - centre[c];
  }
}

template <int kBytes, typename T>
MIGE_INLINE void pack_columns_impl(const T* b, int64_t depth, int64_t n, T scale, T* panels) {
  for (int64_t j = 0; j < n; j += kLanes<T>) {
    const int64_t columns = std::min(kLanes<T>, n - j);
    for (int64_t c = 0; c < depth; ++c, panels += kLanes<T>) {
      for (int64_t l = 0; l < columns; ++l) panels[l] = scale * b[c * n + j + l];
      for (int64_t l = columns; l < kLanes<T>; ++l) panels[l] = T(0);
    }
  }
}

template <int kBytes, typename T>
MIGE_INLINE void pack_rows_impl(const T* x, int64_t n, int64_t depth, T scale, T* panels) {
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

}  // namespace

#define MIGE_DEFINE(T)                                                                        \
  MIGE_KERNEL(T, largest_magnitude, (const T* x, int64_t count), (x, count))                  \
  MIGE_KERNEL(void, centre, (const T* x, int64_t m, int64_t d, T scale, T* centred),          \
              (x, m, d, scale, centred))                                                      \
  MIGE_KERNEL(void, pack_columns, (const T* b, int64_t depth, int64_t n, T scale, T* panels), \
              (b, depth, n, scale, panels))                                                   \
  MIGE_KERNEL(void, pack_rows, (const T* x, int64_t n, int64_t depth, T scale, T* panels),    \
              (x, n, depth, scale, panels))
MIGE_DEFINE(float)
MIGE_DEFINE(double)
#undef MIGE_DEFINE

}  // namespace mige::cpu
