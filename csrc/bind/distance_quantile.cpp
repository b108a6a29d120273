// distance_quantile: a quantile of the pairwise distances, which gives the bandwidth.
#include "bind/operator.h"

namespace mige::bind {

Tensor distance_quantile(const Tensor& x, double quantile) {
  Operator op("distance_quantile", "x", x, 2);
  check_fraction("quantile", quantile);
  const Output out = op.output({});
  op.run<DistanceQuantileArguments>(MIGE_KERNELS(distance_quantile), op.x, op.groups, op.rows,
                                    op.columns, quantile, out);
  return out.tensor;
}

}  // namespace mige::bind

MIGE_REGISTER(distance_quantile)
