// The parts of a symmetric inverse: the pivot block, and the update of the rest.
#include "kernels.h"
#include "tile.h"

namespace mige::cpu {
namespace {

template <int kBytes, typename T>
MIGE_INLINE void subtract_product_rows_impl(const T* x, const T* c_panels, int64_t m, int64_t depth,
                                            T* a, int64_t begin, int64_t end) {
  const auto first = [](int64_t i) { return i / kLanes<T>; };
  const auto store = [=](int64_t i, int64_t rows, int64_t p, const Vector<T, kBytes>* acc) {
    const int64_t j = p * kLanes<T>;
    const int64_t columns = m - j < kLanes<T> ? m - j : kLanes<T>;
    for (int64_t r = 0; r < rows; ++r) {
      T* out = a + (i + r) * m + j;
      const T* lane = reinterpret_cast<const T*>(&acc[r]);
      if (columns == kLanes<T>) {
#pragma omp simd
        for (int64_t l = 0; l < kLanes<T>; ++l) out[l] -= lane[l];
      } else {
        for (int64_t l = 0; l < columns; ++l) out[l] -= lane[l];
      }
    }
  };
  for_each_tile<kBytes>(Rows<T>{x, depth}, c_panels, panel_count<T>(m), depth, begin, end,
                        Multiply{}, first, store);
}

template <int kBytes, typename T>
MIGE_INLINE void negative_inverse_impl(T* p, int64_t n) {
  const Buffer<T> buffer(n);
  T* row = buffer.get();
  for (int64_t k = 0; k < n; ++k) {
    std::memcpy(row, p + k * n, static_cast<size_t>(n) * sizeof(T));
    const T inverse = T(1) / row[k];
    for (int64_t i = 0; i < n; ++i) {
      if (i == k) continue;
      T* out = p + i * n;
      const T factor = out[k] * inverse;
#pragma omp simd
      for (int64_t j = 0; j < n; ++j) out[j] -= factor * row[j];
      out[k] = factor;
    }
    T* out = p + k * n;
#pragma omp simd
    for (int64_t j = 0; j < n; ++j) out[j] = inverse * row[j];
    out[k] = -inverse;
  }
}

}  // namespace

#define MIGE_DEFINE(T)                                                                             \
  MIGE_KERNEL(                                                                                     \
      void, subtract_product_rows,                                                                 \
      (const T* x, const T* c_panels, int64_t m, int64_t depth, T* a, int64_t begin, int64_t end), \
      (x, c_panels, m, depth, a, begin, end))                                                      \
  MIGE_KERNEL(void, negative_inverse, (T * p, int64_t n), (p, n))
MIGE_DEFINE(float)
MIGE_DEFINE(double)
#undef MIGE_DEFINE

}  // namespace mige::cpu
