// The exponential of the Gram matrix of one group, in place of the squared distances. Work: one
// exponential an entry, half as many where only the upper triangle is computed.
#pragma once

#include <algorithm>

#include "cpu/squared_distances.h"

namespace mige::cpu {

template <int kBytes, typename T>
MIGE_INLINE void rbf_rows_impl(T* k, int64_t n, T gamma, bool upper, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    T* row = k + i * n;
#pragma omp simd
    for (int64_t j = upper ? i : 0; j < n; ++j) row[j] = rbf(row[j], gamma);
  }
}

MIGE_KERNEL(rbf_rows, rbf_rows_impl)

// The Gram matrix exp(−γ k_ij) from squared distances above the diagonal, in place.
template <typename T>
void upper_to_gram(T* k,  // [m, m]
                   int64_t m, T gamma) {
  parallel_triangle(m,
                    [&](int64_t begin, int64_t end) { rbf_rows(k, m, gamma, true, begin, end); });
  mirror(k, m);
}

}  // namespace mige::cpu
