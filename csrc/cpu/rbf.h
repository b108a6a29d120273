// The RBF kernel of one group: the Gram matrix K, and the gradient sum H. Work for K: one
// exponential per entry, or half as many if only the upper triangle is computed. Work for H:
// 2 m² d flop for the product K X, and m² flop for the row sums K 1.
#pragma once

#include <algorithm>

#include "cpu/product.h"
#include "cpu/scaling.h"
#include "cpu/squared_distances.h"

namespace mige::cpu {

template <int kBytes, typename T>
MIGE_INLINE void rbf_rows_impl(T* k,  // [m, n]
                               int64_t n, T gamma, bool upper, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    T* row = k + i * n;
#pragma omp simd
    for (int64_t j = upper ? i : 0; j < n; ++j) row[j] = rbf(row[j], gamma);
  }
}

template <int kBytes, typename T>
MIGE_INLINE void gradient_sum_rows_impl(const T* k,  // [m, m]
                                        const T* x,  // [m, d]
                                        int64_t m, int64_t d, T inverse_variance,
                                        T* h,  // [m, d], K X before the call
                                        int64_t begin, int64_t end) {
  for (int64_t j = begin; j < end; ++j) {
    LaneSum<T> row_sum;
    for_lanes<T>(m, [&](int64_t i, int64_t l) { row_sum.lane[l] += k[j * m + i]; });
    const T sum = row_sum.total();
    const T* point = x + j * d;
    T* out = h + j * d;
#pragma omp simd
    for (int64_t c = 0; c < d; ++c) out[c] = inverse_variance * (sum * point[c] - out[c]);
  }
}

MIGE_KERNEL(rbf_rows, rbf_rows_impl)
MIGE_KERNEL(gradient_sum_rows, gradient_sum_rows_impl)

// Replaces squared distances k_ij by the Gram matrix exp(−γ k_ij). With `upper`, only the entries
// j >= i are read, and then mirrored.
template <typename T>
void to_gram(T* k,  // [m, n]
             int64_t m, int64_t n, bool upper, T gamma) {
  parallel_rows(m, upper,
                [&](int64_t begin, int64_t end) { rbf_rows(k, n, gamma, upper, begin, end); });
  if (upper) mirror(k, m);
}

// H = −(K X − diag(K 1) X) / σ². The caller centers x, because a common offset would add rounding
// errors.
template <typename T>
void gradient_sum(const T* k,  // [m, m]
                  const T* x,  // [m, d]
                  int64_t m, int64_t d, T inverse_variance,
                  T* h) {  // [m, d]
  product(k, false, x, m, m, d, h);
  parallel(m, kRowGrain, [&](int64_t begin, int64_t end) {
    gradient_sum_rows(k, x, m, d, inverse_variance, h, begin, end);
  });
}

}  // namespace mige::cpu
