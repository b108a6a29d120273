// Operations on rows and columns of a matrix: sums, the largest magnitude, centering and scaling.
// Work: one or two passes over the matrix.
#pragma once

#include <algorithm>
#include <limits>

#include "cpu/simd.h"

namespace mige::cpu {

// Calls f(j, l) for j = 0 … m − 1, with the lane l = j % kLanes.
template <typename T, typename F>
MIGE_INLINE void for_lanes(int64_t m, const F& f) {
  int64_t j = 0;
  for (; j + kLanes<T> <= m; j += kLanes<T>) {
#pragma omp simd
    for (int64_t l = 0; l < kLanes<T>; ++l) f(j + l, l);
  }
  for (int64_t l = 0; j + l < m; ++l) f(j + l, l);
}

// A sum in kLanes partial sums: term j is added to partial sum j % kLanes. The bits of the sum are
// therefore the same for AVX2 and AVX-512. (SSE2, without fused
// multiply-adds, gives other bits.)
template <typename T>
struct LaneSum {
  T lane[kLanes<T>] = {};

  template <typename Sum = T>
  Sum total() const {
    Sum sum = 0;
    for (int64_t l = 0; l < kLanes<T>; ++l) sum += static_cast<Sum>(lane[l]);
    return sum;
  }
};

// Σ_c x_c y_c, where the partial sums are added in the type Sum.
template <typename T, typename Sum = T>
MIGE_INLINE Sum dot(const T* x, const T* y, int64_t n) {  // x, y [n]
  LaneSum<T> sum;
  for_lanes<T>(n, [&](int64_t c, int64_t l) { sum.lane[l] += x[c] * y[c]; });
  return sum.template total<Sum>();
}

// The largest |x_i|, or NaN if some x_i is NaN or infinite.
template <int kBytes, typename T>
MIGE_INLINE T largest_magnitude_impl(const T* x, int64_t count) {  // x [count]
  // x − x is 0 for a finite x and NaN otherwise, so the sum of x − x detects NaN and infinity
  // without a branch.
  T largest[kLanes<T>] = {}, poison[kLanes<T>] = {};
  for_lanes<T>(count, [&](int64_t i, int64_t l) {
    const T v = x[i], magnitude = v < T(0) ? -v : v;
    largest[l] = magnitude > largest[l] ? magnitude : largest[l];
    poison[l] += v - v;
  });
  T result = 0, bad = 0;
  for (int64_t l = 0; l < kLanes<T>; ++l) {
    result = std::max(result, largest[l]);
    bad += poison[l];
  }
  return bad == T(0) ? result : std::numeric_limits<T>::quiet_NaN();
}

// centered = scale * x − scale * c, where c is the column-wise median of five rows. Unlike a mean,
// a median is not moved by a far outlier.
template <int kBytes, typename T>
MIGE_INLINE void center_impl(const T* x,  // [m, d]
                             int64_t m, int64_t d, T scale,
                             T* centered) {  // [m, d]
  const T* row[5];
  for (int64_t r = 0; r < 5; ++r) row[r] = x + r * (m - 1) / 4 * d;
  const Buffer<T> buffer(d);
  T* center = buffer.get();
#pragma omp simd
  for (int64_t c = 0; c < d; ++c)
    center[c] = scale * median_of_five(row[0][c], row[1][c], row[2][c], row[3][c], row[4][c]);
  for (int64_t i = 0; i < m; ++i) {
    const T* point = x + i * d;
    T* out = centered + i * d;
#pragma omp simd
    for (int64_t c = 0; c < d; ++c) out[c] = scale * point[c] - center[c];
  }
}

// Multiplies x_ij by the factor of its row (by_row) or of its column, and clamps the result to
// ±bound.
template <int kBytes, typename T>
MIGE_INLINE void scale_matrix_impl(T* x,  // [m, d]
                                   int64_t m, int64_t d,
                                   const T* factor,  // [m] or [d]
                                   bool by_row, T bound) {
  for (int64_t i = 0; i < m; ++i) {
    T* row = x + i * d;
#pragma omp simd
    for (int64_t c = 0; c < d; ++c) row[c] = clamped(row[c] * factor[by_row ? i : c], bound);
  }
}

MIGE_KERNEL(largest_magnitude, largest_magnitude_impl)
MIGE_KERNEL(center, center_impl)
MIGE_KERNEL(scale_matrix, scale_matrix_impl)

}  // namespace mige::cpu
