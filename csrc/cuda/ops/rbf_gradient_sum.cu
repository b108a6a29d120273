// rbf_gradient_sum: H = −(K X − diag(K 1) X) / σ², the row sums in the pass of the product.
#include "cuda/launchers.h"
#include "cuda/rbf/pairwise.cuh"
#include "cuda/linalg/product.cuh"

namespace mige::cuda {
namespace {

template <typename T>
struct Layout {
  WorkSpace space;
  Key<T>* largest;
  T* centred;
  T* k;

  Layout(void* work, int64_t groups, int64_t m, int64_t d)
      : space(work),
        largest(space.take<Key<T>>(groups)),
        centred(space.take<T>(groups * m * d)),
        k(space.take<T>(groups * m * m)) {}
};

}  // namespace

template <typename T>
int64_t rbf_gradient_sum_work(int64_t groups, int64_t m, int64_t d) {
  return Layout<T>(nullptr, groups, m, d).space.size();
}

template <typename T>
int rbf_gradient_sum(const T* x, const T* bandwidth, int64_t groups, int64_t m, int64_t d, T* out,
                     void* work, void* stream) {
  if (groups == 0 || m == 0) return 0;
  const Layout<T> at(work, groups, m, d);
  int failed = largest_magnitudes<T>(x, m * d, nullptr, 0, groups, at.largest, stream);
  if (!failed) failed = centre(x, groups, m, d, at.largest, bandwidth, at.centred, stream);
  if (!failed)
    failed = pairwise<T, Pairwise::kScaledRbf>(at.centred, nullptr, groups, m, m, d, at.largest,
                                               bandwidth, at.k, stream);
  if (!failed)
    failed = product<T, Epilogue::kGradientSum>(
        {at.k, at.centred, out, groups, m, d, m, at.largest, bandwidth, nullptr, true, T(0)},
        stream);
  return failed;
}

template int64_t rbf_gradient_sum_work<float>(int64_t, int64_t, int64_t);
template int64_t rbf_gradient_sum_work<double>(int64_t, int64_t, int64_t);
template int rbf_gradient_sum(const float*, const float*, int64_t, int64_t, int64_t, float*, void*,
                              void*);
template int rbf_gradient_sum(const double*, const double*, int64_t, int64_t, int64_t, double*,
                              void*, void*);

}  // namespace mige::cuda
