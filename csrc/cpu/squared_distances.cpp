// squared_distances on the CPU: out_ij = ‖x_i − y_j‖². squared_distances.h has layout and work.
#include "cpu/squared_distances.h"

#include "cpu/operators.h"

namespace mige::cpu {

template <typename T>
void squared_distances(const PairwiseArguments<T>& p) {
  for_each_group(p.groups, [&](int64_t g) {
    const T* x = p.x + g * p.m * p.d;
    T* out = p.out + g * p.m * p.n;
    squared_distance_matrix(x, p.y ? p.y + g * p.n * p.d : nullptr, p.m, p.n, p.d, T(1), out);
    if (!p.y) mirror(out, p.m);
  });
}

MIGE_INSTANTIATE(squared_distances, PairwiseArguments);

}  // namespace mige::cpu
