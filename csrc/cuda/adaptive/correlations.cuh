// Correlations of samples: standardised samples V [m, d], the eigenvalues and eigenvectors of their
// correlations, and the samples in the eigenvectors' coordinates.
//
// R = VᵀV/m = U Λ Uᵀ if d <= m. Otherwise the dual G = VVᵀ/m = Q Λ Qᵀ, with the same nonzero
// eigenvalues and U = Vᵀ Q (mΛ)^{-1/2}; d − m eigenvalues are zero. The samples' coordinates are
// Y = V U, or Q (mΛ)^{1/2}: [m, r], r = min(m, d).
#pragma once

#include "common/whitening_rule.h"
#include "cuda/launchers.h"
#include "cuda/linalg/contraction.cuh"

namespace mige::cuda {

constexpr int kRidgeRows = kWarp;  // samples of a block of the ridge's objective

template <typename T>
struct Whitening {
  const T* x;  // [groups, m, d]
  int64_t groups, m, d;
  double factor;
  Key<T>* largest;    // [groups], magnitudes of x
  T* inverse;         // [groups, d]: 1 / standard deviations, 0 for constant columns
  T* v;               // [groups, m, d]
  T* gram;            // [groups, r, r]: R or G; free afterwards
  T* values;          // [groups, r], ascending
  T* vectors;         // [groups, r, r], a vector a row
  Support* support;   // [groups]
  T* y;               // [groups, m, r]
  double* objective;  // [groups, blocks, kWarp]: sums over 32 samples, for every τ
  void* spectral;

