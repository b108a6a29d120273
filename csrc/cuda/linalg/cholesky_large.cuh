// Pivoted Cholesky decomposition K = L Lᵀ of a matrix that is too large for the shared memory of
// one thread block, by panels of 32 columns. One thread block computes a panel P. Then thread
// blocks with 64×64 tiles subtract P Pᵀ from the rest of the matrix (right-looking). Each step is a
// launch of its own, which synchronizes the thread blocks.
//
// Work: n³ multiply-adds. Invariant: `diagonal` holds the diagonal of `rest` minus the columns of L
// so far, so the next pivot is known before the trailing update.
#pragma once

#include "cuda/linalg/large_matrix.cuh"

namespace mige::cuda {

constexpr int kPanelThreads = 512;

// `rest` = scale K + shift I, from the lower triangle of K. The second attempt (`again`) skips
// matrices that are not indefinite. A thread takes an element, rows along y, groups along z. Work:
// reads and writes n² values. Registers: at most 64.
template <typename T, Spectrum kSpectrum>
__global__ void __launch_bounds__(kElementThreads, 4)
    load_large_kernel(LargeArguments<T> p, bool again) {
  const int64_t n = p.e.n;
  for (int64_t g = blockIdx.z; g < p.e.groups; g += gridDim.z) {
    if (again && !p.state[g].indefinite) continue;
    const T magnitude = magnitude_of<T>(p.e.largest[g]);
    const T scale = matrix_scale(kSpectrum, magnitude);
    const T shift = large_shift(p, kSpectrum, g);
    for (int64_t i = blockIdx.y; i < n; i += gridDim.y)
      grid_stride<kElementThreads>(n, [&](int64_t j) {
        const int64_t at = j <= i ? i * n + j : j * n + i;
        const T value = scale * p.e.k[g * n * n + at] + (i == j ? shift : T(0));
        p.rest[(g * n + i) * n + j] = value;
        if (again) p.columns(g)[i * n + j] = 0;  // removes the columns of the first attempt
        if (i == j) p.diagonal[g * n + i] = value;
      });
  }
}

// The square of the bound √‖K²‖_∞ (see eigenvalue_bound) of indefinite matrices, from K in `rest`.
// A warp takes a row, groups along y. Work: 2 n³ flop, n³ reads. Registers: at most 64.
template <typename T>
__global__ void __launch_bounds__(kRowThreads, 4) bound_kernel(LargeArguments<T> p) {
  const int64_t n = p.e.n;
  const int lane = threadIdx.x % kWarp;
  for (int64_t g = blockIdx.y; g < p.e.groups; g += gridDim.y) {
    if (!p.state[g].indefinite) continue;
    const T* const k = p.rest + g * n * n;
    for_each_row(n, [&](int64_t i) {
      T sum = 0;
      for (int64_t j = lane; j < n; j += kWarp) {
        T dot = 0;
#pragma unroll 2
        for (int64_t l = 0; l < n; ++l) dot += k[l * n + i] * k[l * n + j];
        sum += dot < T(0) ? -dot : dot;
      }
      sum = warp_sum(sum);
      if (lane == 0 && sum > T(0)) atomicMax(&p.state[g].bound, key_of(sum));
    });
  }
}

// Runs after the first attempt: a matrix without full rank is marked as indefinite and starts
// again. A thread takes a group. Work: reads one state per group. Registers: at most 64.
template <typename T>
__global__ void __launch_bounds__(kWarp) indefinite_kernel(LargeArguments<T> p) {
  grid_stride<kWarp>(p.e.groups, [&](int64_t g) {
    const T magnitude = magnitude_of<T>(p.e.largest[g]);
    if (magnitude == magnitude && p.state[g].rank < p.e.n) {
      p.state[g].indefinite = 1;
      p.state[g].finished = 0;
      p.state[g].rank = 0;
    }
  });
}

// Computes a panel, columns k0 … k0 + 31 of L. For each column the thread block finds the pivot,
// subtracts the product of the panel's earlier columns, divides by the root of the pivot, and
// updates the diagonal. A thread block takes a group, a thread every 512th row. Work: 32 n²/2
// multiply-adds over the whole decomposition. Registers: at most 64 in float, 128 in double.
template <typename T, Spectrum kSpectrum>
__global__ void __launch_bounds__(kPanelThreads, sizeof(T) == 4 ? 2 : 1)
    panel_kernel(LargeArguments<T> p, int k0) {
  constexpr int kWarps = kPanelThreads / kWarp;
  __shared__ Largest<T> warp_best[kWarps];
  __shared__ T factor[kPanel];
  const int64_t n = p.e.n;
  const int t = static_cast<int>(threadIdx.x), lane = t % kWarp;

  for (int64_t g = blockIdx.x; g < p.e.groups; g += gridDim.x) {
    if (p.state[g].finished) continue;  // written by an earlier launch, the same for all threads
    const T stop = kSpectrum == Spectrum::kGram
                       ? kGramStop<T>
                       : (p.state[g].indefinite ? T(0) : small_shift<T>(n) / 4);
    const T* const rest = p.rest + g * n * n;
    T* const diagonal = p.diagonal + g * n;
    T* const a = p.columns(g);
    int k = k0;
    bool ended = false;
    for (; k < k0 + kPanel && k < n; ++k) {
      Largest<T> best{-1, static_cast<int>(n) - 1};
      for (int i = t; i < n; i += kPanelThreads) best.take_next(diagonal[i], i);
      best.take_warp();
      if (lane == 0) warp_best[t / kWarp] = best;
      __syncthreads();
      for (int w = 0; w < kWarps; ++w) best.take(warp_best[w].value, warp_best[w].index);
      if (!(best.value > stop)) {
        ended = true;
        break;
      }
      const int at = best.index;
      if (t < k - k0) factor[t] = a[(k0 + t) * n + at];
      __syncthreads();
      const T root = sqrt(best.value);
      for (int i = t; i < n; i += kPanelThreads) {
        T value = rest[at * n + i];
        for (int c = 0; c < k - k0; ++c) value -= a[(k0 + c) * n + i] * factor[c];
        const T before = diagonal[i];
        const T l = i == at ? root : (before < T(0) ? T(0) : value / root);
        a[k * n + i] = l;
        const T after = before - l * l;
        diagonal[i] = i == at || before < T(0) ? T(-1) : (after > T(0) ? after : T(0));
      }
      __syncthreads();  // the diagonal is complete, and `factor` has been read
    }
    if (t == 0) {
      p.state[g].rank = k;
      p.state[g].finished = ended || k == n;
    }
    __syncthreads();
  }
}

// Computes rest −= P Pᵀ with the panel P of 32 columns. A thread block takes a 64×64 tile, a thread
// 4×4 elements, groups along z. Work: 64 n² flop, because both triangles are computed; reads and
// writes n² values. Shared memory: 8.5 KiB in float, 17 KiB in double. Registers: at most 128 in
// float, 255 in double.
template <typename T>
__global__ void __launch_bounds__(kTileThreads, kTileBlocks<T, 4>)
    trailing_kernel(LargeArguments<T> p, int k0) {
  __shared__ __align__(16) T slices[Tile<4>::kSlices];
  const int64_t n = p.e.n;
  const int64_t row0 = blockIdx.y * int64_t(Tile<4>::kSize);
  const int64_t column0 = blockIdx.x * int64_t(Tile<4>::kSize);
  for (int64_t g = blockIdx.z; g < p.e.groups; g += gridDim.z) {
    if (p.state[g].finished) continue;
    T sum[4][4] = {};
    const Operand<T, false> panel{p.columns(g) + k0 * n, n, kPanel, n, T(1)};
    accumulate<T, 4>(panel, row0, panel, column0, slices, sum, Multiply{});
    T* const rest = p.rest + g * n * n;
    for_each_element<4>(row0, column0, n, n,
                        [&](int i, int j, int64_t r, int64_t c) { rest[r * n + c] -= sum[i][j]; });
  }
}

// --- launchers ---

template <typename T, Spectrum kSpectrum>
void load_large(const LargeArguments<T>& p, bool again, Stream& stream) {
  const int64_t n = p.e.n;
  const Grid grid{at_most(divide_up(n, kElementThreads), 64), at_most(n, 1024),
                  group_blocks(p.e.groups)};
  stream.launch(load_large_kernel<T, kSpectrum>, {grid, kElementThreads}, p, again);
}

template <typename T, Spectrum kSpectrum>
void factorize_panels(const LargeArguments<T>& p, Stream& stream) {
  const int64_t n = p.e.n, tiles = divide_up(n, Tile<4>::kSize), z = group_blocks(p.e.groups);
  for (int k0 = 0; k0 < n; k0 += kPanel) {
    stream.launch(panel_kernel<T, kSpectrum>, {{z}, kPanelThreads}, p, k0);
    if (k0 + kPanel < n)
      stream.launch(trailing_kernel<T>, {{tiles, tiles, z}, kTileThreads}, p, k0);
  }
}

// Computes L of every group. For symmetric matrices the second attempt is always launched, since
// the host does not wait for the result of the first one.
template <typename T, Spectrum kSpectrum>
void cholesky_large(const LargeArguments<T>& p, Stream& stream) {
  load_large<T, kSpectrum>(p, false, stream);
  factorize_panels<T, kSpectrum>(p, stream);
  if (kSpectrum == Spectrum::kGram) return;
  stream.launch(indefinite_kernel<T>, {{group_blocks(divide_up(p.e.groups, kWarp))}, kWarp}, p);
  load_large<T, kSpectrum>(p, true, stream);
  stream.launch(bound_kernel<T>, row_warps(p.e.n, p.e.groups), p);
  load_large<T, kSpectrum>(p, true, stream);
  factorize_panels<T, kSpectrum>(p, stream);
}

}  // namespace mige::cuda
