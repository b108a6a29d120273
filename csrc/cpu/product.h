// Matrix product C = A B or Aᵀ B, by the register tiles of tile.h. Work: 2 m n depth flop.
#pragma once

#include <algorithm>

#include "cpu/panels.h"
#include "cpu/runtime.h"
#include "cpu/tile.h"

namespace mige::cpu {

// c = a b, or aᵀ b with `transposed`.
template <int kBytes, typename T>
MIGE_INLINE void product_rows_impl(const T* a,  // [m, depth], or [depth, m] when transposed
                                   bool transposed,
                                   const T* b_panels,  // [depth, n] packed by columns
                                   int64_t m, int64_t depth, int64_t n,
                                   T* c,  // [m, n]
                                   int64_t begin, int64_t end) {
  const auto all = [](int64_t) { return int64_t(0); };
  // Rows of aᵀ are columns of a, whose elements are m apart. At m = 1024 that is 4 KiB, and the
  // elements evict each other from the cache. A block of these rows is therefore copied first, and
  // every panel reads the copy.
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

MIGE_KERNEL(product_rows, product_rows_impl)

// c = a b, or aᵀ b with `transposed`.
template <typename T>
void panel_product(const T* a,  // [m, depth], or [depth, m] when transposed
                   bool transposed,
                   const T* b_panels,  // [depth, n] packed by columns
                   int64_t m, int64_t depth, int64_t n,
                   T* c) {  // [m, n]
  parallel(m, kRowGrain, [&](int64_t begin, int64_t end) {
    product_rows(a, transposed, b_panels, m, depth, n, c, begin, end);
  });
}

// c = a b, or aᵀ b with `transposed`, from a row-major b [depth, n].
template <typename T>
void product(const T* a, bool transposed, const T* b, int64_t m, int64_t depth, int64_t n, T* c) {
  const Buffer<T> panels(panels_size<T>(depth, n));
  pack_columns(b, depth, n, T(1), panels.get());
  panel_product(a, transposed, panels.get(), m, depth, n, c);
}

}  // namespace mige::cpu
