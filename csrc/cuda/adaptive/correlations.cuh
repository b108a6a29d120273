// The standardized samples V [m, d], the eigenvalues and eigenvectors of their correlations, and
// the coordinates Y [m, r] of the samples in the basis of the eigenvectors, with r = min(m, d).
//
//   d <= m:  R = VᵀV/m = U Λ Uᵀ [d, d],   Y = V U.
//   d > m:   the dual G = VVᵀ/m = Q Λ Qᵀ [m, m],   U = Vᵀ Q (mΛ)^{-1/2},   Y = Q (mΛ)^{1/2}.
//
// G has the nonzero eigenvalues of R. The other d − m eigenvalues of R are zero.
#pragma once

#include <algorithm>

#include "common/whitening_rule.h"
#include "cuda/core/scale.cuh"
#include "cuda/launchers.h"
#include "cuda/linalg/contraction.cuh"

namespace mige::cuda {

constexpr int kRidgeRows = kWarp;  // samples that a thread block of ridge_objective_kernel takes

template <typename T>
struct Whitening : Workspace {
  const T* x;  // [groups, m, d]
  int64_t groups, m, d;
  double factor;

  __host__ __device__ __forceinline__ bool dual() const { return d > m; }
  __host__ __device__ __forceinline__ int64_t r() const { return dual() ? m : d; }
  __host__ __device__ __forceinline__ int64_t blocks() const { return divide_up(m, kRidgeRows); }

  Key<T>* largest = take<Key<T>>(groups);    // magnitudes of x
  T* inverse = take<T>(groups * d);          // 1 / standard deviation, 0 for constant columns
  T* v = take<T>(groups * m * d);            // V
  T* gram = take<T>(groups * r() * r());     // R or G, later scratch memory
  T* values = take<T>(groups * r());         // ascending
  T* vectors = take<T>(groups * r() * r());  // one vector per row
  Support* support = take<Support>(groups);
  T* y = take<T>(groups * m * r());                             // Y
  double* objective = take<double>(groups * blocks() * kWarp);  // sums over 32 samples, for every τ
  EighArguments<T> eigh{gram, groups, static_cast<int>(r()), values, vectors, nullptr};
  char* eigh_space = take<char>(eigh_work(eigh));
  PartialSums partial = take_partial_sums(
      *this, std::max({partial_bytes<double>(groups, r(), r(), dual() ? d : m),
                       partial_bytes<T>(groups, m, d, r()), partial_bytes<T>(groups, d, d, r())}));
};

// λ_j of the dual form, or 0 if it is a rounding error. At least one eigenvalue is a rounding
// error, because the mean of the samples has been subtracted.
template <typename T>
__device__ __forceinline__ T dual_eigenvalue(const T* values,  // [m], ascending
                                             int64_t m, int64_t j) {
  return values[j] <= static_cast<T>(kRankFloor<T>) * values[m - 1] ? T(0) : values[j];
}

// --- standardized samples ---

constexpr int kColumnRows = kScaleThreads / kWarp;

// Computes v = (x − mean) / deviation, the mean, and 1 / deviation. The center that is subtracted
// first is one of the values of the column. Exactly constant columns therefore get v = 0 and an
// inverse deviation of 0. A thread block takes 32 columns. A lane takes one column, a warp takes
// every eighth row, and blockIdx.z selects the groups. Work: reads m d values three times and
// writes m d values. Shared memory: 4 KiB. Registers: at most 64.
template <typename T>
__global__ void __launch_bounds__(kScaleThreads, 4)
    standardize_kernel(Whitening<T> p, T* __restrict__ means) {  // [groups, d] or nullptr
  __shared__ double sums[2][kColumnRows][kWarp];
  const int64_t m = p.m, d = p.d;
  const int64_t c = blockIdx.x * int64_t(kWarp) + threadIdx.x % kWarp;
  const int64_t first = threadIdx.x / kWarp;
  for (int64_t g = blockIdx.z; g < p.groups; g += gridDim.z) {
    const T magnitude = magnitude_of<T>(p.largest[g]);
    const T poison = magnitude - magnitude;  // 0, or NaN
    const T scale = normal_scale(magnitude);
    const T* const x = p.x + g * m * d + c;
    const T center = c < d ? column_center(p.x + g * m * d, m, d, c, scale) : T(0);
    double sum = 0;
    for (int64_t i = first; i < m && c < d; i += kColumnRows)
      sum += static_cast<double>(scale * x[i * d] - center);
    const double mean = lane_sum<kColumnRows>(sum, sums[0]) / static_cast<double>(m);
    sum = 0;
    for (int64_t i = first; i < m && c < d; i += kColumnRows) {
      const double offset = static_cast<double>(scale * x[i * d] - center) - mean;
      sum += offset * offset;
    }
    const double variance = lane_sum<kColumnRows>(sum, sums[1]) / static_cast<double>(m);
    const double inverse = variance > 0 ? 1 / sqrt(variance) : 0;
    for (int64_t i = first; i < m && c < d; i += kColumnRows) {
      const double offset = static_cast<double>(scale * x[i * d] - center) - mean;
      p.v[(g * m + i) * d + c] = static_cast<T>(offset * inverse) + poison;
    }
    if (first == 0 && c < d) {
      p.inverse[g * d + c] = saturate<T>(inverse * static_cast<double>(scale)) + poison;
      if (means)
        means[g * d + c] =
            saturate<T>((static_cast<double>(center) + mean) / static_cast<double>(scale)) + poison;
    }
    __syncthreads();  // before the sums of the next group overwrite these
  }
}

// --- products ---

// The finish of a product (contraction.cuh) that stores the sums divided by m. The sums are in
// double: for m near d the smallest eigenvalues are as small as the rounding errors of long sums in
// float, and whitening divides by the roots of the eigenvalues.
template <typename T>
struct Mean {
  using Sum = double;
  T* out;  // [groups, r, r]
  int64_t count;

  __device__ auto of(int64_t g, int64_t, int64_t r) const {
    T* const target = out + g * r * r;
    const auto divisor = static_cast<double>(count);
    return [=](int64_t i, int64_t j, double sum) {
      target[i * r + j] = static_cast<T>(sum / divisor);
    };
  }
};

// Computes Y = Q (mΛ)^{1/2}, elementwise. Work: reads and writes m² values. Registers: at most 64.
template <typename T>
__global__ void __launch_bounds__(kElementThreads, 4) dual_coordinates_kernel(Whitening<T> w) {
  const int64_t m = w.m;
  for (int64_t g = blockIdx.y; g < w.groups; g += gridDim.y)
    grid_stride<kElementThreads>(m * m, [&](int64_t e) {
      const int64_t i = e / m, j = e % m;
      const T lambda = dual_eigenvalue(w.values + g * m, m, j);
      w.y[g * m * m + e] = sqrt(static_cast<T>(m) * lambda) * w.vectors[(g * m + j) * m + i];
    });
}

}  // namespace mige::cuda
