// rbf_gram: the Gram matrix exp(−‖x_i − y_j‖² / 2σ²).
#include "cuda/launchers.h"
#include "cuda/rbf/pairwise.cuh"

namespace mige::cuda {

template <typename T>
int rbf_gram(const T* x, const T* y, const T* bandwidth, int64_t groups, int64_t m, int64_t n,
             int64_t d, T* out, void* work, void* stream) {
  if (groups == 0 || m == 0 || n == 0) return 0;
  auto* const largest = WorkSpace(work).take<Key<T>>(groups);
  const int failed = largest_magnitudes(x, m * d, y, n * d, groups, largest, stream);
  if (failed) return failed;
  return pairwise<T, Pairwise::kRbf>(x, y, groups, m, n, d, largest, bandwidth, out, stream);
}

int64_t rbf_gram_work(int64_t groups) {
  WorkSpace space(nullptr);
  space.take<Key<double>>(groups);
  return space.size();
}

template int rbf_gram(const float*, const float*, const float*, int64_t, int64_t, int64_t, int64_t,
                      float*, void*, void*);
template int rbf_gram(const double*, const double*, const double*, int64_t, int64_t, int64_t,
                      int64_t, double*, void*, void*);

}  // namespace mige::cuda
