// ssge: samples to score in one call.
#include "cpu/ssge.h"

#include <limits>

#include "bind/checks.h"
#ifdef MIGE_WITH_CUDA
#include "bind/cuda.h"
#endif

namespace mige::bind {
namespace {

void check_ssge(const Tensor& x, const std::optional<Tensor>& bandwidth, double quantile,
                double multiplier, double threshold, int64_t rank, int64_t power) {
  check_samples("x", x, 2);
  const int64_t m = rows(x);
  if (bandwidth) check_like("bandwidth", *bandwidth, 0, "x", x, 2);
  check_quantile(quantile);
  if (!(multiplier > 0 && multiplier <= std::numeric_limits<double>::max()))
    fail("multiplier must be positive and finite, got ", multiplier);
  if (!(threshold > 0 && threshold <= 1)) fail("threshold must lie in (0, 1], got ", threshold);
  if (rank < 0 || rank > m) fail("rank must lie in [0, M], got ", rank, " with M = ", m);
  if (power != 1 && power != 2) fail("power must be 1 or 2, got ", power);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> ssge_cpu(const Tensor& x,
                                                    const std::optional<Tensor>& bandwidth,
                                                    double quantile, double multiplier,
                                                    double threshold, int64_t rank, int64_t power) {
  check_ssge(x, bandwidth, quantile, multiplier, threshold, rank, power);
  const int64_t m = rows(x), d = columns(x), groups = batch_count(x, 2);
  const Tensor input = torch::stable::contiguous(x);
  const Tensor out = empty(x, batch_shape(x, 2, {m, d}));
  const Tensor eigenvalues = empty(x, batch_shape(x, 2, {m}));
  const Tensor sigma = bandwidth ? torch::stable::clone(torch::stable::contiguous(*bandwidth))
                                 : empty(x, batch_shape(x, 2, {}));
  const Tensor ranks = empty(x, batch_shape(x, 2, {}), ScalarType::Long);
  const SsgeOptions options{quantile, multiplier, threshold, rank, power};

  dispatch(x, [&](auto zero) {
    using T = decltype(zero);
    check_finite<T>("x", input);
    if (bandwidth) check_bandwidth<T>(sigma);
    torch::stable::parallel_for(0, groups, 1, [&](int64_t begin, int64_t end) {
      Runtime<T> runtime(input);
      for (int64_t g = begin; g < end; ++g) {
        const cpu::SsgeResult<T> result{data<T>(out) + g * m * d, data<T>(eigenvalues) + g * m,
                                        data<T>(sigma) + g, data<int64_t>(ranks) + g,
                                        bandwidth.has_value()};
        cpu::ssge(const_data<T>(input) + g * m * d, m, d, options, result, runtime);
      }
    });
  });
  return {out, eigenvalues, sigma, ranks};
}

#ifdef MIGE_WITH_CUDA
std::tuple<Tensor, Tensor, Tensor, Tensor> ssge_cuda(const Tensor& x,
                                                     const std::optional<Tensor>& bandwidth,
                                                     double quantile, double multiplier,
                                                     double threshold, int64_t rank,
                                                     int64_t power) {
  check_ssge(x, bandwidth, quantile, multiplier, threshold, rank, power);
  const CudaContext context(x);
  const Tensor input = torch::stable::contiguous(x);
  const Tensor given = bandwidth ? torch::stable::contiguous(*bandwidth) : input;
  const int64_t m = rows(x), d = columns(x), groups = batch_count(x, 2);
  const Tensor out = empty(x, batch_shape(x, 2, {m, d}));
  const Tensor eigenvalues = empty(x, batch_shape(x, 2, {m}));
  const Tensor sigma = empty(x, batch_shape(x, 2, {}));
  const Tensor ranks = empty(x, batch_shape(x, 2, {}), ScalarType::Long);
  const SsgeOptions options{quantile, multiplier, threshold, rank, power};
  dispatch(x, [&](auto zero) {
    using T = decltype(zero);
    const Tensor work = work_space(x, cuda::ssge_work<T>(groups, m, d));
    context.check(
        "ssge", cuda::ssge(const_data<T>(input), bandwidth ? const_data<T>(given) : nullptr, groups,
                           m, d, options, data<T>(out), data<T>(eigenvalues), data<T>(sigma),
                           data<int64_t>(ranks), data<char>(work), context.stream()));
  });
  return {out, eigenvalues, sigma, ranks};
}
#endif

}  // namespace
}  // namespace mige::bind

STABLE_TORCH_LIBRARY_IMPL(mige_ext, CPU, m) { m.impl("ssge", TORCH_BOX(&mige::bind::ssge_cpu)); }

#ifdef MIGE_WITH_CUDA
STABLE_TORCH_LIBRARY_IMPL(mige_ext, CUDA, m) { m.impl("ssge", TORCH_BOX(&mige::bind::ssge_cuda)); }
#endif
