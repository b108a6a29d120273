// Standardised samples, the first step of whitening.
#include <algorithm>
#include <cmath>

#include "common/math.h"
#include "cpu/kernels.h"

namespace mige::cpu {
namespace {

// Offsets are taken from the first row, and every column is brought near 1 by a power of two: the
// sums then neither cancel nor leave the range, whatever the size of a column and of its offset.
template <int kBytes, typename T>
MIGE_INLINE void standardise_impl(const T* x, int64_t m, int64_t d, T scale, T* v, T* mean,
                                  T* inverse) {
  const Buffer<double> buffer(4 * d);
  double* const largest = buffer.get();
  double* const unit = largest + d;
  double* const sum = unit + d;
  double* const square = sum + d;
  const double exact = static_cast<double>(scale);
  std::fill(largest, largest + 4 * d, 0.0);
  const auto offset = [=](int64_t i, int64_t c) {
    return exact * static_cast<double>(x[i * d + c]) - exact * static_cast<double>(x[c]);
  };
  for (int64_t i = 0; i < m; ++i) {
#pragma omp simd
    for (int64_t c = 0; c < d; ++c) {
      const double t = offset(i, c), magnitude = t < 0 ? -t : t;
      largest[c] = magnitude > largest[c] ? magnitude : largest[c];
    }
  }
  for (int64_t c = 0; c < d; ++c) unit[c] = power_of_two<double>(-exponent_of(largest[c]));
  for (int64_t i = 0; i < m; ++i) {
#pragma omp simd
    for (int64_t c = 0; c < d; ++c) sum[c] += unit[c] * offset(i, c);
  }
  const double share = 1 / static_cast<double>(m);
  for (int64_t c = 0; c < d; ++c) sum[c] *= share;
  for (int64_t i = 0; i < m; ++i) {
#pragma omp simd
    for (int64_t c = 0; c < d; ++c) {
      const double t = unit[c] * offset(i, c) - sum[c];
      square[c] += t * t;
    }
  }
  for (int64_t c = 0; c < d; ++c) {
    const double deviation = std::sqrt(square[c] * share);
    square[c] = largest[c] > 0 ? 1 / deviation : 0;
    inverse[c] = saturate<T>(square[c] * unit[c] * exact);
    mean[c] = saturate<T>(static_cast<double>(x[c]) + sum[c] / unit[c] / exact);
  }
  for (int64_t i = 0; i < m; ++i) {
#pragma omp simd
    for (int64_t c = 0; c < d; ++c)
      v[i * d + c] = static_cast<T>((unit[c] * offset(i, c) - sum[c]) * square[c]);
  }
}

}  // namespace

#define MIGE_DEFINE(T)                                                                \
  MIGE_KERNEL(void, standardise,                                                      \
              (const T* x, int64_t m, int64_t d, T scale, T* v, T* mean, T* inverse), \
              (x, m, d, scale, v, mean, inverse))
MIGE_DEFINE(float)
MIGE_DEFINE(double)
#undef MIGE_DEFINE

}  // namespace mige::cpu
