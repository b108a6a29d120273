// rbf_gradient_sum on the CPU: H_j = Σ_i ∇_{x_i} k(x_i, x_j) = −(K X − diag(K 1) X)_j / σ².
//
// Layout: K [m, m] is formed once, then multiplied by the centered samples [m, d]. Work: 3.5 m² d
// flop; memory m² + O(m d). The samples are centered first, because an offset common to all of them
// cancels in exact arithmetic only.
#include "cpu/rbf_gradient_sum.h"

#include "cpu/operators.h"
#include "cpu/rbf_gram.h"
#include "cpu/scaling.h"

namespace mige::cpu {

template <typename T>
void rbf_gradient_sum(const T* x, const T* bandwidth, int64_t groups, int64_t m, int64_t d,
                      T* out) {
  parallel(groups, 1, [&](int64_t first, int64_t last) {
    const Buffer<T> centered(m * d), k(m * m), factor(m);
    for (int64_t g = first; g < last; ++g) {
      const T* points = x + g * m * d;
      T* target = out + g * m * d;
      const auto width = ScaledBandwidth<T>::of(bandwidth[g], largest_magnitude(points, m * d));
      center(points, m, d, width.scale, centered.get());
      upper_squared_distances(centered.get(), m, d, T(1), k.get());
      upper_to_gram(k.get(), m, width.gamma);
      gradient_sum(k.get(), centered.get(), m, d, width.inverse_variance, target);
      std::fill(factor.get(), factor.get() + m, width.scale);
      scale_rows(target, m, d, factor.get(), std::numeric_limits<T>::max());
    }
  });
}

template void rbf_gradient_sum(const float*, const float*, int64_t, int64_t, int64_t, float*);
template void rbf_gradient_sum(const double*, const double*, int64_t, int64_t, int64_t, double*);

}  // namespace mige::cpu
