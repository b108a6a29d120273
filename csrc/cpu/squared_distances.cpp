// squared_distances on the CPU: out_ij = ‖x_i − y_j‖². squared_distances.h has layout and work.
#include "cpu/squared_distances.h"

#include <algorithm>
#include <limits>

#include "cpu/operators.h"
#include "cpu/panels.h"
#include "cpu/runtime.h"
#include "cpu/tile.h"

namespace mige::cpu {
namespace {

template <int kBytes, typename T>
MIGE_INLINE void squared_distance_rows_impl(const T* x,         // [m, d]
                                            const T* y_panels,  // [n, d] packed by rows
                                            int64_t n, int64_t d, T scale, bool upper,
                                            T* out,  // [m, n]
                                            int64_t begin, int64_t end) {
  const auto store = [=](int64_t i, int64_t rows, int64_t j, Vector<T, kBytes>* acc) {
    constexpr T kLargest = std::numeric_limits<T>::max();
    for (int r = 0; r < kTileRows; ++r)
      for (auto& piece : acc[r].piece)
        piece = piece > kLargest ? Piece<T, kBytes>{} + kLargest : piece;
    store_tile<kBytes, T>(acc, rows, n - j, out + i * n + j, n);
  };
  for_each_tile<kBytes>(Rows<T>{x, d}, Panels<T>{y_panels, panel_count<T>(n), d}, d, begin, end,
                        SquaredDifference<T>{scale}, upper, store);
}

template <int kBytes, typename T>
MIGE_INLINE void mirror_rows_impl(T* k, int64_t m, int64_t begin, int64_t end) {  // k [m, m]
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

MIGE_KERNEL(squared_distance_rows, squared_distance_rows_impl)
MIGE_KERNEL(mirror_rows, mirror_rows_impl)

}  // namespace

template <typename T>
void squared_distance_matrix(const T* x, const T* y, int64_t m, int64_t n, int64_t d, T scale,
                             T* s) {
  const Buffer<T> panels(panels_size<T>(d, n));
  pack_rows(y ? y : x, n, d, scale, panels.get());
  const auto rows = [&](int64_t begin, int64_t end) {
    squared_distance_rows(x, panels.get(), n, d, scale, !y, s, begin, end);
  };
  parallel_rows(m, !y, rows, 2 * n * d);
}

template <typename T>
void mirror(T* k, int64_t m) {  // k [m, m]
  parallel_triangle(m, [&](int64_t begin, int64_t end) { mirror_rows(k, m, begin, end); });
}

template <typename T>
void squared_distances(const PairwiseArguments<T>& p) {
  for_each_group(p.groups, [&](int64_t g) {
    const T* x = p.x + g * p.m * p.d;
    T* out = p.out + g * p.m * p.n;
    squared_distance_matrix(x, p.y ? p.y + g * p.n * p.d : nullptr, p.m, p.n, p.d, T(1), out);
    if (!p.y) mirror(out, p.m);
  });
}

MIGE_INSTANTIATE(squared_distances, PairwiseArguments);

#define MIGE_INSTANTIATE_DISTANCES(T)                                                          \
  template void squared_distance_matrix(const T*, const T*, int64_t, int64_t, int64_t, T, T*); \
  template void mirror(T*, int64_t)
MIGE_INSTANTIATE_DISTANCES(float);
MIGE_INSTANTIATE_DISTANCES(double);

}  // namespace mige::cpu