  __host__ __device__ __forceinline__ bool dual() const { return d > m; }
  __host__ __device__ __forceinline__ int64_t r() const { return dual() ? m : d; }
  __host__ __device__ __forceinline__ int64_t blocks() const { return divide_up(m, kRidgeRows); }
};

template <typename T>
Whitening<T> whitening_layout(WorkSpace& space, int64_t groups, int64_t m, int64_t d) {
  Whitening<T> w{};
  w.groups = groups;
  w.m = m;
  w.d = d;
  const int64_t r = w.r();
  w.largest = space.take<Key<T>>(groups);
  w.inverse = space.take<T>(groups * d);
  w.v = space.take<T>(groups * m * d);
  w.gram = space.take<T>(groups * r * r);
  w.values = space.take<T>(groups * r);
  w.vectors = space.take<T>(groups * r * r);
  w.support = space.take<Support>(groups);
  w.y = space.take<T>(groups * m * r);
  w.objective = space.take<double>(groups * w.blocks() * kWarp);
  w.spectral = space.take<char>(eigh_work<T>(groups, r));
  return w;
}

// λ_j of the dual, 0 where it is rounding error: the samples' mean has been taken off, so there is
// at least one.
template <typename T>
__device__ __forceinline__ T dual_eigenvalue(const T* values,  // [m], ascending
                                             int64_t m, int64_t j) {
  return values[j] <= static_cast<T>(kRankFloor<T>) * values[m - 1] ? T(0) : values[j];
}

// --- standardised samples ---

constexpr int kColumnRows = kScaleThreads / kWarp;

// Over the rows of the block's 32 columns: the sum of a thread's values, the same in all threads of
// a column, in a fixed order. A barrier before a second use is the caller's.
__device__ __forceinline__ double column_sum(double value, double (*sums)[kWarp]) {
  const int lane = threadIdx.x % kWarp;
  sums[threadIdx.x / kWarp][lane] = value;
  __syncthreads();
  double total = 0;
  for (int w = 0; w < kColumnRows; ++w) total += sums[w][lane];
  return total;
}

// v = (x − mean) / deviation, the mean, and 1 / deviation. Columns that are exactly constant have
// v = 0 and an inverse of 0: the centre that is taken off first is one of their values. A block
// takes 32 columns, a warp every eighth row. Work: reads m d values three times, writes them once.
// Shared memory: 4 KiB. Registers: at most 64.
template <typename T>
__global__ void __launch_bounds__(kScaleThreads, 4)
    standardise_kernel(Whitening<T> p, T* __restrict__ means) {  // [groups, d] or nullptr
  __shared__ double sums[2][kColumnRows][kWarp];
  const int64_t m = p.m, d = p.d;
  const int64_t c = blockIdx.x * int64_t(kWarp) + threadIdx.x % kWarp;
  const int64_t first = threadIdx.x / kWarp;
  for (int64_t g = blockIdx.z; g < p.groups; g += gridDim.z) {
    const T magnitude = magnitude_of<T>(p.largest[g]);
    const T poison = magnitude - magnitude;  // 0, or NaN
    const T scale = normal_scale(magnitude);
    const T* const x = p.x + g * m * d + c;
    const T centre = c < d ? column_centre(p.x + g * m * d, m, d, c, scale) : T(0);
    double sum = 0;
    for (int64_t i = first; i < m && c < d; i += kColumnRows)
      sum += static_cast<double>(scale * x[i * d] - centre);
    const double mean = column_sum(sum, sums[0]) / static_cast<double>(m);
    sum = 0;
    for (int64_t i = first; i < m && c < d; i += kColumnRows) {
      const double left = static_cast<double>(scale * x[i * d] - centre) - mean;
      sum += left * left;
    }
    const double variance = column_sum(sum, sums[1]) / static_cast<double>(m);
    const double inverse = variance > 0 ? 1 / sqrt(variance) : 0;
    for (int64_t i = first; i < m && c < d; i += kColumnRows) {
      const double left = static_cast<double>(scale * x[i * d] - centre) - mean;
      p.v[(g * m + i) * d + c] = static_cast<T>(left * inverse) + poison;
    }
    if (first == 0 && c < d) {
      p.inverse[g * d + c] = saturate<T>(inverse * static_cast<double>(scale)) + poison;
      if (means)
        means[g * d + c] =
            saturate<T>((static_cast<double>(centre) + mean) / static_cast<double>(scale)) + poison;
    }
    __syncthreads();  // before the next group's sums
  }
}

// --- products ---

// R_ij = Σ_k v_ki v_kj / m, summed in double: with m near d the smallest eigenvalues are of the
// size of the rounding errors of long sums, and W is their inverse root.
template <typename T>
struct CorrelationForm {
  using Sum = double;
  Whitening<T> w;
  __device__ bool idle(int64_t) const { return false; }
  __device__ auto left(int64_t g, int64_t) const {
    return columns_of(w.v + g * w.m * w.d, w.m, w.d);
  }
  __device__ auto right(int64_t g, int64_t) const { return left(g, 0); }
  __device__ void finish(int64_t g, int64_t i, int64_t j, double sum) const {
    w.gram[(g * w.d + i) * w.d + j] = static_cast<T>(sum / static_cast<double>(w.m));
  }
};

// G_ij = Σ_k v_ik v_jk / m.
template <typename T>
struct DualForm {
  using Sum = double;
  Whitening<T> w;
  __device__ bool idle(int64_t) const { return false; }
  __device__ auto left(int64_t g, int64_t) const { return rows_of(w.v + g * w.m * w.d, w.m, w.d); }
  __device__ auto right(int64_t g, int64_t) const { return left(g, 0); }
  __device__ void finish(int64_t g, int64_t i, int64_t j, double sum) const {
    w.gram[(g * w.m + i) * w.m + j] = static_cast<T>(sum / static_cast<double>(w.m));
  }
};

// Y = V U.
template <typename T>
struct CoordinatesForm {
  using Sum = T;
  Whitening<T> w;
  __device__ bool idle(int64_t) const { return false; }
  __device__ auto left(int64_t g, int64_t) const { return rows_of(w.v + g * w.m * w.d, w.m, w.d); }
  __device__ auto right(int64_t g, int64_t) const {
    return rows_of(w.vectors + g * w.d * w.d, w.d, w.d);
  }
  __device__ void finish(int64_t g, int64_t i, int64_t j, T sum) const {
    w.y[(g * w.m + i) * w.d + j] = sum;
  }
};

// Y = Q (mΛ)^{1/2}. A thread takes every gridDim.x-th of a group's elements. Work: reads and writes
// m² values. Registers: at most 64.
template <typename T>
__global__ void __launch_bounds__(256, 4) dual_coordinates_kernel(Whitening<T> w) {
  const int64_t m = w.m;
  for (int64_t g = blockIdx.y; g < w.groups; g += gridDim.y)
    for (int64_t e = blockIdx.x * int64_t(256) + threadIdx.x; e < m * m;
         e += int64_t(gridDim.x) * 256) {
      const int64_t i = e / m, j = e % m;
      const T lambda = dual_eigenvalue(w.values + g * m, m, j);
      w.y[g * m * m + e] = sqrt(static_cast<T>(m) * lambda) * w.vectors[(g * m + j) * m + i];
    }
}

}  // namespace mige::cuda
