// ridge_whitening: mean, whitening matrix and ridge of each group of samples.
#include "bind/checks.h"
#include "cpu/whitening.h"
#ifdef MIGE_WITH_CUDA
#include "bind/cuda.h"
#endif

namespace mige::bind {
namespace {

void check_ridge_whitening(const Tensor& x, double factor) {
  check_samples("x", x, 2);
  if (!(factor > 0 && factor <= std::numeric_limits<double>::max()))
    fail("factor must be positive and finite, got ", factor);
}

std::tuple<Tensor, Tensor, Tensor> ridge_whitening_cpu(const Tensor& x, double factor) {
  check_ridge_whitening(x, factor);
  const int64_t m = rows(x), d = columns(x);
  const Tensor input = torch::stable::contiguous(x);
  const Tensor mean = empty(x, batch_shape(x, 2, {d}));
  const Tensor whitening = empty(x, batch_shape(x, 2, {d, d}));
  const Tensor ridge = empty(x, batch_shape(x, 2, {}));
  dispatch(x, [&](auto zero) {
    using T = decltype(zero);
    check_finite<T>("x", input);
    torch::stable::parallel_for(0, batch_count(x, 2), 1, [&](int64_t begin, int64_t end) {
      Runtime<T> runtime(input);
      cpu::Whitening<T> w(m, d, true);
      for (int64_t g = begin; g < end; ++g) {
        cpu::whiten(const_data<T>(input) + g * m * d, m, d, factor, w, runtime);
        cpu::whitening_matrix(w, d, data<T>(whitening) + g * d * d, runtime);
        std::copy_n(w.mean.get(), d, data<T>(mean) + g * d);
        data<T>(ridge)[g] = static_cast<T>(w.ridge);
      }
    });
  });
  return {mean, whitening, ridge};
}

#ifdef MIGE_WITH_CUDA
std::tuple<Tensor, Tensor, Tensor> ridge_whitening_cuda(const Tensor& x, double factor) {
  check_ridge_whitening(x, factor);
  const CudaContext context(x);
  const int64_t m = rows(x), d = columns(x), groups = batch_count(x, 2);
  const Tensor input = torch::stable::contiguous(x);
  const Tensor mean = empty(x, batch_shape(x, 2, {d}));
  const Tensor whitening = empty(x, batch_shape(x, 2, {d, d}));
  const Tensor ridge = empty(x, batch_shape(x, 2, {}));
  dispatch(x, [&](auto zero) {
    using T = decltype(zero);
    const Tensor work = work_space(x, cuda::ridge_whitening_work<T>(groups, m, d));
    context.check("ridge_whitening",
                  cuda::ridge_whitening(const_data<T>(input), groups, m, d, factor, data<T>(mean),
                                        data<T>(whitening), data<T>(ridge), data<char>(work),
                                        context.stream()));
  });
  return {mean, whitening, ridge};
}
#endif

}  // namespace
}  // namespace mige::bind

STABLE_TORCH_LIBRARY_IMPL(mige_ext, CPU, m) {
  m.impl("ridge_whitening", TORCH_BOX(&mige::bind::ridge_whitening_cpu));
}

#ifdef MIGE_WITH_CUDA
STABLE_TORCH_LIBRARY_IMPL(mige_ext, CUDA, m) {
  m.impl("ridge_whitening", TORCH_BOX(&mige::bind::ridge_whitening_cuda));
}
#endif
