// distance_quantile on the CPU: the distance of rank ceil(quantile · m (m − 1) / 2) among the
// pairs, or the quantile of the positive distances if this distance is 0. Work: 1.5 m² d flop for
// the distances, and the selection of distance_quantile.h. Memory: m² values.
#include "cpu/distance_quantile.h"

#include "cpu/operators.h"
#include "cpu/runtime.h"
#include "cpu/scaling.h"
#include "cpu/squared_distances.h"

namespace mige::cpu {

template <typename T>
void distance_quantile(const DistanceQuantileArguments<T>& p) {
  const int64_t m = p.m, d = p.d;
  parallel(p.groups, 1, [&](int64_t begin, int64_t end) {
    const Buffer<T> s(m * m);
    for (int64_t g = begin; g < end; ++g) {
      const T* x = p.x + g * m * d;
      const T scale = normal_scale(largest_magnitude(x, m * d));
      squared_distance_matrix<T>(x, nullptr, m, m, d, scale, s.get());
      p.out[g] = bandwidth_of(upper_quantile(s.get(), m, p.quantile), scale, 1.0, T(0));
    }
  });
}

MIGE_INSTANTIATE(distance_quantile, DistanceQuantileArguments);

}  // namespace mige::cpu
