// squared_distances on the CPU: out_ij = ‖x_i − y_j‖². Layout, work and invariants are in
// squared_distances.h.
#include "cpu/squared_distances.h"

#include "cpu/operators.h"

namespace mige::cpu {

template <typename T>
void squared_distances(const T* x, const T* y, int64_t groups, int64_t m, int64_t n, int64_t d,
                       T* out) {
  for_each_group(groups, [&](int64_t g) {
    const T* points = x + g * m * d;
    T* target = out + g * m * n;
    if (y) {
      pair_squared_distances(points, y + g * n * d, m, n, d, T(1), target);
    } else {
      upper_squared_distances(points, m, d, T(1), target);
      mirror(target, m);
    }
  });
}

template void squared_distances(const float*, const float*, int64_t, int64_t, int64_t, int64_t,
                                float*);
template void squared_distances(const double*, const double*, int64_t, int64_t, int64_t, int64_t,
                                double*);

}  // namespace mige::cpu
