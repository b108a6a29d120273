// squared_distances: ‖x_i − y_j‖² for all pairs of rows.
#include "bind/operator.h"

namespace mige::bind {

Tensor squared_distances(const Tensor& x, const std::optional<Tensor>& y) {
  Operator op("squared_distances", "x", x, 0);
  const Input others = op.points("y", y);
  const Output out = op.output({op.rows, others.rows});
  op.run<PairwiseArguments>(MIGE_KERNELS(squared_distances), op.x, others, nullptr, op.groups,
                            op.rows, others.rows, op.columns, out);
  return out.tensor;
}

}  // namespace mige::bind

MIGE_REGISTER(squared_distances)
