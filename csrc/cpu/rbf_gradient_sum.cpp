// rbf_gradient_sum on the CPU: H_j = Σ_i ∇_{x_i} k(x_i, x_j) = −(K X − diag(K 1) X)_j / σ².
//
// K [m, m] is formed once, then multiplied by the samples [m, d], which are centered first to avoid
// rounding errors. Work: 1.5 m² d flop for the distances and 2 m² d for the product. Memory:
// m² + O(m d) values.
#include "cpu/operators.h"
#include "cpu/rbf.h"
#include "cpu/scaling.h"

namespace mige::cpu {

template <typename T>
void rbf_gradient_sum(const RbfGradientSumArguments<T>& p) {
  const int64_t m = p.m, d = p.d;
  parallel(p.groups, 1, [&](int64_t first, int64_t last) {
    const Buffer<T> centered(m * d), k(m * m);
    for (int64_t g = first; g < last; ++g) {
      const T* x = p.x + g * m * d;
      T* out = p.out + g * m * d;
      const auto width = ScaledBandwidth<T>::of(p.bandwidth[g], largest_magnitude(x, m * d));
      center(x, m, d, width.scale, centered.get());
      squared_distance_matrix<T>(centered.get(), nullptr, m, m, d, T(1), k.get());
      to_gram(k.get(), m, m, true, width.gamma);
      gradient_sum(k.get(), centered.get(), m, d, width.inverse_variance, out);
      scale_matrix(out, 1, m * d, &width.scale, true, kLargestFinite<T>);
    }
  });
}

MIGE_INSTANTIATE(rbf_gradient_sum, RbfGradientSumArguments);

}  // namespace mige::cpu
