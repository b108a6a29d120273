// adaptive_score: the score of the adaptive estimator, which has no settings, in one call.
#include "bind/operator.h"

namespace mige::bind {

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> adaptive_score(const Tensor& x) {
  Operator op("adaptive_score", "x", x, 2);
  const int64_t m = op.rows, d = op.columns;
  const Output scores = op.output({m, d}), lambda = op.output({});
  const Output base = op.integer_output();
  const Output risk = op.output({}), error = op.output({}), bandwidth = op.output({});
  op.run<AdaptiveScoreArguments>(MIGE_KERNELS(adaptive_score), op.x, op.groups, m, d, scores,
                                 lambda, base, risk, error, bandwidth);
  return {scores.tensor, lambda.tensor, base.tensor, risk.tensor, error.tensor, bandwidth.tensor};
}

}  // namespace mige::bind

MIGE_REGISTER(adaptive_score)
