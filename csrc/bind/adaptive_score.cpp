// adaptive_score: samples to a score without settings in one call.
#include "cpu/adaptive.h"

#include "bind/checks.h"
#ifdef MIGE_WITH_CUDA
#include "bind/cuda.h"
#endif

namespace mige::bind {
namespace {

using AdaptiveTensors = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

AdaptiveTensors adaptive_score_cpu(const Tensor& x) {
  check_samples("x", x, 2);
  const int64_t m = rows(x), d = columns(x);
  const Tensor input = torch::stable::contiguous(x);
  const std::vector<int64_t> batch = batch_shape(x, 2, {});
  const Tensor scores = empty(x, batch_shape(x, 2, {m, d})), lambda = empty(x, batch);
  const Tensor base = empty(x, batch, ScalarType::Long), risk = empty(x, batch);
  const Tensor error = empty(x, batch), bandwidth = empty(x, batch);
  dispatch(x, [&](auto zero) {
    using T = decltype(zero);
    check_finite<T>("x", input);
    torch::stable::parallel_for(0, batch_count(x, 2), 1, [&](int64_t begin, int64_t end) {
      Runtime<T> runtime(input);
      for (int64_t g = begin; g < end; ++g) {
        const cpu::AdaptiveResult<T> result{data<T>(scores) + g * m * d, data<T>(lambda) + g,
                                            data<int64_t>(base) + g,     data<T>(risk) + g,
                                            data<T>(error) + g,          data<T>(bandwidth) + g};
        cpu::adaptive_score(const_data<T>(input) + g * m * d, m, d, result, runtime);
      }
    });
  });
  return {scores, lambda, base, risk, error, bandwidth};
}

#ifdef MIGE_WITH_CUDA
AdaptiveTensors adaptive_score_cuda(const Tensor& x) {
  check_samples("x", x, 2);
  const CudaContext context(x);
  const int64_t m = rows(x), d = columns(x), groups = batch_count(x, 2);
  const Tensor input = torch::stable::contiguous(x);
  const std::vector<int64_t> batch = batch_shape(x, 2, {});
  const Tensor scores = empty(x, batch_shape(x, 2, {m, d})), lambda = empty(x, batch);
  const Tensor base = empty(x, batch, ScalarType::Long), risk = empty(x, batch);
  const Tensor error = empty(x, batch), bandwidth = empty(x, batch);
  dispatch(x, [&](auto zero) {
    using T = decltype(zero);
    const Tensor work = work_space(x, cuda::adaptive_score_work<T>(groups, m, d));
    context.check(
        "adaptive_score",
        cuda::adaptive_score(const_data<T>(input), groups, m, d, data<T>(scores), data<T>(lambda),
                             data<int64_t>(base), data<T>(risk), data<T>(error), data<T>(bandwidth),
                             data<char>(work), context.stream()));
  });
  return {scores, lambda, base, risk, error, bandwidth};
}
#endif

}  // namespace
}  // namespace mige::bind

STABLE_TORCH_LIBRARY_IMPL(mige_ext, CPU, m) {
  m.impl("adaptive_score", TORCH_BOX(&mige::bind::adaptive_score_cpu));
}

#ifdef MIGE_WITH_CUDA
STABLE_TORCH_LIBRARY_IMPL(mige_ext, CUDA, m) {
  m.impl("adaptive_score", TORCH_BOX(&mige::bind::adaptive_score_cuda));
}
#endif
