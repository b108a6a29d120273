// The parts of the inverse of a symmetric matrix: the block on the diagonal, and the update of the
// rest.
#include <cmath>
#include <limits>

#include "cpu/kernels.h"
#include "cpu/tile.h"

namespace mige::cpu {
namespace {

template <int kBytes, typename T>
MIGE_INLINE void add_product_rows_impl(const T* x, const T* p_panels, int64_t n, int64_t depth,
                                       bool upper, T* a, int64_t stride, int64_t begin,
                                       int64_t end) {
  const auto first = [=](int64_t i) { return upper ? i / kLanes<T> : int64_t(0); };
  const auto store = [=](int64_t i, int64_t rows, int64_t p, const Vector<T, kBytes>* acc) {
    const int64_t j = p * kLanes<T>;
    for (int64_t r = 0; r < rows; ++r) {
      T* out = a + (i + r) * stride + j;
      const T* lane = reinterpret_cast<const T*>(&acc[r]);
      if (n - j >= kLanes<T>) {
#pragma omp simd
        for (int64_t l = 0; l < kLanes<T>; ++l) out[l] += lane[l];
      } else {
        for (int64_t l = 0; l < n - j; ++l) out[l] += lane[l];
      }
    }
  };
  for_each_tile<kBytes>(Rows<T>{x, depth}, p_panels, panel_count<T>(n), depth, begin, end,
                        Multiply{}, first, store);
}

template <int kBytes, typename T>
MIGE_INLINE void invert_factor_impl(T* a, int64_t n, T* t) {
  constexpr T kSmallest = std::numeric_limits<T>::epsilon();
  for (int64_t k = 0; k < n; ++k) {
    T* pivot = a + k * n;
    const T root = std::sqrt(pivot[k] > kSmallest ? pivot[k] : kSmallest), inverse = T(1) / root;
    pivot[k] = root;
    for (int64_t j = k + 1; j < n; ++j) pivot[j] *= inverse;
    for (int64_t i = k + 1; i < n; ++i) {
      T* row = a + i * n;
      const T factor = pivot[i];
#pragma omp simd
      for (int64_t j = i; j < n; ++j) row[j] -= factor * pivot[j];
    }
  }
  // T_i = (e_i − Σ_{k>i} U_ik T_k) / U_ii, from the last row to the first.
  for (int64_t i = n - 1; i >= 0; --i) {
    T* row = t + i * n;
    for (int64_t j = 0; j < n; ++j) row[j] = T(0);
    for (int64_t k = i + 1; k < n; ++k) {
      const T *other = t + k * n, factor = a[i * n + k];
#pragma omp simd
      for (int64_t j = k; j < n; ++j) row[j] -= factor * other[j];
    }
    const T inverse = T(1) / a[i * n + i];
    for (int64_t j = i + 1; j < n; ++j) row[j] *= inverse;
    row[i] = inverse;
  }
}

}  // namespace

#define MIGE_DEFINE(T)                                                                    \
  MIGE_KERNEL(void, add_product_rows,                                                     \
              (const T* x, const T* p_panels, int64_t n, int64_t depth, bool upper, T* a, \
               int64_t stride, int64_t begin, int64_t end),                               \
              (x, p_panels, n, depth, upper, a, stride, begin, end))                      \
  MIGE_KERNEL(void, invert_factor, (T * a, int64_t n, T* t), (a, n, t))
MIGE_DEFINE(float)
MIGE_DEFINE(double)
#undef MIGE_DEFINE

}  // namespace mige::cpu
