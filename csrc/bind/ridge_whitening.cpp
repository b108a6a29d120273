// ridge_whitening: mean, whitening matrix and ridge of each group of samples.
#include "bind/operator.h"
#include "common/whitening_rule.h"

namespace mige::bind {

std::tuple<Tensor, Tensor, Tensor> ridge_whitening(const Tensor& x, std::optional<double> factor) {
  Operator op("ridge_whitening", "x", x, 2);
  if (factor) check_positive("factor", *factor);
  const int64_t m = op.rows, d = op.columns;
  const Output mean = op.output({d}), whitening = op.output({d, d}), ridge = op.output({});
  op.run<RidgeWhiteningArguments>(MIGE_KERNELS(ridge_whitening), op.x, op.groups, m, d,
                                  factor.value_or(kWeakRidge), mean, whitening, ridge);
  return {mean.tensor, whitening.tensor, ridge.tensor};
}

}  // namespace mige::bind

MIGE_REGISTER(ridge_whitening)
