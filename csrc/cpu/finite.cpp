// The search for a NaN or an infinity, which the operators reject. Work: one pass over the values
// without a branch, and a second pass only if there is such a value.
#include "cpu/operators.h"
#include "cpu/scaling.h"

namespace mige::cpu {

template <typename T>
int64_t first_not_finite(const T* x, int64_t count) {  // x [count]
  const T largest = largest_magnitude(x, count);
  if (largest == largest) return count;
  int64_t i = 0;
  while (i < count && x[i] - x[i] == T(0)) ++i;
  return i;
}

template int64_t first_not_finite(const float*, int64_t);
template int64_t first_not_finite(const double*, int64_t);

}  // namespace mige::cpu
