// adaptive_score: the adaptive score, which has no settings, in one call.
#include "bind/operator.h"

namespace mige::bind {

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> adaptive_score(
    const Tensor& x, const std::optional<Tensor>& start,
    const std::optional<Tensor>& start_divergence) {
  Operator op("adaptive_score", "x", x, 2);
  if (start.has_value() != start_divergence.has_value())
    fail("ValueError: start and start_divergence must be given together");
  Input given{}, given_divergence{};
  if (start) {
    given = op.like_samples("start", *start);
    given_divergence = op.like_rows("start_divergence", *start_divergence);
  }
  const int64_t m = op.rows, d = op.columns;
  const Output scores = op.output({m, d}), lambda = op.output({});
  const Output base = op.integer_output();
  const Output risk = op.output({}), error = op.output({}), bandwidth = op.output({});
  const Output left_out = op.output({});
  const Output departure = op.output({m, d}), divergence = op.output({m});
  op.run<AdaptiveScoreArguments>(MIGE_KERNELS(adaptive_score), op.x, given, given_divergence,
                                 op.groups, m, d, scores, lambda, base, risk, error, bandwidth,
                                 left_out, departure, divergence);
  return {scores.tensor,    lambda.tensor,   base.tensor,      risk.tensor,      error.tensor,
          bandwidth.tensor, left_out.tensor, departure.tensor, divergence.tensor};
}

}  // namespace mige::bind

MIGE_REGISTER(adaptive_score)
