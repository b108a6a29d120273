// Symmetric eigendecomposition by one warp or one thread block (eigh_small.cuh). If the matrix is
// too large for the shared memory of one thread block, many thread blocks run the same algorithm on
// a matrix in global memory: pivoted Cholesky by panels (cholesky_large.cuh) and Jacobi between
// column blocks (jacobi_large.cuh). This file writes their results and chooses the kernels.
#pragma once

#include "cuda/linalg/cholesky_large.cuh"
#include "cuda/linalg/jacobi_large.cuh"

namespace mige::cuda {

// Writes the squared norms of the columns. A warp takes a column, groups along y. Work: 2 n² flop,
// reads n² values. Registers: at most 64.
template <typename T>
__global__ void __launch_bounds__(kRowThreads, 4) large_norms_kernel(LargeArguments<T> p) {
  const int64_t n = p.e.n;
  for (int64_t g = blockIdx.y; g < p.e.groups; g += gridDim.y)
    for_each_row(n, [&](int64_t j) {
      const T sum = squared_norm(p.columns(g) + j * n, n);
      if (threadIdx.x % kWarp == 0) p.norm[g * n + j] = sum;
    });
}

// Writes eigenvalues in ascending order, unit eigenvectors, and info. A warp takes a column, groups
// along y. Work: reads 2 n² values, writes n². Registers: at most 64.
template <typename T, Spectrum kSpectrum>
__global__ void __launch_bounds__(kRowThreads, 4) large_sort_kernel(LargeArguments<T> p) {
  const int64_t n = p.e.n;
  for (int64_t g = blockIdx.y; g < p.e.groups; g += gridDim.y) {
    const T magnitude = magnitude_of<T>(p.e.largest[g]);
    const bool finite = magnitude == magnitude;
    const Iteration iteration = p.state[g].iteration();
    const Spectral<T> out{large_shift(p, kSpectrum, g), matrix_scale(kSpectrum, magnitude),
                          !(finite && iteration.converged), p.e.values + g * n,
                          p.e.vectors + g * n * n};
    for_each_row(n, [&](int64_t j) {
      write_eigenpair(p.columns(g) + j * n, p.norm + g * n, n, j, out, [](int64_t i) { return i; });
    });
    if (p.e.info && blockIdx.x == 0 && threadIdx.x == 0) p.e.info[g] = info_of(finite, iteration);
  }
}

template <typename T, Spectrum kSpectrum>
void eigh_large(const SpectralArguments<T>& e, void* work, Stream& stream) {
  const LargeArguments<T> p{Workspace(work), e};
  stream.zero(p.state, e.groups);
  stream.zero(p.sweeps, kMaxLargeSweeps);
  stream.zero(p.a, p.a_size());
  cholesky_large<T, kSpectrum>(p, stream);
  jacobi_large(p, stream);
  stream.launch(large_norms_kernel<T>, row_warps(e.n, e.groups), p);
  stream.launch(large_sort_kernel<T, kSpectrum>, row_warps(e.n, e.groups), p);
}

// --- the choice of the kernels ---

// Whether one warp or thread block decomposes a matrix. n and the device's shared memory alone
// decide, so the result of a matrix has the same bits in any batch.
template <typename T>
bool fits_a_block(int64_t n) {
  return n <= kWarp ||
         (n <= kLargestInBlock && shared_matrix_size<T>(static_cast<int>(n)) <= largest_smem());
}

// The bytes of workspace that spectral() needs.
template <typename T>
int64_t spectral_work(int64_t groups, int64_t n) {
  if (fits_a_block<T>(n)) return 0;
  SpectralArguments<T> e{};
  e.groups = groups;
  e.n = static_cast<int>(n);
  return LargeArguments<T>{Workspace(nullptr), e}.size();
}

template <typename T, Spectrum kSpectrum>
void spectral(const SpectralArguments<T>& e, void* work, Stream& stream) {
  if (e.n <= kWarp)
    stream.launch(eigh_warp_kernel<T, kSpectrum>,
                  {{divide_up(e.groups, kWarpsABlock)}, kWarpsABlock * kWarp}, e);
  else if (fits_a_block<T>(e.n))
    with_shape(e.n, [&](auto lanes, auto rows) {
      stream.launch(eigh_block_kernel<T, lanes, rows, kSpectrum>,
                    {{e.groups}, kEighThreads<lanes, rows>, shared_matrix_size<T>(e.n)}, e);
    });
  else
    eigh_large<T, kSpectrum>(e, work, stream);
}

}  // namespace mige::cuda
