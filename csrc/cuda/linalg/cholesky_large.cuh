// Pivoted Cholesky decomposition scale K + shift I = L Lᵀ of a matrix that is too large for the
// shared memory of one thread block, by panels of 32 columns. One thread block computes a panel P.
// Then thread blocks with 64×64 tiles subtract P Pᵀ from the rest of the matrix (right-looking).
// Each step is a launch of its own, which synchronizes the thread blocks. The shift is 0 with
// MatrixKind::kGram and small with MatrixKind::kSymmetric. A matrix that proves to be indefinite is
// decomposed again with a larger shift (eigh_small.cuh).
//
// Work: n³ multiply-adds. Invariant: diagonal_i = scale K_ii + shift − Σ_c L_ic² over the columns
// of L so far, or −1 if row i has been a pivot. The next pivot is therefore known before P Pᵀ is
// subtracted.
#pragma once

#include "cuda/linalg/large_matrix.cuh"

namespace mige::cuda {

constexpr int kPanelThreads = 512;

// `rest` = scale K + shift I, from the lower triangle of K. The second attempt (`again`) skips
// matrices that are not indefinite. A thread takes an element, blockIdx.y selects the rows, and
// blockIdx.z selects the groups. Work: reads and writes n² values. Registers: at most 64.
template <typename T, MatrixKind kKind>
__global__ void __launch_bounds__(kElementThreads, 4)
    load_large_kernel(LargeArguments<T> p, bool again) {
  const int64_t n = p.e.n;
  for (int64_t g = blockIdx.z; g < p.e.groups; g += gridDim.z) {
    if (again && !p.state[g].indefinite) continue;
    const T magnitude = magnitude_of<T>(p.e.largest[g]);
    const T scale = matrix_scale(kKind, magnitude);
    const T shift = large_shift(p, kKind, g);
    for (int64_t i = blockIdx.y; i < n; i += gridDim.y)
      grid_stride<kElementThreads>(n, [&](int64_t j) {
        const int64_t at = j <= i ? i * n + j : j * n + i;
        const T value = scale * p.e.k[g * n * n + at] + (i == j ? shift : T(0));
        p.rest[(g * n + i) * n + j] = value;
        if (again) p.columns(g)[i * n + j] = 0;  // removes the columns of the first attempt
        if (i + j == 0) p.ended[g] = 0;          // for the panels that follow
        if (i == j) p.diagonal[g * n + i] = value;
      });
  }
}

// Computes ‖R²‖_∞ of each indefinite matrix, with R = scale K + shift I for the small shift, as
// load_large_kernel has left it in `rest`. The square root of ‖R²‖_∞ bounds the magnitudes of the
// eigenvalues of R (eigenvalue_bound). A warp takes a row, and blockIdx.y selects the groups. Work:
// 2 n³ flop, n³ reads. Registers: at most 64.
template <typename T>
__global__ void __launch_bounds__(kRowThreads, 4) bound_kernel(LargeArguments<T> p) {
  const int64_t n = p.e.n;
  for (int64_t g = blockIdx.y; g < p.e.groups; g += gridDim.y) {
    if (!p.state[g].indefinite) continue;
    for_each_row(n, [&](int64_t i) {
      const T sum = row_sum_of_square(p.rest + g * n * n, n, n, i);
      if (threadIdx.x % kWarp == 0 && sum > T(0)) atomicMax(&p.state[g].bound, key_of(sum));
    });
  }
}

// Computes a panel, columns k0 … k0 + 31 of L. For each column the thread block finds the pivot,
// subtracts the product of the panel's earlier columns, divides by the root of the pivot, and
// updates the diagonal. With MatrixKind::kSymmetric, a matrix is marked as indefinite if the
// largest remaining pivot is at most a quarter of the small shift. A thread block takes a group,
// and a thread takes every 512th row. Work: 16 n² multiply-adds over the decomposition, because a
// column has on average 16 earlier columns in its panel. Registers: at most 64 in float, 128 in
// double.
template <typename T, MatrixKind kKind>
__global__ void __launch_bounds__(kPanelThreads, sizeof(T) == 4 ? 2 : 1)
    panel_kernel(LargeArguments<T> p, int k0) {
  constexpr int kWarps = kPanelThreads / kWarp;
  __shared__ Largest<T> warp_best[kWarps];
  __shared__ T factor[kPanel];
  const int64_t n = p.e.n;
  const int t = static_cast<int>(threadIdx.x), lane = t % kWarp;

  for (int64_t g = blockIdx.x; g < p.e.groups; g += gridDim.x) {
    if (p.ended[g] < 0) continue;  // written by an earlier launch, the same for all threads
    const T stop = kKind == MatrixKind::kGram
                       ? kGramStop<T>
                       : (p.state[g].indefinite ? T(0) : small_shift<T>(n) / 4);
    const T* const rest = p.rest + g * n * n;
    T* const diagonal = p.diagonal + g * n;
    T* const a = p.columns(g);
    int k = k0;
    bool ended = false;
    for (; k < k0 + kPanel && k < n; ++k) {
      Largest<T> best{-1, static_cast<int>(n) - 1};  // stays if all pivots are used or NaN
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
      p.ended[g] = ended || k == n ? -1 : 0;
      if (kKind == MatrixKind::kSymmetric && ended) p.state[g].indefinite = 1;
    }
    __syncthreads();
  }
}

// The finish of `contract` (contraction.cuh) that subtracts the elements of P Pᵀ from `rest`.
template <typename T>
struct Subtract {
  using Sum = T;
  T* rest;  // [groups, m, n]

