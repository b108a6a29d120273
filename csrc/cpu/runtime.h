// The threads and the eigendecomposition that the CPU code uses. bind/runtime.cpp implements them
// with torch and LAPACK.
#pragma once

#include <algorithm>

#include "common/math.h"
#include "cpu/interrupt.h"
#include "cpu/simd.h"

namespace mige::cpu {

void parallel_ranges(int64_t n, int64_t grain, void (*call)(const void*, int64_t, int64_t),
                     const void* f);

// Calls f(begin, end) for the ranges of a partition of [0, n), on the threads of torch. There are
// at most ⌈n / grain⌉ ranges. Inside another parallel call, everything runs on the calling thread.
template <typename F>
void parallel(int64_t n, int64_t grain, const F& f) {
  const auto call = [](const void* g, int64_t begin, int64_t end) {
    (*static_cast<const F*>(g))(begin, end);
  };
  parallel_ranges(n, grain, call, &f);
}

// Calls f(g) for every group.
template <typename F>
void for_each_group(int64_t groups, const F& f) {
  parallel(groups, 1, [&](int64_t begin, int64_t end) {
    for (int64_t g = begin; g < end; ++g) {
      poll_interrupt();
      f(g);
    }
  });
}

// The grain of loops over rows. To start a thread for fewer rows costs more time than it saves.
constexpr int64_t kRowGrain = 48;

// Calls f(begin, end) for blocks of rows of an upper triangle. A thread that takes a block of long
// rows also takes a block of short rows, so all threads have about the same work.
template <typename F>
void parallel_triangle(int64_t m, const F& f) {
  const int64_t blocks = divide_up(m, kRowGrain);
  const auto run = [&](int64_t b) { f(b * kRowGrain, std::min((b + 1) * kRowGrain, m)); };
  parallel((blocks + 1) / 2, 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      run(b);
      if (blocks - 1 - b > b) run(blocks - 1 - b);
    }
  });
}

// Calls f(begin, end) for blocks of rows of a matrix or, if `upper` is set, of its upper triangle.
template <typename F>
void parallel_rows(int64_t m, bool upper, const F& f) {
  if (upper)
    parallel_triangle(m, f);
  else
    parallel(m, kRowGrain, f);
}

// Decomposes one symmetric matrix, K = U diag(λ) Uᵀ, on one thread. The result is in the memory of
// `k`. After an exception `k` may have no memory.
template <typename T>
void eigh(Buffer<T>& k,  // [m, m]: K, of which the lower triangle is read; becomes Uᵀ
          int64_t m,
          T* values);  // [m], ascending

}  // namespace mige::cpu
