// eigh: symmetric eigendecomposition. The CPU uses LAPACK with groups in parallel. CUDA uses the
// Jacobi kernels, or torch's solver for large matrices.
#include "bind/operator.h"

namespace mige::bind {

// Above this size torch's solver is predicted to be faster (benchmarks/README.md), although it
// waits for the device. The size alone decides, so a result has the same bits in any batch.
constexpr int64_t kLargestJacobi = 2048;

std::tuple<Tensor, Tensor> eigh(const Tensor& k) {
  check_matrix("k", k, "(..., M, M) with M >= 1", 1, 1);
  if (rows(k) != columns(k)) fail("ValueError: k must have shape (..., M, M), got ", shape_text(k));
  Operator op("eigh", "k", k, std::nullopt);
  const int64_t m = op.rows;
  if (k.is_cuda() && m > kLargestJacobi && op.groups > 0) {
    // linalg_eigh reads an upper triangle. In the transpose, this is the lower triangle of k.
    const auto [values, vectors] = linalg_eigh(torch::stable::transpose(*op.x.tensor, -2, -1));
    return {values, vectors};
  }
  const Output values = op.output({m}), vectors = op.output({m, m});
  op.run<EighArguments>(MIGE_KERNELS(eigh), op.x, op.groups, static_cast<int>(m), values, vectors,
                        nullptr);
  return {values.tensor, torch::stable::transpose(vectors.tensor, -2, -1)};
}

}  // namespace mige::bind

MIGE_REGISTER(eigh)
