// squared_distances: ‖x_i − y_j‖² for all pairs of rows.
#include "bind/checks.h"
#include "cpu/group.h"
#ifdef MIGE_WITH_CUDA
#include "bind/cuda.h"
#endif

namespace mige::bind {
namespace {

Tensor squared_distances_cpu(const Tensor& x, const std::optional<Tensor>& y) {
  check_pair(x, y);
  const Tensor left = torch::stable::contiguous(x);
  const Tensor right = y ? torch::stable::contiguous(*y) : left;
  const int64_t m = rows(x), n = rows(right), d = columns(x);
  const Tensor out = empty(x, batch_shape(x, 2, {m, n}));
  dispatch(x, [&](auto zero) {
    using T = decltype(zero);
    check_finite<T>("x", left);
    if (y) check_finite<T>("y", right);
    torch::stable::parallel_for(0, batch_count(x, 2), 1, [&](int64_t begin, int64_t end) {
      Runtime<T> runtime(left);
      for (int64_t g = begin; g < end; ++g) {
        const T* points = const_data<T>(left) + g * m * d;
        T* target = data<T>(out) + g * m * n;
        if (y) {
          cpu::squared_distances(points, const_data<T>(right) + g * n * d, m, n, d, T(1), target,
                                 runtime);
        } else {
          cpu::upper_squared_distances(points, m, d, T(1), target, runtime);
          cpu::mirror(target, m, runtime);
        }
      }
    });
  });
  return out;
}

#ifdef MIGE_WITH_CUDA
Tensor squared_distances_cuda(const Tensor& x, const std::optional<Tensor>& y) {
  check_pair(x, y);
  const CudaContext context(x);
  const Tensor left = torch::stable::contiguous(x);
  const Tensor right = y ? torch::stable::contiguous(*y) : left;
  const int64_t groups = batch_count(x, 2), m = rows(x), n = rows(right);
  const Tensor out = empty(x, batch_shape(x, 2, {m, n}));
  const Tensor work = work_space(x, cuda::squared_distances_work(groups));
  dispatch(x, [&](auto zero) {
    using T = decltype(zero);
    context.check(
        "squared_distances",
        cuda::squared_distances(const_data<T>(left), y ? const_data<T>(right) : nullptr, groups, m,
                                n, columns(x), data<T>(out), data<char>(work), context.stream()));
  });
  return out;
}
#endif

}  // namespace
}  // namespace mige::bind

STABLE_TORCH_LIBRARY_IMPL(mige_ext, CPU, m) {
  m.impl("squared_distances", TORCH_BOX(&mige::bind::squared_distances_cpu));
}

#ifdef MIGE_WITH_CUDA
STABLE_TORCH_LIBRARY_IMPL(mige_ext, CUDA, m) {
  m.impl("squared_distances", TORCH_BOX(&mige::bind::squared_distances_cuda));
}
#endif
