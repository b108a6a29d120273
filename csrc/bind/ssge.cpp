// ssge: the score of the Spectral Stein Gradient Estimator, in one call.
#include "bind/operator.h"

namespace mige::bind {

std::tuple<Tensor, Tensor, Tensor, Tensor> ssge(const Tensor& x,
                                                const std::optional<Tensor>& bandwidth,
                                                double quantile, double multiplier,
                                                double threshold, std::optional<int64_t> rank,
                                                int64_t power) {
  Operator op("ssge", "x", x, 2);
  const int64_t m = op.rows, d = op.columns;
  const Input given = op.bandwidth(bandwidth);
  check_fraction("quantile", quantile);
  check_positive("multiplier", multiplier);
  check_fraction("threshold", threshold);
  if (rank && (*rank < 1 || *rank > m))
    fail("ValueError: rank must lie in [1, M] with M = ", m, ", got ", *rank);
  if (power != 1 && power != 2) fail("ValueError: power must be 1 or 2, got ", power);
  const SsgeOptions options{quantile, multiplier, threshold, rank.value_or(0), power};
  const Output out = op.output({m, d}), eigenvalues = op.output({m}), sigma = op.output({});
  const Output ranks = op.integer_output();
  op.run<SsgeArguments>(MIGE_KERNELS(ssge), op.x, given, op.groups, m, d, options, out, eigenvalues,
                        sigma, ranks);
  return {out.tensor, eigenvalues.tensor, sigma.tensor, ranks.tensor};
}

}  // namespace mige::bind

MIGE_REGISTER(ssge)
