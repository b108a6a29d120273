// rbf_gram on the CPU: k_ij = exp(−‖x_i − y_j‖² / 2σ²). The squared distances are computed first,
// then replaced by the exponential. Work: 3 m n d flop and m n exponentials, or half as much for
// y = x. For y = x the matrix is exactly symmetric, and its diagonal is exactly 1.
#include "cpu/operators.h"
#include "cpu/rbf.h"
#include "cpu/scaling.h"

namespace mige::cpu {

template <typename T>
void rbf_gram(const PairwiseArguments<T>& p) {
  const int64_t m = p.m, n = p.n, d = p.d;
  for_each_group(p.groups, [&](int64_t g) {
    const T *x = p.x + g * m * d, *y = p.y ? p.y + g * n * d : nullptr;
    T* out = p.out + g * m * n;
    const T largest = std::max(largest_magnitude(x, m * d), y ? largest_magnitude(y, n * d) : T(0));
    const auto width = ScaledBandwidth<T>::of(p.bandwidth[g], largest);
    squared_distance_matrix(x, y, m, n, d, width.scale, out);
    to_gram(out, m, n, !y, width.gamma);
  });
}

MIGE_INSTANTIATE(rbf_gram, PairwiseArguments);

}  // namespace mige::cpu
