// eigh on the CPU: LAPACK decomposes each group (bind/runtime.cpp). Groups run in parallel.
#include "cpu/operators.h"
#include "cpu/runtime.h"
#include "cpu/simd.h"

namespace mige::cpu {

template <typename T>
void eigh(const EighArguments<T>& p) {
  const int64_t m = p.n;
  parallel(p.groups, 1, [&](int64_t begin, int64_t end) {
    // MKL's results depend on the alignment of the matrix, so every group is computed in the same
    // buffer.
    Buffer<T> matrix(m * m);
    for (int64_t g = begin; g < end; ++g) {
      poll_interrupt();
      T* values = p.values + g * m;
      std::copy_n(p.k + g * m * m, m * m, matrix.get());
      eigh(matrix, m, values);
      std::copy_n(matrix.get(), m * m, p.vectors + g * m * m);
      // An eigenvalue may overflow although all elements are finite.
      for (int64_t i = 0; i < m; ++i) values[i] = saturate<T>(static_cast<double>(values[i]));
    }
  });
}

MIGE_INSTANTIATE(eigh, EighArguments);

}  // namespace mige::cpu
