// adaptive_student_score: the score of the adaptive estimator with the Student score as its start.
#include "bind/operator.h"

namespace mige::bind {

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>
adaptive_student_score(const Tensor& x) {
  Operator op("adaptive_student_score", "x", x, 2);
  const int64_t m = op.rows, d = op.columns;
  const Output scores = op.output({m, d}), lambda = op.output({});
  const Output base = op.integer_output();
  const Output risk = op.output({}), error = op.output({}), bandwidth = op.output({});
  const Output left_out = op.output({});
  const Output departure = op.output({m, d}), divergence = op.output({m});
  const Output nu = op.output({}), weights = op.output({m});
  op.run<AdaptiveStudentScoreArguments>(MIGE_KERNELS(adaptive_student_score), op.x, op.groups, m, d,
                                        scores, lambda, base, risk, error, bandwidth, left_out,
                                        departure, divergence, nu, weights);
  return {scores.tensor,     lambda.tensor,    base.tensor,     risk.tensor,
          error.tensor,      bandwidth.tensor, left_out.tensor, departure.tensor,
          divergence.tensor, nu.tensor,        weights.tensor};
}

}  // namespace mige::bind

MIGE_REGISTER(adaptive_student_score)
