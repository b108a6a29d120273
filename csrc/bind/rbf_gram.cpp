// rbf_gram: the Gram matrix exp(−‖x_i − y_j‖² / 2σ²).
#include "bind/checks.h"
#include "cpu/group.h"
#ifdef MIGE_WITH_CUDA
#include "bind/cuda.h"
#endif

namespace mige::bind {
namespace {

void check_gram(const Tensor& x, const std::optional<Tensor>& y, const Tensor& bandwidth) {
  check_pair(x, y);
  check_like("bandwidth", bandwidth, 0, "x", x, 2);
}

Tensor rbf_gram_cpu(const Tensor& x, const std::optional<Tensor>& y, const Tensor& bandwidth) {
  check_gram(x, y, bandwidth);
  const Tensor left = torch::stable::contiguous(x);
  const Tensor right = y ? torch::stable::contiguous(*y) : left;
  const Tensor sigma = torch::stable::contiguous(bandwidth);
  const int64_t m = rows(x), n = rows(right), d = columns(x);
  const Tensor out = empty(x, batch_shape(x, 2, {m, n}));
  dispatch(x, [&](auto zero) {
    using T = decltype(zero);
    check_finite<T>("x", left);
    if (y) check_finite<T>("y", right);
    check_bandwidth<T>(sigma);
    torch::stable::parallel_for(0, batch_count(x, 2), 1, [&](int64_t begin, int64_t end) {
      Runtime<T> runtime(left);
      for (int64_t g = begin; g < end; ++g) {
        const T* points = const_data<T>(left) + g * m * d;
        const T* others = const_data<T>(right) + g * n * d;
        T* target = data<T>(out) + g * m * n;
        const T largest = std::max(cpu::largest_magnitude(points, m * d),
                                   y ? cpu::largest_magnitude(others, n * d) : T(0));
        const auto width = ScaledBandwidth<T>::of(const_data<T>(sigma)[g], largest);
        if (y) {
          cpu::squared_distances(points, others, m, n, d, width.scale, target, runtime);
          runtime.parallel(m, cpu::kRowGrain, [&](int64_t b, int64_t e) {
            cpu::rbf_rows(target, m, n, width.gamma, false, b, e);
          });
        } else {
          cpu::upper_squared_distances(points, m, d, width.scale, target, runtime);
          cpu::upper_to_gram(target, m, width.gamma, runtime);
        }
      }
    });
  });
  return out;
}

#ifdef MIGE_WITH_CUDA
Tensor rbf_gram_cuda(const Tensor& x, const std::optional<Tensor>& y, const Tensor& bandwidth) {
  check_gram(x, y, bandwidth);
  const CudaContext context(x);
  const Tensor left = torch::stable::contiguous(x);
  const Tensor right = y ? torch::stable::contiguous(*y) : left;
  const Tensor sigma = torch::stable::contiguous(bandwidth);
  const int64_t groups = batch_count(x, 2), m = rows(x), n = rows(right);
  const Tensor out = empty(x, batch_shape(x, 2, {m, n}));
  const Tensor work = work_space(x, cuda::rbf_gram_work(groups));
  dispatch(x, [&](auto zero) {
    using T = decltype(zero);
    context.check("rbf_gram",
                  cuda::rbf_gram(const_data<T>(left), y ? const_data<T>(right) : nullptr,
                                 const_data<T>(sigma), groups, m, n, columns(x), data<T>(out),
                                 data<char>(work), context.stream()));
  });
  return out;
}
#endif

}  // namespace
}  // namespace mige::bind

STABLE_TORCH_LIBRARY_IMPL(mige_ext, CPU, m) {
  m.impl("rbf_gram", TORCH_BOX(&mige::bind::rbf_gram_cpu));
}

#ifdef MIGE_WITH_CUDA
STABLE_TORCH_LIBRARY_IMPL(mige_ext, CUDA, m) {
  m.impl("rbf_gram", TORCH_BOX(&mige::bind::rbf_gram_cuda));
}
#endif
