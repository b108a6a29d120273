// Squared distances and the RBF Gram matrix.
//
// Work for m points against n in d dimensions: 3 m n d flop by direct differences (half of it with
// `upper`), against 2 m n d for ‖x‖² + ‖y‖² − 2 x·y, which loses every digit of close points.
#include <algorithm>
#include <limits>

#include "common/math.h"
#include "cpu/kernels.h"
#include "cpu/tile.h"

namespace mige::cpu {
namespace {

template <int kBytes, typename T>
MIGE_INLINE void squared_distance_rows_impl(const T* x, const T* y_panels, int64_t m, int64_t n,
                                            int64_t d, T scale, bool upper, T* out, int64_t begin,
                                            int64_t end) {
  (void)m;
  const auto first = [=](int64_t i) { return upper ? i / kLanes<T> : int64_t(0); };
  const auto store = [=](int64_t i, int64_t rows, int64_t p, Vector<T, kBytes>* acc) {
    const int64_t j = p * kLanes<T>;
    constexpr T kLargest = std::numeric_limits<T>::max();
    for (int r = 0; r < kTileRows; ++r)  // saturate: an infinite distance is no distance
      for (auto& piece : acc[r].piece)
        piece = piece > kLargest ? Piece<T, kBytes>{} + kLargest : piece;
    store_tile<kBytes, T>(acc, rows, n - j, out + i * n + j, n);
  };
  for_each_tile<kBytes>(Rows<T>{x, d}, y_panels, panel_count<T>(n), d, begin, end,
                        SquaredDifference<T>{scale}, first, store);
}

template <int kBytes, typename T>
MIGE_INLINE void rbf_rows_impl(T* k, int64_t m, int64_t n, T gamma, bool upper, int64_t begin,
                               int64_t end) {
  (void)m;
  for (int64_t i = begin; i < end; ++i) {
    T* row = k + i * n;
#pragma omp simd
    for (int64_t j = upper ? i : 0; j < n; ++j) row[j] = rbf(row[j], gamma);
  }
}

template <int kBytes, typename T>
MIGE_INLINE void mirror_rows_impl(T* k, int64_t m, int64_t begin, int64_t end) {
  constexpr int64_t kTile = 16;  // both tiles of a transposition stay in the first-level cache
  for (int64_t i0 = begin; i0 < end; i0 += kTile) {
    const int64_t i1 = std::min(i0 + kTile, end);
    for (int64_t j0 = 0; j0 < i1; j0 += kTile)
      for (int64_t i = i0; i < i1; ++i) {
        const int64_t j1 = std::min(j0 + kTile, i);
        for (int64_t j = j0; j < j1; ++j) k[i * m + j] = k[j * m + i];
      }
  }
}

}  // namespace

#define MIGE_DEFINE(T)                                                                        \
  MIGE_KERNEL(void, squared_distance_rows,                                                    \
              (const T* x, const T* y_panels, int64_t m, int64_t n, int64_t d, T scale,       \
               bool upper, T* out, int64_t begin, int64_t end),                               \
              (x, y_panels, m, n, d, scale, upper, out, begin, end))                          \
  MIGE_KERNEL(void, rbf_rows,                                                                 \
              (T * k, int64_t m, int64_t n, T gamma, bool upper, int64_t begin, int64_t end), \
              (k, m, n, gamma, upper, begin, end))                                            \
  MIGE_KERNEL(void, mirror_rows, (T * k, int64_t m, int64_t begin, int64_t end), (k, m, begin, end))
MIGE_DEFINE(float)
MIGE_DEFINE(double)
#undef MIGE_DEFINE

}  // namespace mige::cpu
