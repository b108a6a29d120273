// eigh: symmetric eigendecomposition. On the CPU LAPACK, groups in parallel; on CUDA the Jacobi
// kernels, or torch's solver for large matrices.
#include "bind/operator.h"
#include "cpu/runtime.h"
#include "cpu/simd.h"

namespace mige::bind {
namespace {

// Above this size torch's solver is predicted to be faster (benchmarks/README.md), although it
// waits for the device. The size alone decides, so a matrix has the same bits in any batch.
constexpr int64_t kLargestJacobi = 2048;

template <typename T>
void eigh_on_cpu(const T* k,  // [groups, m, m]
                 int64_t groups, int64_t m,
                 T* values,     // [groups, m], ascending
                 T* vectors) {  // [groups, m, m], one vector a row
  cpu::parallel(groups, 1, [&](int64_t begin, int64_t end) {
    // MKL's bits depend on the alignment of a matrix, so every group is computed in the same place.
    const cpu::Buffer<T> matrix(m * m);
    for (int64_t g = begin; g < end; ++g) {
      std::copy_n(k + g * m * m, m * m, matrix.get());
      cpu::eigh(matrix.get(), m, values + g * m);
      std::copy_n(matrix.get(), m * m, vectors + g * m * m);
    }
  });
  for (int64_t i = 0; i < groups * m; ++i)  // an eigenvalue of a finite matrix may be out of range
    values[i] = saturate<T>(static_cast<double>(values[i]));
}

}  // namespace

std::tuple<Tensor, Tensor> eigh(const Tensor& k) {
  check_matrix("k", k, "(..., M, M) with M >= 1", 1, 1);
  if (rows(k) != columns(k)) fail("ValueError: k must have shape (..., M, M), got ", shape_text(k));
  Operator op("eigh", "k", k, std::true_type());
  const int64_t m = op.rows;
  if (k.is_cuda() && m > kLargestJacobi && op.groups > 0) {
    // The upper triangle of the transpose is the lower one of k.
    const auto [values, vectors] = linalg_eigh(torch::stable::transpose(*op.x.tensor, -2, -1));
    return {values, vectors};
  }
  const Output values = op.output({m}), vectors = op.output({m, m});
  op.run([](const auto&... arguments) { eigh_on_cpu(arguments...); },
         [](const auto* k, int64_t groups, int64_t m, auto* values, auto* vectors, void* work,
            void* stream) {
           return cuda::eigh(k, groups, m, values, vectors, static_cast<int32_t*>(nullptr), work,
                             stream);
         },
         [&](auto zero) { return cuda::eigh_work<decltype(zero)>(op.groups, m); }, op.x, op.groups,
         m, values, vectors);
  return {values.tensor, torch::stable::transpose(vectors.tensor, -2, -1)};
}

}  // namespace mige::bind

MIGE_REGISTER(eigh)
