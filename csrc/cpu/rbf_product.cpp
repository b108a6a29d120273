// rbf_product on the CPU: out = k(q, X) W with k(q, x) = exp(−‖q − x‖² / 2σ²), the Nyström
// extension.
//
// Layout: q [m, d] is read by rows, x [n, d] and w [n, p] in panels (panels.h). One tile of k at a
// time, 48 rows by 256 columns, is formed in the cache and multiplied by 256 rows of w. Work:
// m n (3 d + 2 p) flop and m n exponentials. Memory: O(n (d + p)) values.
#include <algorithm>

#include "cpu/operators.h"
#include "cpu/panels.h"
#include "cpu/runtime.h"
#include "cpu/scaling.h"
#include "cpu/tile.h"

namespace mige::cpu {
namespace {

template <int kBytes, typename T>
MIGE_INLINE void rbf_product_rows_impl(const T* q,         // [m, d]
                                       const T* x_panels,  // [n, d] packed by rows
                                       const T* w_panels,  // [n, p] packed by columns
                                       int64_t n, int64_t d, int64_t p, T scale, T gamma,
                                       T* out,  // [m, p]
                                       int64_t begin, int64_t end) {
  // A tile takes 48 KiB in float and 96 KiB in double, which fits the second-level cache.
  constexpr int64_t kColumns = kChunk;
  alignas(kVectorBytes) T tile[kBlockRows * kColumns];

  for (int64_t block = begin; block < end; block += kBlockRows) {
    const int64_t rows = std::min(kBlockRows, end - block);
    std::fill(out + block * p, out + (block + rows) * p, T(0));
    for (int64_t j0 = 0; j0 < n; j0 += kColumns) {
      const int64_t columns = std::min(kColumns, n - j0);
      const auto store_k = [&](int64_t i, int64_t tile_rows, int64_t j,
                               const Vector<T, kBytes>* acc) {
        for (int64_t r = 0; r < tile_rows; ++r) {
          T* lane = tile + (i + r) * kColumns + j;
          std::memcpy(lane, &acc[r], kVectorBytes);
#pragma omp simd
          for (int64_t l = 0; l < kLanes<T>; ++l) lane[l] = rbf(lane[l], gamma);
        }
      };
      const Panels<T> samples{x_panels + j0 * d, panel_count<T>(columns), d};
      for_each_tile<kBytes>(Rows<T>{q + block * d, d}, samples, d, int64_t(0), rows,
                            SquaredDifference<T>{scale}, false, store_k);

      // Each panel of w has n rows. The tile is multiplied by the rows j0 to j0 + columns − 1.
      const auto add = [=](int64_t i, int64_t tile_rows, int64_t c, const Vector<T, kBytes>* acc) {
        add_tile<kBytes, T>(acc, tile_rows, p - c, out + (block + i) * p + c, p);
      };
      const Panels<T> weights{w_panels + j0 * kLanes<T>, panel_count<T>(p), n};
      for_each_tile<kBytes>(Rows<T>{tile, kColumns}, weights, columns, int64_t(0), rows, Multiply{},
                            false, add);
    }
  }
}

MIGE_KERNEL(rbf_product_rows, rbf_product_rows_impl)

}  // namespace

template <typename T>
void rbf_product(const RbfProductArguments<T>& of) {
  const int64_t m = of.m, n = of.n, d = of.d, p = of.p;
  parallel(of.groups, 1, [&](int64_t first, int64_t last) {
    const Buffer<T> x_panels(panels_size<T>(d, n)), w_panels(panels_size<T>(n, p));
    for (int64_t g = first; g < last; ++g) {
      const T *q = of.q + g * m * d, *x = of.x + g * n * d;
      const T largest = std::max(largest_magnitude(q, m * d), largest_magnitude(x, n * d));
      const auto width = ScaledBandwidth<T>::of(of.bandwidth[g], largest);
      pack_rows(x, n, d, width.scale, x_panels.get());
      pack_columns(of.w + g * n * p, n, p, T(1), w_panels.get());
      const auto rows = [&](int64_t begin, int64_t end) {
        rbf_product_rows(q, x_panels.get(), w_panels.get(), n, d, p, width.scale, width.gamma,
                         of.out + g * m * p, begin, end);
      };
      parallel_rows(m, false, rows, n * (d + p));
    }
  });
}

MIGE_INSTANTIATE(rbf_product, RbfProductArguments);

}  // namespace mige::cpu
