// Matrix product C = A B or Aᵀ B, by the register tiles of tile.h. Work: 2 m n depth flop.
#pragma once

#include "cpu/panels.h"
#include "cpu/runtime.h"

namespace mige::cpu {

// Whether a product replaces c or is added to c. kAddUpper adds only the entries j >= i, and leaves
// undefined entries below the diagonal.
enum class Update { kReplace, kAdd, kAddUpper };

// Rows [begin, end) of c = a b, or of aᵀ b with `transposed` (product.cpp).
template <typename T>
void product_rows(const T* a,  // [m, depth], or [depth, m] when transposed
                  bool transposed,
                  const T* b_panels,  // [depth, n] packed by columns
                  int64_t m, int64_t depth, int64_t n, Update update,
                  T* c,  // [m, n], its rows `stride` apart
                  int64_t stride, int64_t begin, int64_t end);

// c = a b, or aᵀ b with `transposed`.
template <typename T>
void panel_product(const T* a,  // [m, depth], or [depth, m] when transposed
                   bool transposed,
                   const T* b_panels,  // [depth, n] packed by columns
                   int64_t m, int64_t depth, int64_t n,
                   T* c) {  // [m, n]
  const auto rows = [&](int64_t begin, int64_t end) {
    product_rows(a, transposed, b_panels, m, depth, n, Update::kReplace, c, n, begin, end);
  };
  parallel_rows(m, false, rows, depth * n);
}

// c = a b, or aᵀ b with `transposed`, where b is row-major.
template <typename T>
void product(const T* a,  // [m, depth], or [depth, m] when transposed
             bool transposed,
             const T* b,  // [depth, n]
             int64_t m, int64_t depth, int64_t n,
             T* c) {  // [m, n]
  const Buffer<T> panels(panels_size<T>(depth, n));
  pack_columns(b, depth, n, T(1), panels.get());
  panel_product(a, transposed, panels.get(), m, depth, n, c);
}

}  // namespace mige::cpu
