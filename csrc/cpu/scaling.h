// Range and offset of the samples: the largest magnitude, centering, and the multiplication of rows
// or columns by factors. Work: one or two passes over the matrix.
#pragma once

#include <algorithm>
#include <limits>

#include "cpu/simd.h"

namespace mige::cpu {

// The largest |x_i|, or NaN where some x_i is NaN or infinite.
template <int kBytes, typename T>
MIGE_INLINE T largest_magnitude_impl(const T* x, int64_t count) {
  // x − x is 0 for a finite x and NaN otherwise, so a sum of them finds a NaN without a branch.
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

// centerd = scale * x − scale * c, with c the column-wise median of five rows. This removes an
// offset common to all samples. A median, unlike a mean, is not moved by a far outlier.
template <int kBytes, typename T>
MIGE_INLINE void center_impl(const T* x,  // [m, d]
                             int64_t m, int64_t d, T scale,
                             T* centerd) {  // [m, d]
  const T* row[5];
  for (int64_t r = 0; r < 5; ++r) row[r] = x + r * (m - 1) / 4 * d;
  const Buffer<T> buffer(d);
  T* center = buffer.get();
#pragma omp simd
  for (int64_t c = 0; c < d; ++c)
    center[c] = scale * median_of_five(row[0][c], row[1][c], row[2][c], row[3][c], row[4][c]);
  for (int64_t i = 0; i < m; ++i) {
    const T* point = x + i * d;
    T* out = centerd + i * d;
#pragma omp simd
    for (int64_t c = 0; c < d; ++c) out[c] = scale * point[c] - center[c];
  }
}

// x_ij *= scale_i, kept within ±bound.
template <int kBytes, typename T>
MIGE_INLINE void scale_rows_impl(T* x,  // [m, d]
                                 int64_t m, int64_t d,
                                 const T* scale,  // [m]
                                 T bound) {
  for (int64_t i = 0; i < m; ++i) {
    T* row = x + i * d;
    const T factor = scale[i];
#pragma omp simd
    for (int64_t c = 0; c < d; ++c) {
      const T v = row[c] * factor;
      row[c] = v > bound ? bound : (v < -bound ? -bound : v);
    }
  }
}

// x_ij *= scale_j, kept within the range.
template <int kBytes, typename T>
MIGE_INLINE void scale_columns_impl(T* x,  // [m, d]
                                    int64_t m, int64_t d,
                                    const T* scale) {  // [d]
  constexpr T kBound = std::numeric_limits<T>::max();
  for (int64_t i = 0; i < m; ++i) {
    T* row = x + i * d;
#pragma omp simd
    for (int64_t c = 0; c < d; ++c) {
      const T v = row[c] * scale[c];
      row[c] = v > kBound ? kBound : (v < -kBound ? -kBound : v);
    }
  }
}

MIGE_KERNEL(largest_magnitude, largest_magnitude_impl)
MIGE_KERNEL(center, center_impl)
MIGE_KERNEL(scale_rows, scale_rows_impl)
MIGE_KERNEL(scale_columns, scale_columns_impl)

}  // namespace mige::cpu
