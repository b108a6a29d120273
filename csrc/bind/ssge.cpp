// ssge: samples to score in one call.
#include "../cpu/ssge.h"

#include <limits>

#include "../checks.h"

namespace mige::bind {
namespace {

std::tuple<Tensor, Tensor, Tensor, Tensor> ssge_cpu(const Tensor& x,
                                                    const std::optional<Tensor>& bandwidth,
                                                    double quantile, double multiplier,
                                                    double threshold, int64_t rank, int64_t power) {
  check_samples("x", x, 2);
  const int64_t m = rows(x), d = columns(x), groups = batch_count(x, 2);
  if (bandwidth) check_like("bandwidth", *bandwidth, 0, "x", x, 2);
  check_quantile(quantile);
  if (!(multiplier > 0 && multiplier <= std::numeric_limits<double>::max()))
    fail("multiplier must be positive and finite, got ", multiplier);
  if (!(threshold > 0 && threshold <= 1)) fail("threshold must lie in (0, 1], got ", threshold);
  if (rank < 0 || rank > m) fail("rank must lie in [0, M], got ", rank, " with M = ", m);
  if (power != 1 && power != 2) fail("power must be 1 or 2, got ", power);

  const Tensor input = torch::stable::contiguous(x);
  const Tensor out = empty(x, batch_shape(x, 2, {m, d}));
  const Tensor eigenvalues = empty(x, batch_shape(x, 2, {m}));
  const Tensor sigma = bandwidth ? torch::stable::clone(torch::stable::contiguous(*bandwidth))
                                 : empty(x, batch_shape(x, 2, {}));
  const Tensor ranks = empty(x, batch_shape(x, 2, {}), ScalarType::Long);
  const cpu::SsgeOptions options{quantile, multiplier, threshold, rank, power};

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

}  // namespace
}  // namespace mige::bind

STABLE_TORCH_LIBRARY_IMPL(mige_ext, CPU, m) { m.impl("ssge", TORCH_BOX(&mige::bind::ssge_cpu)); }
