// rbf_gradient_sum: H_j = Σ_i ∇_{x_i} k(x_i, x_j), two matrix products and no M×M×d array.
#include "bind/checks.h"
#include "cpu/group.h"
#ifdef MIGE_WITH_CUDA
#include "bind/cuda.h"
#endif

namespace mige::bind {
namespace {

Tensor rbf_gradient_sum_cpu(const Tensor& x, const Tensor& bandwidth) {
  check_samples("x", x, 1);
  check_like("bandwidth", bandwidth, 0, "x", x, 2);
  const Tensor input = torch::stable::contiguous(x);
  const Tensor sigma = torch::stable::contiguous(bandwidth);
  const int64_t m = rows(x), d = columns(x);
  const Tensor out = empty(x, batch_shape(x, 2, {m, d}));
  dispatch(x, [&](auto zero) {
    using T = decltype(zero);
    check_finite<T>("x", input);
    check_bandwidth<T>(sigma);
    torch::stable::parallel_for(0, batch_count(x, 2), 1, [&](int64_t begin, int64_t end) {
      Runtime<T> runtime(input);
      const cpu::Buffer<T> centred(m * d), k(m * m), factor(m);
      for (int64_t g = begin; g < end; ++g) {
        const T* points = const_data<T>(input) + g * m * d;
        T* target = data<T>(out) + g * m * d;
        const auto width =
            ScaledBandwidth<T>::of(const_data<T>(sigma)[g], cpu::largest_magnitude(points, m * d));
        cpu::centre(points, m, d, width.scale, centred.get());
        cpu::upper_squared_distances(centred.get(), m, d, T(1), k.get(), runtime);
        cpu::upper_to_gram(k.get(), m, width.gamma, runtime);
        cpu::gradient_sum(k.get(), centred.get(), m, d, width.inverse_variance, target, runtime);
        std::fill(factor.get(), factor.get() + m, width.scale);
        cpu::scale_rows(target, m, d, factor.get(), std::numeric_limits<T>::max());
      }
    });
  });
  return out;
}

#ifdef MIGE_WITH_CUDA
Tensor rbf_gradient_sum_cuda(const Tensor& x, const Tensor& bandwidth) {
  check_samples("x", x, 1);
  check_like("bandwidth", bandwidth, 0, "x", x, 2);
  const CudaContext context(x);
  const Tensor input = torch::stable::contiguous(x);
  const Tensor sigma = torch::stable::contiguous(bandwidth);
  const int64_t groups = batch_count(x, 2), m = rows(x), d = columns(x);
  const Tensor out = empty(x, batch_shape(x, 2, {m, d}));
  dispatch(x, [&](auto zero) {
    using T = decltype(zero);
    const Tensor work = work_space(x, cuda::rbf_gradient_sum_work<T>(groups, m, d));
    context.check("rbf_gradient_sum",
                  cuda::rbf_gradient_sum(const_data<T>(input), const_data<T>(sigma), groups, m, d,
                                         data<T>(out), data<char>(work), context.stream()));
  });
  return out;
}
#endif

}  // namespace
}  // namespace mige::bind

STABLE_TORCH_LIBRARY_IMPL(mige_ext, CPU, m) {
  m.impl("rbf_gradient_sum", TORCH_BOX(&mige::bind::rbf_gradient_sum_cpu));
}

#ifdef MIGE_WITH_CUDA
STABLE_TORCH_LIBRARY_IMPL(mige_ext, CUDA, m) {
  m.impl("rbf_gradient_sum", TORCH_BOX(&mige::bind::rbf_gradient_sum_cuda));
}
#endif
