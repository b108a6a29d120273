// rbf_gram: the Gram matrix exp(−‖x_i − y_j‖² / 2σ²).
#include "bind/operator.h"

namespace mige::bind {

Tensor rbf_gram(const Tensor& x, const std::optional<Tensor>& y, const Tensor& bandwidth) {
  Operator op("rbf_gram", "x", x, 0);
  const Input others = op.points("y", y), sigma = op.bandwidth(bandwidth);
  const Output out = op.output({op.rows, others.rows});
  op.run<PairwiseArguments>(MIGE_KERNELS(rbf_gram), op.x, others, sigma, op.groups, op.rows,
                            others.rows, op.columns, out);
  return out.tensor;
}

}  // namespace mige::bind

MIGE_REGISTER(rbf_gram)
