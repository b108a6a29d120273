// distance_quantile: the distance of rank ceil(quantile m (m − 1) / 2) among the pairs of each
// group of x [groups, m, d]. pairwise.cuh computes the squared distances s [m, m], with 1.5 m² d
// flop. radix_selection.cuh selects one of them, with m² / 2 reads per round.
#include "cuda/core/radix_selection.cuh"
#include "cuda/launchers.h"
#include "cuda/rbf/pairwise.cuh"

namespace mige::cuda {
namespace {

// The number of groups that are computed at a time. The workspace of a group is 16 KiB of counts
// and m² distances.
constexpr int64_t kChunk = 4096;

template <typename T>
struct Layout : Workspace {
  int64_t groups, m;
  Key<T>* largest = take<Key<T>>(groups);
  Selection<T>* selections = take<Selection<T>>(groups);
  Count* counts = take<Count>(groups * kDigits);
  T* s = take<T>(groups * m * m);
};

}  // namespace

template <typename T>
int64_t distance_quantile_work(const DistanceQuantileArguments<T>& p) {
  return Layout<T>{Workspace(nullptr), at_most(p.groups, kChunk), p.m}.size();
}

template <typename T>
int distance_quantile(const DistanceQuantileArguments<T>& p, void* work, void* cuda_stream) {
  Stream stream(cuda_stream);
  const int64_t m = p.m, d = p.d;
  for (int64_t g = 0; g < p.groups; g += kChunk) {
    const int64_t count = at_most(p.groups - g, kChunk);
    const T* const x = p.x + g * m * d;
    const Layout<T> at{Workspace(work), count, m};
    largest_magnitudes<T>(x, m * d, nullptr, 0, count, at.largest, stream);
    pairwise<T, Pairwise::kScaledSquaredDistance>(pairs_of(x, count, m, d, at.s), at.largest,
                                                  stream);
    select_bandwidth(at.s, count, m, p.quantile, 1.0, T(0), at.largest, at.selections, at.counts,
                     p.out + g, stream);
  }
  return stream.status();
}

MIGE_INSTANTIATE(distance_quantile);

}  // namespace mige::cuda
