// distance_quantile: an order statistic of the pairwise distances, the bandwidth rule.
#include "bind/checks.h"
#include "cpu/group.h"
#ifdef MIGE_WITH_CUDA
#include "bind/cuda.h"
#endif

namespace mige::bind {
namespace {

Tensor distance_quantile_cpu(const Tensor& x, double quantile) {
  check_samples("x", x, 2);
  check_quantile(quantile);
  const Tensor input = torch::stable::contiguous(x);
  const int64_t m = rows(x), d = columns(x);
  const Tensor out = empty(x, batch_shape(x, 2, {}));
  dispatch(x, [&](auto zero) {
    using T = decltype(zero);
    check_finite<T>("x", input);
    torch::stable::parallel_for(0, batch_count(x, 2), 1, [&](int64_t begin, int64_t end) {
      Runtime<T> runtime(input);
      const cpu::Buffer<T> s(m * m);
      for (int64_t g = begin; g < end; ++g) {
        const T* points = const_data<T>(input) + g * m * d;
        const T scale = normal_scale(cpu::largest_magnitude(points, m * d));
        cpu::upper_squared_distances(points, m, d, scale, s.get(), runtime);
        const auto square = static_cast<double>(cpu::upper_quantile(s.get(), m, quantile));
        data<T>(out)[g] = saturate<T>(std::sqrt(square) / static_cast<double>(scale));
      }
    });
  });
  return out;
}

#ifdef MIGE_WITH_CUDA
Tensor distance_quantile_cuda(const Tensor& x, double quantile) {
  check_samples("x", x, 2);
  check_quantile(quantile);
  const CudaContext context(x);
  const Tensor input = torch::stable::contiguous(x);
  const int64_t groups = batch_count(x, 2), m = rows(x);
  const Tensor out = empty(x, batch_shape(x, 2, {}));
  dispatch(x, [&](auto zero) {
    using T = decltype(zero);
    const Tensor work = work_space(x, cuda::distance_quantile_work<T>(groups, m));
    context.check("distance_quantile",
                  cuda::distance_quantile(const_data<T>(input), groups, m, columns(x), quantile,
                                          data<T>(out), data<char>(work), context.stream()));
  });
  return out;
}
#endif

}  // namespace
}  // namespace mige::bind

STABLE_TORCH_LIBRARY_IMPL(mige_ext, CPU, m) {
  m.impl("distance_quantile", TORCH_BOX(&mige::bind::distance_quantile_cpu));
}

#ifdef MIGE_WITH_CUDA
STABLE_TORCH_LIBRARY_IMPL(mige_ext, CUDA, m) {
  m.impl("distance_quantile", TORCH_BOX(&mige::bind::distance_quantile_cuda));
}
#endif
