// The arguments of every operator. The CPU code (cpu/operators.h) and the CUDA launcher
// (cuda/launchers.h) take the same ones; mige_ext.ops documents what the operators compute.
//
// All matrices are row-major and contiguous; T is float or double.
#pragma once

#include "common/ssge.h"

namespace mige {

// squared_distances, out_ij = ‖x_i − y_j‖², or the largest finite number if it overflows; and
// rbf_gram, out_ij = exp(−‖x_i − y_j‖² / 2σ²).
template <typename T>
struct PairwiseArguments {
  const T* x;          // [groups, m, d]
  const T* y;          // [groups, n, d], or nullptr for y = x, which takes half the work
  const T* bandwidth;  // [groups], of rbf_gram
  int64_t groups, m, n, d;
  T* out;  // [groups, m, n]
};

// The distance of rank ceil(quantile m (m − 1) / 2) among the pairs; if it is 0, the quantile of
// the positive distances.
template <typename T>
struct DistanceQuantileArguments {
  const T* x;  // [groups, m, d], m >= 2
  int64_t groups, m, d;
  double quantile;
  T* out;  // [groups]
};

// H_j = Σ_i ∇_{x_i} k(x_i, x_j).
template <typename T>
struct RbfGradientSumArguments {
  const T* x;          // [groups, m, d]
  const T* bandwidth;  // [groups]
  int64_t groups, m, d;
  T* out;  // [groups, m, d]
};

// out = k(q, x) w without storing k.
template <typename T>
struct RbfProductArguments {
  const T* q;          // [groups, m, d]
  const T* x;          // [groups, n, d]
  const T* w;          // [groups, n, p]
  const T* bandwidth;  // [groups]
  int64_t groups, m, n, d, p;
  T* out;  // [groups, m, p]
};

// K = U diag(λ) Uᵀ of symmetric matrices; only the lower triangle is read.
template <typename T>
struct EighArguments {
  const T* k;  // [groups, n, n]
  int64_t groups;
  int n;
  T* values;      // [groups, n], ascending
  T* vectors;     // [groups, n, n], a vector a row
  int32_t* info;  // [groups] or nullptr, by CUDA: number of sweeps; −1: input not finite; −2: no
                  // convergence
};

// −U_J Λ_J^{−power} U_Jᵀ H, from samples to result.
template <typename T>
struct SsgeArguments {
  const T* x;      // [groups, m, d], m >= 2
  const T* given;  // [groups], the bandwidth, or nullptr
  int64_t groups, m, d;
  SsgeOptions options;
  T* out;         // [groups, m, d]
  T* values;      // [groups, m], eigenvalues, ascending
  T* bandwidth;   // [groups]
  int64_t* rank;  // [groups]

  // The largest magnitude of a result. Coefficients leave room for the sum of m of them.
  MIGE_HOST_DEVICE T bound() const {
    return options.power == 2 ? kLargestFinite<T> / static_cast<T>(2 * m) : kLargestFinite<T>;
  }
};

// Mean, W = D⁻¹ (R + τI)^{−1/2} and τ.
template <typename T>
struct RidgeWhiteningArguments {
  const T* x;  // [groups, m, d], m >= 2
  int64_t groups, m, d;
  double factor;
  T* mean;       // [groups, d]
  T* whitening;  // [groups, d, d]
  T* ridge;      // [groups]
};

// The score of the adaptive estimator, without settings.
template <typename T>
struct AdaptiveScoreArguments {
  const T* x;  // [groups, m, d], m >= 2
  int64_t groups, m, d;
  T* scores;      // [groups, m, d]
  T* lambda;      // [groups], infinite for the Gaussian score
  int64_t* base;  // [groups]
  T* risk;        // [groups], less the risk of the Gaussian score
  T* error;       // [groups], standard error of the risk
  T* bandwidth;   // [groups], in whitened units
};

}  // namespace mige
