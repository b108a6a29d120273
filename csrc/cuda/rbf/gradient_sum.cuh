// The gradient sum H_j = Σ_i ∇_{x_i} k(x_i, x_j) of the RBF kernel, H = −(K X − diag(K 1) X) / σ².
// One pass over K gives K X and the row sums K 1. Work: 2 m² d flop for each group, in the thread
// blocks of contraction.cuh.
#pragma once

#include "cuda/core/scale.cuh"
#include "cuda/linalg/contraction.cuh"

namespace mige::cuda {

// The finish (contraction.cuh) of the product a x with a = K. It computes h_ij = (x_ij Σ_k
// a_ik − Σ_k a_ik x_kj) / σ². The coordinates x come from `center`. If `center` scaled them for the
// bandwidth, H is in the units of the samples. If it scaled them by normal_scale (ssge), H is in
// scaled units.
template <typename T>
struct GradientSum {
  using Sum = T;
  const T* x;             // [groups, m, d], centered
  T* out;                 // [groups, m, d]
  const Key<T>* largest;  // [groups]
  const T* bandwidth;     // [groups]
  bool near_bandwidth;    // whether the coordinates are scaled for the bandwidth

  __device__ auto of(int64_t g, int64_t m, int64_t d) const {
    const T magnitude = magnitude_of<T>(largest[g]), sigma = bandwidth[g];
    const ScaledBandwidth<T> width = near_bandwidth
                                         ? ScaledBandwidth<T>::of(sigma, magnitude)
                                         : ScaledBandwidth<T>(sigma, normal_scale(magnitude));
    // For equal samples the bandwidth rule gives σ = 0, and H is 0.
    const bool equal = !near_bandwidth && sigma == T(0);
    const T factor = is_bandwidth(sigma, magnitude) ? width.inverse_variance
                                                    : (equal ? T(0) : not_a_number<T>());
    const T back = near_bandwidth ? width.scale : T(1);
    const T* const points = x + g * m * d;
    T* const target = out + g * m * d;
    return [=](int64_t i, int64_t j, T sum, T row_sum) {
      target[i * d + j] = clamped(back * (factor * (row_sum * points[i * d + j] - sum)));
    };
  }
};
template <typename T>
constexpr bool kWithRowSums<GradientSum<T>> = true;

}  // namespace mige::cuda
