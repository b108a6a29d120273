// The eigendecomposition by many thread blocks (eigh.cuh).
#include "cuda/linalg/cholesky_large.cuh"
#include "cuda/linalg/jacobi_large.cuh"

namespace mige::cuda {
namespace {

// Writes the squared norms of the columns. A warp takes a column, and blockIdx.y selects the
// groups. Work: 2 n² flop; reads n² values. Registers: at most 64.
template <typename T>
__global__ void __launch_bounds__(kRowThreads, 4) large_norms_kernel(LargeArguments<T> p) {
  const int64_t n = p.e.n;
  for (int64_t g = blockIdx.y; g < p.e.groups; g += gridDim.y)
    for_each_row(n, [&](int64_t j) {
      const T sum = squared_norm(p.columns(g) + j * n, n);
      if (threadIdx.x % kWarp == 0) p.norm[g * n + j] = sum;
    });
}

// Writes eigenvalues in ascending order, unit eigenvectors, and info. A warp takes a column, and
// blockIdx.y selects the groups. Work: reads 2 n² values, writes n². Registers: at most 64.
template <typename T, MatrixKind kKind>
__global__ void __launch_bounds__(kRowThreads, 4) large_sort_kernel(LargeArguments<T> p) {
  const int64_t n = p.e.n;
  for (int64_t g = blockIdx.y; g < p.e.groups; g += gridDim.y) {
    const T magnitude = magnitude_of<T>(p.e.largest[g]);
    const bool finite = magnitude == magnitude;
    const Iteration iteration = p.state[g].iteration();
    const Eigenpairs<T> out{large_shift(p, kKind, g),
                            matrix_scale(kKind, magnitude),
                            false,
                            !(finite && iteration.converged),
                            p.e.values + g * n,
                            p.e.vectors + g * n * n};
    for_each_row(n, [&](int64_t j) {
      write_eigenpair(p.columns(g) + j * n, p.norm + g * n, n, j, out, [](int64_t i) { return i; });
    });
    if (p.e.info && blockIdx.x == 0 && threadIdx.x == 0) p.e.info[g] = info_of(finite, iteration);
  }
}

}  // namespace

template <typename T, MatrixKind kKind>
void eigh_large(const Eigenproblem<T>& e, void* work, Stream& stream) {
  const LargeArguments<T> p{Workspace(work), e};
  stream.zero(p.state, e.groups);
  stream.zero(p.sweeps, kMaxLargeSweeps);
  stream.zero(p.a, p.a_size());
  cholesky_large<T, kKind>(p, stream);
  jacobi_large(p, stream);
  stream.launch(large_norms_kernel<T>, row_warps(e.n, e.groups), p);
  stream.launch(large_sort_kernel<T, kKind>, row_warps(e.n, e.groups), p);
}

#define MIGE_INSTANTIATE_EIGH_LARGE(T)                                                    \
  template void eigh_large<T, MatrixKind::kGram>(const Eigenproblem<T>&, void*, Stream&); \
  template void eigh_large<T, MatrixKind::kSymmetric>(const Eigenproblem<T>&, void*, Stream&)
MIGE_INSTANTIATE_EIGH_LARGE(float);
MIGE_INSTANTIATE_EIGH_LARGE(double);

}  // namespace mige::cuda
