// rbf_gradient_sum: H_j = Σ_i ∇_{x_i} k(x_i, x_j).
#include "bind/operator.h"

namespace mige::bind {

Tensor rbf_gradient_sum(const Tensor& x, const Tensor& bandwidth) {
  Operator op("rbf_gradient_sum", "x", x, 1);
  const Input sigma = op.bandwidth(bandwidth);
  const Output out = op.output({op.rows, op.columns});
  op.run<RbfGradientSumArguments>(MIGE_KERNELS(rbf_gradient_sum), op.x, sigma, op.groups, op.rows,
                                  op.columns, out);
  return out.tensor;
}

}  // namespace mige::bind

MIGE_REGISTER(rbf_gradient_sum)
