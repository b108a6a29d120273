// rbf_gram: the Gram matrix exp(−‖x_i − y_j‖² / 2σ²).
#include "cuda/launchers.h"
#include "cuda/rbf/pairwise.cuh"

namespace mige::cuda {

int64_t rbf_gram_work(int64_t groups) { return magnitudes_work(groups); }

template <typename T>
int rbf_gram(const T* x, const T* y, const T* bandwidth, int64_t groups, int64_t m, int64_t n,
             int64_t d, T* out, void* work, void* cuda_stream) {
  if (groups == 0 || m == 0 || n == 0) return 0;
  Stream stream(cuda_stream);
  auto* const largest = static_cast<Key<T>*>(work);
  largest_magnitudes(x, m * d, y, n * d, groups, largest, stream);
  pairwise<T, Pairwise::kRbf>(x, y, groups, m, n, d, largest, bandwidth, out, stream);
  return stream.status();
}

MIGE_INSTANTIATE(rbf_gram);

}  // namespace mige::cuda
