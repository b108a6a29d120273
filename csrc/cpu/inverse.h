// Inverse of a symmetric positive definite matrix in its own memory, by blocks of pivots.
//
// For each block of pivots, with C the columns of the block and P the block itself:
//
//   X = C P^{−1},   A_ij −= X_i · C_j,   A_iK = X_i,   A_KK = −P^{−1}
//
// which after the last block leaves −A^{−1}. Only the upper triangle is kept up to date. Work: m³
// flop, nearly all of it matrix products, as much as Cholesky and the inverse from its factor,
// whose triangular parts leave LAPACK at a third of this speed for m = 256.
#pragma once

#include "group.h"

namespace mige::cpu {

// Pivots of a block: wide enough to read and write the matrix seldom, and small against it.
constexpr int64_t kPivots = 32;
constexpr int64_t kManyPivots = 64;
constexpr int64_t kManyRows = 512;  // from here on

template <typename T, typename Runtime>
void invert(T* a,  // [m, m]: the upper triangle is read, both are written
            int64_t m, Runtime& runtime) {
  const int64_t width = m < kManyRows ? kPivots : kManyPivots;
  const Buffer<T> c(m * width), x(m * width), pivot(width * width);
  const Buffer<T> panels(panels_size<T>(width, m));
  for (int64_t k0 = 0; k0 < m; k0 += width) {
    const int64_t b = std::min(width, m - k0), k1 = k0 + b;
    T* const p = pivot.get();
    for (int64_t r = 0; r < b; ++r)
      for (int64_t s = r; s < b; ++s) p[r * b + s] = p[s * b + r] = a[(k0 + r) * m + k0 + s];
    negative_inverse(p, b);
    for (int64_t i = 0; i < k0; ++i) std::copy_n(a + i * m + k0, b, c.get() + i * b);
    std::fill(c.get() + k0 * b, c.get() + k1 * b, T(0));  // the block itself stays as it is
    for (int64_t r = 0; r < b; ++r)
      for (int64_t i = k1; i < m; ++i) c.get()[i * b + r] = a[(k0 + r) * m + i];

    product(c.get(), false, p, m, b, b, x.get(), runtime);  // −X
    pack_rows(c.get(), m, b, T(-1), panels.get());
    parallel_triangle(runtime, m, [&](int64_t begin, int64_t end) {
      subtract_product_rows(x.get(), panels.get(), m, b, a, begin, end);
    });
    for (int64_t i = 0; i < k0; ++i)
      for (int64_t r = 0; r < b; ++r) a[i * m + k0 + r] = -x.get()[i * b + r];
    for (int64_t r = 0; r < b; ++r) {
      for (int64_t s = r; s < b; ++s) a[(k0 + r) * m + k0 + s] = p[r * b + s];
      for (int64_t i = k1; i < m; ++i) a[(k0 + r) * m + i] = -x.get()[i * b + r];
    }
  }
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = i; j < m; ++j) a[i * m + j] = -a[i * m + j];
  mirror(a, m, runtime);
}

}  // namespace mige::cpu
