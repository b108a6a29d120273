// rbf_product: the Nyström extension k(q, X) W, without k in memory.
#include "bind/operator.h"

namespace mige::bind {

Tensor rbf_product(const Tensor& q, const Tensor& x, const Tensor& w, const Tensor& bandwidth) {
  Operator op("rbf_product", "q", q, 0);
  const Input samples = op.points("x", x);
  check_matrix("w", w, "(..., M, p)", 0, 0);
  const Input weights = op.matrix("w", w), sigma = op.bandwidth(bandwidth);
  check_count("w", weights.rows, "rows", "x", samples.rows);
  const Output out = op.output({op.rows, weights.columns});
  op.run<RbfProductArguments>(MIGE_KERNELS(rbf_product), op.x, samples, weights, sigma, op.groups,
                              op.rows, samples.rows, op.columns, weights.columns, out);
  return out.tensor;
}

}  // namespace mige::bind

MIGE_REGISTER(rbf_product)
