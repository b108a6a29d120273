// The threads and the eigendecomposition that the CPU code uses. bind/runtime.cpp implements them
// with torch and LAPACK.
#pragma once

#include <algorithm>

#include "common/math.h"
#include "cpu/interrupt.h"
#include "cpu/simd.h"

namespace mige::cpu {

// A *grain* is the smallest range of a parallel loop that is worth the start of a thread. In a
// loop over rows, a grain has this number of rows.
constexpr int64_t kRowGrain = 48;

// The largest number of grains after which a thread polls for Ctrl-C.
constexpr int64_t kPollGrains = 16;

// The number of grains between polls in a loop over rows that take `work` multiply-adds each, so
// that a thread polls after about 5e9 multiply-adds (0.2 s).
constexpr int64_t row_poll_grains(int64_t work) {
  return std::clamp<int64_t>(5'000'000'000 / (kRowGrain * work + 1), 1, kPollGrains);
}

void parallel_ranges(int64_t n, int64_t grain, int64_t step,
                     void (*call)(const void*, int64_t, int64_t), const void* f);

// Calls f(begin, end) for the ranges of a partition of [0, n), on the threads of torch, or on the
// calling thread inside another parallel call. A thread polls for Ctrl-C between ranges of at most
// `poll_grains` grains.
template <typename F>
void parallel(int64_t n, int64_t grain, const F& f, int64_t poll_grains = kPollGrains) {
  if (n <= 0) return;
  if (n <= grain) {  // one range, for which torch's loop would only add time
    poll_interrupt();
    return f(int64_t(0), n);
  }
  const auto call = [](const void* g, int64_t begin, int64_t end) {
    (*static_cast<const F*>(g))(begin, end);
  };
  parallel_ranges(n, grain, poll_grains * grain, call, &f);
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

// Calls f(begin, end) for blocks of rows of an upper triangle. A thread that takes a block of long
// rows also takes a block of short rows, so all threads have about the same work.
template <typename F>
void parallel_triangle(int64_t m, const F& f, int64_t work = 0) {
  const int64_t blocks = divide_up(m, kRowGrain);
  const auto run = [&](int64_t b) { f(b * kRowGrain, std::min((b + 1) * kRowGrain, m)); };
  const auto pairs = [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      run(b);
      if (blocks - 1 - b > b) run(blocks - 1 - b);
    }
  };
  parallel((blocks + 1) / 2, 1, pairs, row_poll_grains(work));
}

// Calls f(begin, end) for blocks of rows of a matrix or, if `upper` is set, of its upper triangle.
// `work` is the number of multiply-adds of a row of the whole matrix, if it is large.
template <typename F>
void parallel_rows(int64_t m, bool upper, const F& f, int64_t work = 0) {
  if (upper)
    parallel_triangle(m, f, work);
  else
    parallel(m, kRowGrain, f, row_poll_grains(work));
}

// Decomposes one symmetric matrix, K = U diag(λ) Uᵀ, on one thread. `k` is invalid after an
// exception.
template <typename T>
void eigh(Buffer<T>& k,  // [m, m]: K, of which the lower triangle is read; becomes Uᵀ
          int64_t m,
          T* values);  // [m], ascending

}  // namespace mige::cpu
