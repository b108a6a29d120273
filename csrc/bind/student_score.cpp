// student_score: a Student score minus the Gaussian score, its divergence, ν and the weights.
#include "bind/operator.h"

namespace mige::bind {

std::tuple<Tensor, Tensor, Tensor, Tensor> student_score(const Tensor& x) {
  Operator op("student_score", "x", x, 2);
  const int64_t m = op.rows, d = op.columns;
  const Output departure = op.output({m, d}), divergence = op.output({m});
  const Output nu = op.output({}), weights = op.output({m});
  op.run<StudentScoreArguments>(MIGE_KERNELS(student_score), op.x, op.groups, m, d, departure,
                                divergence, nu, weights);
  return {departure.tensor, divergence.tensor, nu.tensor, weights.tensor};
}

}  // namespace mige::bind

MIGE_REGISTER(student_score)