  __device__ auto of(int64_t g, int64_t m, int64_t n) const {
    T* const target = rest + g * m * n;
    return [=](int64_t i, int64_t j, T sum) { target[i * n + j] -= sum; };
  }
};

// --- launchers ---

template <typename T, MatrixKind kKind>
void load_large(const LargeArguments<T>& p, bool again, Stream& stream) {
  const int64_t n = p.e.n;
  const Grid grid{at_most(divide_up(n, kElementThreads), 64), at_most(n, 1024),
                  group_blocks(p.e.groups)};
  stream.launch(load_large_kernel<T, kKind>, {grid, kElementThreads}, p, again);
}

// Computes one panel after another, and subtracts the product P Pᵀ of each panel.
template <typename T, MatrixKind kKind>
void factorize_panels(const LargeArguments<T>& p, Stream& stream) {
  const int64_t n = p.e.n;
  for (int k0 = 0; k0 < n; k0 += kPanel) {
    stream.launch(panel_kernel<T, kKind>, {{group_blocks(p.e.groups)}, kPanelThreads}, p, k0);
    const Columns<T> panel{p.a + k0 * n, kPanel, n, p.blocks * kPanel * n};
    if (k0 + kPanel < n)
      contract<T>(panel, panel, Subtract<T>{p.rest}, {p.e.groups, n, n, p.ended}, stream);
  }
}

// Computes L of every group. With MatrixKind::kSymmetric the second attempt is always launched,
// because the host does not wait for the result of the first attempt. The matrix is loaded once for
// bound_kernel, because the first attempt has overwritten it, and once with the larger shift.
template <typename T, MatrixKind kKind>
void cholesky_large(const LargeArguments<T>& p, Stream& stream) {
  load_large<T, kKind>(p, false, stream);
  factorize_panels<T, kKind>(p, stream);
  if (kKind == MatrixKind::kGram) return;
  load_large<T, kKind>(p, true, stream);
  stream.launch(bound_kernel<T>, row_warps(p.e.n, p.e.groups), p);
  load_large<T, kKind>(p, true, stream);
  factorize_panels<T, kKind>(p, stream);
}

}  // namespace mige::cuda
