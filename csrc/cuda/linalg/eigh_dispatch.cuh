// Chooses the kernels that decompose a matrix: by one warp, by one thread block, or by many thread
// blocks. The choice depends on n and on the device's shared memory alone, so a matrix has the same
// bits in any batch.
#pragma once

#include "cuda/linalg/eigh_large.cuh"

namespace mige::cuda {

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
  const auto in_a_block = [&](auto kernel, int threads) {
    stream.launch(kernel, {{e.groups}, threads, shared_matrix_size<T>(e.n)}, e);
  };
  if (e.n <= kWarp)
    stream.launch(eigh_warp_kernel<T, kSpectrum>,
                  {{divide_up(e.groups, kWarpsABlock)}, kWarpsABlock * kWarp}, e);
  else if (!fits_a_block<T>(e.n))
    eigh_large<T, kSpectrum>(e, work, stream);
  else if (e.n <= 64)
    in_a_block(eigh_block_kernel<T, kSpectrum, 8>, kEighThreads<8>);
  else if (e.n <= 128)
    in_a_block(eigh_block_kernel<T, kSpectrum, 16>, kEighThreads<16>);
  else
    in_a_block(eigh_block_kernel<T, kSpectrum, 32>, kEighThreads<32>);
}

}  // namespace mige::cuda
