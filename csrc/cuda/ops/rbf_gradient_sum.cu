// rbf_gradient_sum: H = −(K X − diag(K 1) X) / σ².
#include "cuda/launchers.h"
#include "cuda/rbf/gradient_sum.cuh"
#include "cuda/rbf/pairwise.cuh"

namespace mige::cuda {
namespace {

template <typename T>
struct Layout {
  Workspace space;
  Key<T>* largest;
  T* centered;  // [groups, m, d]
  T* k;         // [groups, m, m]

  Layout(void* work, int64_t groups, int64_t m, int64_t d)
      : space(work),
        largest(space.take<Key<T>>(groups)),
        centered(space.take<T>(groups * m * d)),
        k(space.take<T>(groups * m * m)) {}
};

}  // namespace

template <typename T>
int64_t rbf_gradient_sum_work(int64_t groups, int64_t m, int64_t d) {
  return Layout<T>(nullptr, groups, m, d).space.size();
}

template <typename T>
int rbf_gradient_sum(const T* x, const T* bandwidth, int64_t groups, int64_t m, int64_t d, T* out,
                     void* work, void* cuda_stream) {
  if (groups == 0 || m == 0) return 0;
  Stream stream(cuda_stream);
  const Layout<T> at(work, groups, m, d);
  largest_magnitudes<T>(x, m * d, nullptr, 0, groups, at.largest, stream);
  center(x, groups, m, d, at.largest, bandwidth, at.centered, stream);
  pairwise<T, Pairwise::kScaledRbf>(at.centered, nullptr, groups, m, m, d, at.largest, bandwidth,
                                    at.k, stream);
  gradient_sum<T>(at.k, {at.centered, out, at.largest, bandwidth, true}, groups, m, d, stream);
  return stream.status();
}

MIGE_INSTANTIATE(rbf_gradient_sum_work);
MIGE_INSTANTIATE(rbf_gradient_sum);

}  // namespace mige::cuda
