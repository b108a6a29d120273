// The steps that only the Spectral Stein Gradient Estimator has. With K = U Λ Uᵀ [m, m] and the
// gradient sum H [m, d], its result is −U_J Λ_J^−power U_Jᵀ H [m, d]. The steps are the replacement
// of distances by K, the rank J, and the filter −λ^−power of the leading eigenvalues.
#pragma once

#include "cuda/core/radix_selection.cuh"
#include "cuda/launchers.h"
#include "cuda/linalg/contraction.cuh"

namespace mige::cuda {

// Whether ssge_fused can take groups of m samples on this device.
template <typename T>
bool ssge_fits_a_block(int64_t m);

// The whole score in one launch (ssge_fused.cu).
template <typename T>
void ssge_fused(const SsgeArguments<T>& p, Stream& stream);

// γ of a group whose coordinates were multiplied by normal_scale. For equal samples σ is 0, and the
// result is γ = 0. All later steps are then finite, and the score is 0.
template <typename T>
__device__ __forceinline__ T gamma_of(T sigma, T magnitude) {
  if (sigma == T(0)) return T(0);
  return is_bandwidth(sigma, magnitude) ? ScaledBandwidth<T>(sigma, normal_scale(magnitude)).gamma
                                        : not_a_number<T>();
}

// The rank J (common/ssge.h). All lanes of a warp must call choose_rank together. The eigenvalues
// are summed in the same order as on the CPU.
template <typename T>
__device__ int64_t choose_rank(const T* values,  // [m], ascending
                               int64_t m, const SsgeOptions& options) {
  auto kept = SpectralRank::of(values[m - 1], m, options.threshold, options.rank);
  const int lane = threadIdx.x % kWarp;
  for (int64_t base = 0; base < m; base += kWarp) {
    const int64_t at = m - 1 - base - lane;
    const double mine = at >= 0 ? static_cast<double>(values[at]) : 0;
    for (int i = 0; i < kWarp && base + i < m; ++i)
      if (!kept.add(__shfl_sync(kFullMask, mine, i))) return kept.rank();
  }
  return kept.rank();
}

// The filter −λ^−exponent.
template <typename T>
__device__ __forceinline__ T filter_of(T lambda, int64_t exponent) {
  double inverse = 1 / static_cast<double>(lambda), power = inverse;
  for (int64_t i = 1; i < exponent; ++i) power *= inverse;
  return static_cast<T>(-power);
}

// The given bandwidth, or NaN if it is not positive and finite. (In later steps σ = 0 means equal
// samples.)
template <typename T>
__device__ __forceinline__ T checked_bandwidth(T given) {
  return is_positive_and_finite(given) ? given : not_a_number<T>();
}

// Copies the given bandwidths after a check. A thread takes a group. Registers: at most 64.
template <typename T>
__global__ void __launch_bounds__(kElementThreads, 4) given_bandwidth_kernel(SsgeArguments<T> p) {
  grid_stride<kElementThreads>(p.groups,
                               [&](int64_t g) { p.bandwidth[g] = checked_bandwidth(p.given[g]); });
}

// Computes k_ij = exp(−γ s_ij) in place, elementwise. Work: reads and writes m² values. Registers:
// at most 64.
template <typename T>
__global__ void __launch_bounds__(kElementThreads, 4)
    gram_in_place_kernel(SsgeArguments<T> p,
                         const Key<T>* __restrict__ largest,  // [groups]
                         T* __restrict__ s) {                 // [groups, m, m]
  const int64_t count = p.m * p.m;
  for (int64_t g = blockIdx.y; g < p.groups; g += gridDim.y) {
    const T gamma = gamma_of(p.bandwidth[g], magnitude_of<T>(largest[g]));
    T* const k = s + g * count;
    grid_stride<kElementThreads>(count, [&](int64_t i) { k[i] = rbf(k[i], gamma); });
  }
}

// Computes J and the filter of every group. The filter is 0 for equal samples, and NaN for input
// that is not finite. A warp takes a group, and a lane takes every 32nd eigenvalue. Work: reads and
// writes m values. Registers: at most 64.
template <typename T>
__global__ void __launch_bounds__(kWarp, 16)
    rank_kernel(SsgeArguments<T> p,
                const Key<T>* __restrict__ largest,  // [groups]
                T* __restrict__ factor) {            // [groups, m]
  const int lane = threadIdx.x % kWarp;
  const int64_t m = p.m;
  for (int64_t g = blockIdx.x; g < p.groups; g += gridDim.x) {
    const T sigma = p.bandwidth[g], magnitude = magnitude_of<T>(largest[g]);
    const T gamma = gamma_of(sigma, magnitude);
    T* const spectrum = p.values + g * m;
    const bool none = sigma == T(0) || !(gamma == gamma);
    const T instead = sigma == T(0) ? T(0) : gamma;  // 0 or NaN
    const int64_t j = none ? 0 : choose_rank(spectrum, m, p.options);
    __syncwarp();
    for (int64_t i = lane; i < m; i += kWarp) {
      if (none) spectrum[i] = instead;
      const T kept = i >= m - j ? filter_of(spectrum[i], p.options.power) : T(0);
      factor[g * m + i] = none ? instead : kept;
    }
    if (lane == 0) p.rank[g] = j;
  }
}

// The finish of a product (contraction.cuh) that stores the score: scale times the sum, limited to
// ±p.bound(). The multiplication by normal_scale converts the score of the scaled samples to the
// score of the samples.
template <typename T>
struct ScaleScore {
  using Sum = T;
  SsgeArguments<T> p;
  const Key<T>* largest;  // [groups]

  __device__ auto of(int64_t g, int64_t m, int64_t n) const {
    const T sigma = p.bandwidth[g], magnitude = magnitude_of<T>(largest[g]);
    // Equal samples, σ = 0, have a score of 0. Any other value that is not a bandwidth gives NaN.
    const T factor = is_bandwidth(sigma, magnitude)
                         ? ScaledBandwidth<T>(sigma, normal_scale(magnitude)).scale
                         : (sigma == T(0) ? T(0) : not_a_number<T>());
    T* const target = p.out + g * m * n;
    return [=, bound = p.bound()](int64_t i, int64_t j, T sum) {
      target[i * n + j] = clamped(factor * sum, bound);
    };
  }
};

}  // namespace mige::cuda
