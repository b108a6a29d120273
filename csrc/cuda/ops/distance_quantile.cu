// distance_quantile: an order statistic of the pairwise distances, the bandwidth rule.
#include <algorithm>

#include "cuda/launchers.h"
#include "cuda/rbf/pairwise.cuh"
#include "cuda/core/radix_selection.cuh"

namespace mige::cuda {
namespace {

// Groups at a time: each takes 16 KiB of counters and m² distances of work space.
constexpr int64_t kChunk = 4096;

template <typename T>
struct Layout {
  WorkSpace space;
  Key<T>* largest;
  Selection<T>* selections;
  Count* counts;
  T* s;

  Layout(void* work, int64_t groups, int64_t m)
      : space(work),
        largest(space.take<Key<T>>(groups)),
        selections(space.take<Selection<T>>(groups)),
        counts(space.take<Count>(groups * kDigits)),
        s(space.take<T>(groups * m * m)) {}
};

}  // namespace

template <typename T>
int64_t distance_quantile_work(int64_t groups, int64_t m) {
  return Layout<T>(nullptr, std::min(groups, kChunk), m).space.size();
}

template <typename T>
int distance_quantile(const T* x, int64_t groups, int64_t m, int64_t d, double quantile, T* out,
                      void* work, void* stream) {
  if (groups > kChunk) {
    int failed = 0;
    for (int64_t g = 0; g < groups && !failed; g += kChunk)
      failed = distance_quantile(x + g * m * d, std::min(kChunk, groups - g), m, d, quantile,
                                 out + g, work, stream);
    return failed;
  }
  if (groups == 0) return 0;
  const Layout<T> at(work, groups, m);
  int failed = largest_magnitudes<T>(x, m * d, nullptr, 0, groups, at.largest, stream);
  if (!failed)
    failed = pairwise<T, Pairwise::kScaledSquaredDistance>(x, nullptr, groups, m, m, d, at.largest,
                                                           nullptr, at.s, stream);
  if (!failed)
    failed = select_bandwidth(at.s, groups, m, quantile, 1.0, T(0), at.largest, at.selections,
                              at.counts, out, stream);
  return failed;
}

template int64_t distance_quantile_work<float>(int64_t, int64_t);
template int64_t distance_quantile_work<double>(int64_t, int64_t);
template int distance_quantile(const float*, int64_t, int64_t, int64_t, double, float*, void*,
                               void*);
template int distance_quantile(const double*, int64_t, int64_t, int64_t, double, double*, void*,
                               void*);

}  // namespace mige::cuda
