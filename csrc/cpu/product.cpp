// Matrix products: plain, the gradient sum H, and k(q, X) W with k formed tile by tile.
#include <algorithm>
#include <limits>

#include "common/math.h"
#include "cpu/kernels.h"
#include "cpu/tile.h"

namespace mige::cpu {
namespace {

template <int kBytes, typename T>
MIGE_INLINE void product_rows_impl(const T* a, bool transposed, const T* b_panels, int64_t m,
                                   int64_t depth, int64_t n, T* c, int64_t begin, int64_t end) {
  const auto all = [](int64_t) { return int64_t(0); };
  // Rows of aᵀ are columns of a, m apart: 4 KiB at m = 1024, where they evict each other from the
  // cache. A block of them is copied out first, and read by every panel.
  const Buffer<T> block_rows(transposed ? kBlockRows * depth : 0);
  for (int64_t block = begin; block < end; block += kBlockRows) {
    const int64_t rows = std::min(kBlockRows, end - block);
    const T* source = a + block * depth;
    if (transposed) {
      for (int64_t k = 0; k < depth; ++k)
        for (int64_t r = 0; r < rows; ++r) block_rows.get()[r * depth + k] = a[k * m + block + r];
      source = block_rows.get();
    }
    const auto store = [=](int64_t i, int64_t tile_rows, int64_t p, const Vector<T, kBytes>* acc) {
      const int64_t j = p * kLanes<T>;
      store_tile<kBytes, T>(acc, tile_rows, n - j, c + (block + i) * n + j, n);
    };
    for_each_tile<kBytes>(Rows<T>{source, depth}, b_panels, panel_count<T>(n), depth, int64_t(0),
                          rows, Multiply{}, all, store);
  }
}

template <int kBytes, typename T>
MIGE_INLINE void gradient_sum_rows_impl(const T* k, const T* x, int64_t m, int64_t d,
                                        T inverse_variance, T* h, int64_t begin, int64_t end) {
  for (int64_t j = begin; j < end; ++j) {
    // The row sum in fixed lanes: the same bits for every vector width.
    T lane[kLanes<T>] = {};
    const T* row = k + j * m;
    int64_t i = 0;
    for (; i + kLanes<T> <= m; i += kLanes<T>) {
#pragma omp simd
      for (int64_t l = 0; l < kLanes<T>; ++l) lane[l] += row[i + l];
    }
    T sum = 0;
    for (; i < m; ++i) sum += row[i];
    for (int64_t l = 0; l < kLanes<T>; ++l) sum += lane[l];

    const T* point = x + j * d;
    T* out = h + j * d;
#pragma omp simd
    for (int64_t c = 0; c < d; ++c) out[c] = inverse_variance * (sum * point[c] - out[c]);
  }
}

template <int kBytes, typename T>
MIGE_INLINE void kernel_product_rows_impl(const T* q, const T* x_panels, const T* w_panels,
                                          int64_t m, int64_t n, int64_t d, int64_t p, T scale,
                                          T gamma, T* out, int64_t begin, int64_t end) {
  (void)m;
  // A tile of k: kBlockRows x kColumns values, 48 KiB of float at most, in the second-level cache.
  constexpr int64_t kColumns = kChunk;
  alignas(kVectorBytes) T tile[kBlockRows * kColumns];

  for (int64_t block = begin; block < end; block += kBlockRows) {
    const int64_t rows = std::min(kBlockRows, end - block);
    std::fill(out + block * p, out + (block + rows) * p, T(0));
    for (int64_t j0 = 0; j0 < n; j0 += kColumns) {
      const int64_t columns = std::min(kColumns, n - j0);
      const auto all = [](int64_t) { return int64_t(0); };
      const auto store_k = [&](int64_t i, int64_t tile_rows, int64_t panel,
                               const Vector<T, kBytes>* acc) {
        for (int64_t r = 0; r < tile_rows; ++r) {
          T* lane = tile + (i + r) * kColumns + panel * kLanes<T>;
          std::memcpy(lane, &acc[r], kVectorBytes);
#pragma omp simd
          for (int64_t l = 0; l < kLanes<T>; ++l) lane[l] = rbf(lane[l], gamma);
        }
      };
      for_each_tile<kBytes>(Rows<T>{q + block * d, d}, x_panels + j0 * d, panel_count<T>(columns),
                            d, int64_t(0), rows, SquaredDifference<T>{scale}, all, store_k);

      // The panels of w are n deep; this tile meets rows j0 .. j0 + columns of each.
      for (int64_t panel = 0; panel < panel_count<T>(p); ++panel) {
        const T* w = w_panels + (panel * n + j0) * kLanes<T>;
        const int64_t width = std::min(kLanes<T>, p - panel * kLanes<T>);
        for (int64_t i = 0; i < rows; i += kTileRows) {
          Vector<T, kBytes> acc[kTileRows];
          accumulate_tile(Rows<T>{tile, kColumns}, i, rows - 1, w, columns, Multiply{}, acc);
          for (int64_t r = 0; r < std::min<int64_t>(kTileRows, rows - i); ++r) {
            T* target = out + (block + i + r) * p + panel * kLanes<T>;
            const T* lane = reinterpret_cast<const T*>(&acc[r]);
            for (int64_t l = 0; l < width; ++l) target[l] += lane[l];
          }
        }
      }
    }
  }
}

template <int kBytes, typename T>
MIGE_INLINE void scale_rows_impl(T* x, int64_t m, int64_t d, const T* scale, T bound) {
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

template <int kBytes, typename T>
MIGE_INLINE void scale_columns_impl(T* x, int64_t m, int64_t d, const T* scale) {
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

}  // namespace

#define MIGE_DEFINE(T)                                                                            \
  MIGE_KERNEL(void, product_rows,                                                                 \
              (const T* a, bool transposed, const T* b_panels, int64_t m, int64_t depth,          \
               int64_t n, T* c, int64_t begin, int64_t end),                                      \
              (a, transposed, b_panels, m, depth, n, c, begin, end))                              \
  MIGE_KERNEL(void, gradient_sum_rows,                                                            \
              (const T* k, const T* x, int64_t m, int64_t d, T inverse_variance, T* h,            \
               int64_t begin, int64_t end),                                                       \
              (k, x, m, d, inverse_variance, h, begin, end))                                      \
  MIGE_KERNEL(void, kernel_product_rows,                                                          \
              (const T* q, const T* x_panels, const T* w_panels, int64_t m, int64_t n, int64_t d, \
               int64_t p, T scale, T gamma, T* out, int64_t begin, int64_t end),                  \
              (q, x_panels, w_panels, m, n, d, p, scale, gamma, out, begin, end))                 \
  MIGE_KERNEL(void, scale_rows, (T * x, int64_t m, int64_t d, const T* scale, T bound),           \
              (x, m, d, scale, bound))                                                            \
  MIGE_KERNEL(void, scale_columns, (T * x, int64_t m, int64_t d, const T* scale), (x, m, d, scale))
MIGE_DEFINE(float)
MIGE_DEFINE(double)
#undef MIGE_DEFINE

}  // namespace mige::cpu
