// The operators on the CPU, one file each. Inputs must be finite and bandwidths positive;
// bind/operator.h checks both. The threads divide the groups, or the rows if there is only one
// group. Results have the same bits for any number of groups and threads.
#pragma once

#include "common/operators.h"

namespace mige::cpu {

// The index of the first NaN or infinity, or `count` if there is none.
template <typename T>
int64_t first_not_finite(const T* x, int64_t count);  // x [count]

#define MIGE_DECLARE(name, Arguments) \
  template <typename T>               \
  void name(const Arguments<T>& p)
MIGE_FOR_EACH_OPERATOR(MIGE_DECLARE);
#undef MIGE_DECLARE

// Instantiates an operator for float and double.
#define MIGE_INSTANTIATE(name, Arguments)      \
  template void name(const Arguments<float>&); \
  template void name(const Arguments<double>&)

}  // namespace mige::cpu
