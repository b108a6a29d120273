// distance_quantile: an order statistic of the pairwise distances, the bandwidth rule.
#include <algorithm>

#include "cuda/core/radix_selection.cuh"
#include "cuda/launchers.h"
#include "cuda/rbf/pairwise.cuh"

namespace mige::cuda {
namespace {

// Groups at a time: each takes 16 KiB of counters and m² distances of workspace.
constexpr int64_t kChunk = 4096;

template <typename T>
struct Layout {
  Workspace space;
  Key<T>* largest;
  Selection<T>* selections;
  Count* counts;  // [groups, kDigits]
  T* s;           // [groups, m, m]

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
                      void* work, void* cuda_stream) {
  Stream stream(cuda_stream);
  for (int64_t g = 0; g < groups; g += kChunk) {
    const int64_t count = std::min(kChunk, groups - g);
    const T* const points = x + g * m * d;
    const Layout<T> at(work, count, m);
    largest_magnitudes<T>(points, m * d, nullptr, 0, count, at.largest, stream);
    pairwise<T, Pairwise::kScaledSquaredDistance>(points, nullptr, count, m, m, d, at.largest,
                                                  nullptr, at.s, stream);
    select_bandwidth(at.s, count, m, quantile, 1.0, T(0), at.largest, at.selections, at.counts,
                     out + g, stream);
  }
  return stream.status();
}

MIGE_INSTANTIATE(distance_quantile_work);
MIGE_INSTANTIATE(distance_quantile);

}  // namespace mige::cuda
