// squared_distances: ‖x_i − y_j‖² for all pairs of rows.
#include "cuda/launchers.h"
#include "cuda/rbf/pairwise.cuh"

namespace mige::cuda {

template <typename T>
int squared_distances(const T* x, const T* y, int64_t groups, int64_t m, int64_t n, int64_t d,
                      T* out, void* work, void* stream) {
  if (groups == 0 || m == 0 || n == 0) return 0;
  auto* const largest = WorkSpace(work).take<Key<T>>(groups);
  const int failed = largest_magnitudes(x, m * d, y, n * d, groups, largest, stream);
  if (failed) return failed;
  return pairwise<T, Pairwise::kSquaredDistance>(x, y, groups, m, n, d, largest, nullptr, out,
                                                 stream);
}

int64_t squared_distances_work(int64_t groups) {
  WorkSpace space(nullptr);
  space.take<Key<double>>(groups);
  return space.size();
}

template int squared_distances(const float*, const float*, int64_t, int64_t, int64_t, int64_t,
                               float*, void*, void*);
template int squared_distances(const double*, const double*, int64_t, int64_t, int64_t, int64_t,
                               double*, void*, void*);

}  // namespace mige::cuda
