// Algorithms on one group of samples, cut into row ranges for threads: what the operators share.
//
// Runtime brings what the torch-free code does not do itself:
//   void parallel(n, grain, f)              f(begin, end) over a partition of [0, n)
//   void eigh(T* k, m, T* values, const T*& vectors)
//                                           ascending; vectors[i * m + j] is entry j of vector i
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "common/math.h"
#include "cpu/kernels.h"

namespace mige::cpu {

// f(begin, end) over row blocks, a long row of the upper triangle always with a short one.
template <typename Runtime, typename F>
void parallel_triangle(Runtime& runtime, int64_t m, const F& f) {
  const int64_t blocks = divide_up(m, kRowGrain);
  const auto run = [&](int64_t b) { f(b * kRowGrain, std::min((b + 1) * kRowGrain, m)); };
  runtime.parallel((blocks + 1) / 2, 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      run(b);
      if (blocks - 1 - b > b) run(blocks - 1 - b);
    }
  });
}

// scale² ‖x_i − x_j‖² for j >= i.
template <typename T, typename Runtime>
void upper_squared_distances(const T* x, int64_t m, int64_t d, T scale, T* s, Runtime& runtime) {
  const Buffer<T> panels(panels_size<T>(d, m));
  pack_rows(x, m, d, scale, panels.get());
  parallel_triangle(runtime, m, [&](int64_t begin, int64_t end) {
    squared_distance_rows(x, panels.get(), m, m, d, scale, true, s, begin, end);
  });
}

// scale² ‖x_i − y_j‖² for all pairs.
template <typename T, typename Runtime>
void squared_distances(const T* x, const T* y, int64_t m, int64_t n, int64_t d, T scale, T* s,
                       Runtime& runtime) {
  const Buffer<T> panels(panels_size<T>(d, n));
  pack_rows(y, n, d, scale, panels.get());
  runtime.parallel(m, kRowGrain, [&](int64_t begin, int64_t end) {
    squared_distance_rows(x, panels.get(), m, n, d, scale, false, s, begin, end);
  });
}

// The lower triangle from the upper one.
template <typename T, typename Runtime>
void mirror(T* k, int64_t m, Runtime& runtime) {
  parallel_triangle(runtime, m, [&](int64_t begin, int64_t end) { mirror_rows(k, m, begin, end); });
}

// The Gram matrix from squared distances above the diagonal, in place; then both triangles.
template <typename T, typename Runtime>
void upper_to_gram(T* k, int64_t m, T gamma, Runtime& runtime) {
  parallel_triangle(
      runtime, m, [&](int64_t begin, int64_t end) { rbf_rows(k, m, m, gamma, true, begin, end); });
  mirror(k, m, runtime);
}

template <typename T, typename Runtime>
void product(const T* a, bool transposed, const T* b, int64_t m, int64_t depth, int64_t n, T* c,
             Runtime& runtime) {
  const Buffer<T> panels(panels_size<T>(depth, n));
  pack_columns(b, depth, n, T(1), panels.get());
  runtime.parallel(m, kRowGrain, [&](int64_t begin, int64_t end) {
    product_rows(a, transposed, panels.get(), m, depth, n, c, begin, end);
  });
}

// H = −(K X − diag(K 1) X) / σ². Centre x first: an offset common to all samples cancels in exact
// arithmetic only.
template <typename T, typename Runtime>
void gradient_sum(const T* k, const T* x, int64_t m, int64_t d, T inverse_variance, T* h,
                  Runtime& runtime) {
  product(k, false, x, m, m, d, h, runtime);
  runtime.parallel(m, kRowGrain, [&](int64_t begin, int64_t end) {
    gradient_sum_rows(k, x, m, d, inverse_variance, h, begin, end);
  });
}

}  // namespace mige::cpu
