// rbf_gradient_sum: H = −(K X − diag(K 1) X) / σ² for X [m, d] and K [m, m]. pairwise.cuh computes
// K, with 1.5 m² d flop. contraction.cuh multiplies it with X, with 2 m² d flop.
#include "cuda/launchers.h"
#include "cuda/rbf/gradient_sum.cuh"
#include "cuda/rbf/pairwise.cuh"

namespace mige::cuda {
namespace {

template <typename T>
struct Layout : Workspace {
  int64_t groups, m, d;
  Key<T>* largest = take<Key<T>>(groups);  // [groups]: magnitude of the samples
  T* centered = take<T>(groups * m * d);   // [groups, m, d]: samples, scaled for the bandwidth
  T* k = take<T>(groups * m * m);          // [groups, m, m]: K
  PartialSums partial = take_partial_sums(*this, {partial_bytes<T>(groups, m, d, m)});
};

}  // namespace

template <typename T>
int64_t rbf_gradient_sum_work(const RbfGradientSumArguments<T>& p) {
  return Layout<T>{Workspace(nullptr), p.groups, p.m, p.d}.size();
}

template <typename T>
int rbf_gradient_sum(const RbfGradientSumArguments<T>& p, void* work, void* cuda_stream) {
  const int64_t groups = p.groups, m = p.m, d = p.d;
  if (groups == 0 || m == 0) return 0;
  Stream stream(cuda_stream);
  const Layout<T> at{Workspace(work), groups, m, d};
  largest_magnitudes<T>(p.x, m * d, nullptr, 0, groups, at.largest, stream);
  center(p.x, groups, m, d, at.largest, p.bandwidth, at.centered, stream);
  pairwise<T, Pairwise::kScaledRbf>(pairs_of(at.centered, groups, m, d, at.k, p.bandwidth),
                                    at.largest, stream);
  contract<T>(Rows<T>{at.k, m, m}, Columns<T>{at.centered, m, d},
              GradientSum<T>{at.centered, p.out, at.largest, p.bandwidth, /*near_bandwidth=*/true},
              {groups, m, d, nullptr, at.partial}, stream);
  return stream.status();
}

MIGE_INSTANTIATE(rbf_gradient_sum);

}  // namespace mige::cuda
