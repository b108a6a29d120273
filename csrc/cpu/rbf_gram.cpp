// rbf_gram on the CPU: k_ij = exp(−‖x_i − y_j‖² / 2σ²), the squared distances first, then the
// exponential in place. Work: 3 m n d flop and m n exponentials, half of both where y = x.
// Invariant: where y = x the matrix is symmetric to the bit and its diagonal exactly 1.
#include "cpu/rbf_gram.h"

#include "cpu/operators.h"
#include "cpu/scaling.h"

namespace mige::cpu {

template <typename T>
void rbf_gram(const T* x, const T* y, const T* bandwidth, int64_t groups, int64_t m, int64_t n,
              int64_t d, T* out) {
  for_each_group(groups, [&](int64_t g) {
    const T *points = x + g * m * d, *others = y ? y + g * n * d : nullptr;
    T* target = out + g * m * n;
    const T largest = std::max(largest_magnitude(points, m * d),
                               others ? largest_magnitude(others, n * d) : T(0));
    const auto width = ScaledBandwidth<T>::of(bandwidth[g], largest);
    if (others) {
      pair_squared_distances(points, others, m, n, d, width.scale, target);
      parallel(m, kRowGrain, [&](int64_t begin, int64_t end) {
        rbf_rows(target, n, width.gamma, false, begin, end);
      });
    } else {
      upper_squared_distances(points, m, d, width.scale, target);
      upper_to_gram(target, m, width.gamma);
    }
  });
}

template void rbf_gram(const float*, const float*, const float*, int64_t, int64_t, int64_t, int64_t,
                       float*);
template void rbf_gram(const double*, const double*, const double*, int64_t, int64_t, int64_t,
                       int64_t, double*);

}  // namespace mige::cpu
