// Which kernels decompose a matrix: decided by its size and the device's shared memory alone, so
// that a matrix gives the same bits in any batch.
#pragma once

#include "cuda/linalg/jacobi_large.cuh"

namespace mige::cuda {

template <typename T>
LargeArguments<T> large_layout(const EighArguments<T>& e, WorkSpace& space) {
  const int64_t n = e.n, groups = e.groups;
  LargeArguments<T> p{};
  p.e = e;
  p.blocks = static_cast<int>(divide_up(n, kPanel));
  p.pairs = power_of_two_above(p.blocks) / 2;
  p.pieces = static_cast<int>(divide_up(n, kPiece));
  p.state = space.take<LargeState<T>>(groups);
  p.rest = space.take<T>(groups * n * n);
  p.diagonal = space.take<T>(groups * n);
  p.a = space.take<T>(groups * p.blocks * kPanel * n);
  p.grams = space.take<T>(groups * p.pairs * p.pieces * kPair * kPair);
  p.norm = space.take<T>(groups * n);
  return p;
}

template <typename T>
bool fits_a_block(int64_t n) {
  return n <= kWarp || (n <= kLargestBench && bench_size<T>(static_cast<int>(n)) <= largest_smem());
}

template <typename T>
int64_t spectral_work(int64_t groups, int64_t n) {
  if (fits_a_block<T>(n)) return 0;
  WorkSpace space(nullptr);
  EighArguments<T> e{};
  e.groups = groups;
  e.n = static_cast<int>(n);
  large_layout(e, space);
  return space.size();
}

template <typename T, Spectrum kSpectrum, int kLanes>
int launch_eigh_block(const EighArguments<T>& e, void* stream) {
  return launch(eigh_block_kernel<T, kSpectrum, kLanes>, dim3(static_cast<unsigned>(e.groups)),
                dim3(kBenchThreads<kLanes>), bench_size<T>(e.n), stream, e);
}

template <typename T, Spectrum kSpectrum>
int load_large(const LargeArguments<T>& p, bool again, void* stream) {
  const int64_t n = p.e.n, columns = divide_up(n, 256);
  const dim3 grid(static_cast<unsigned>(columns < 64 ? columns : 64),
                  static_cast<unsigned>(n < 1024 ? n : 1024), grid_z(p.e.groups));
  return launch(load_large_kernel<T, kSpectrum>, grid, dim3(256), 0, stream, p, again);
}

template <typename T, Spectrum kSpectrum>
int cholesky_large(const LargeArguments<T>& p, void* stream) {
  const int64_t n = p.e.n;
  const auto tiles = static_cast<unsigned>(divide_up(n, Tile<4>::kSize));
  const dim3 grid(tiles, tiles, grid_z(p.e.groups));
  int failed = 0;
  for (int k0 = 0; k0 < n && !failed; k0 += kPanel) {
    failed = launch(panel_kernel<T, kSpectrum>, dim3(grid_z(p.e.groups)), dim3(kPanelThreads), 0,
                    stream, p, k0);
    if (!failed && k0 + kPanel < n)
      failed = launch(trailing_kernel<T>, grid, dim3(kTileThreads), 0, stream, p, k0);
  }
  return failed;
}

template <typename T, Spectrum kSpectrum>
int spectral_large(const EighArguments<T>& e, void* work, void* stream) {
  WorkSpace space(work);
  const LargeArguments<T> p = large_layout(e, space);
  const int64_t n = e.n;
  const auto clear = [&](void* at, size_t bytes) {
    return static_cast<int>(cudaMemsetAsync(at, 0, bytes, static_cast<cudaStream_t>(stream)));
  };
  const auto groups = static_cast<size_t>(e.groups);
  int failed = clear(p.state, groups * sizeof(LargeState<T>));
  if (!failed) failed = clear(p.a, groups * static_cast<size_t>(p.blocks * kPanel * n) * sizeof(T));
  if (!failed) failed = load_large<T, kSpectrum>(p, false, stream);
  if (!failed) failed = cholesky_large<T, kSpectrum>(p, stream);
  if (kSpectrum == Spectrum::kSymmetric && !failed) {  // the second attempt
    const dim3 rows(static_cast<unsigned>(divide_up(n, 8)), grid_z(e.groups));
    const dim3 warps(grid_z(divide_up(e.groups, kWarp)));
    failed = launch(judge_kernel<T>, warps, dim3(kWarp), 0, stream, p);
    if (!failed) failed = load_large<T, kSpectrum>(p, true, stream);
    if (!failed) failed = launch(bound_kernel<T>, rows, dim3(256), 0, stream, p);
    if (!failed) failed = load_large<T, kSpectrum>(p, true, stream);
    if (!failed) failed = cholesky_large<T, kSpectrum>(p, stream);
  }
  const dim3 grid(static_cast<unsigned>(p.pairs), static_cast<unsigned>(p.pieces),
                  grid_z(e.groups));
  for (int sweep = 0; sweep < kMaxLargeSweeps; ++sweep)
    for (int r = 1; r < 2 * p.pairs && !failed; ++r) {
      failed = launch(pair_gram_kernel<T>, grid, dim3(kTileThreads), 0, stream, p, sweep, r);
      if (!failed)
        failed = launch(pair_rotate_kernel<T>, grid, dim3(kTileThreads), kRotateSmem<T>, stream, p,
                        sweep, r);
    }
  const dim3 columns(static_cast<unsigned>(divide_up(n, 8)), grid_z(e.groups));
  if (!failed) failed = launch(large_norms_kernel<T>, columns, dim3(256), 0, stream, p);
  if (!failed) failed = launch(large_sort_kernel<T, kSpectrum>, columns, dim3(256), 0, stream, p);
  return failed;
}

template <typename T, Spectrum kSpectrum>
int spectral(const EighArguments<T>& e, void* work, void* stream) {
  if (e.groups > kLargestGridX) return static_cast<int>(cudaErrorInvalidConfiguration);
  if (e.n <= kWarp) {
    const auto blocks = static_cast<unsigned>(divide_up(e.groups, kWarpsABlock));
    return launch(eigh_warp_kernel<T, kSpectrum>, dim3(blocks), dim3(kWarpsABlock * kWarp), 0,
                  stream, e);
  }
  if (!fits_a_block<T>(e.n)) return spectral_large<T, kSpectrum>(e, work, stream);
  if (e.n <= 64) return launch_eigh_block<T, kSpectrum, 8>(e, stream);
  if (e.n <= 128) return launch_eigh_block<T, kSpectrum, 16>(e, stream);
  return launch_eigh_block<T, kSpectrum, 32>(e, stream);
}

}  // namespace mige::cuda
