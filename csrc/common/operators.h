// The arguments of every operator, for the CPU code (cpu/operators.h) and the CUDA launcher
// (cuda/launchers.h). mige_ext.ops documents what the operators compute. All matrices are row-major
// and contiguous; T is float or double.
#pragma once

#include "common/ssge.h"

namespace mige {

// squared_distances gives out_ij = ‖x_i − y_j‖², or the largest finite number if the distance
// overflows. rbf_gram gives out_ij = exp(−‖x_i − y_j‖² / 2σ²).
template <typename T>
struct PairwiseArguments {
  const T* x;          // [groups, m, d]
  const T* y;          // [groups, n, d]; nullptr means y = x, which takes half the work
  const T* bandwidth;  // [groups]; only rbf_gram reads it
  int64_t groups, m, n, d;
  T* out;  // [groups, m, n]
};

// The distance of rank ceil(quantile m (m − 1) / 2) among the m (m − 1) / 2 pairs. If this distance
// is 0, the quantile is taken among the positive distances.
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

// out = k(q, x) w, without k in memory.
template <typename T>
struct RbfProductArguments {
  const T* q;          // [groups, m, d]
  const T* x;          // [groups, n, d]
  const T* w;          // [groups, n, p]
  const T* bandwidth;  // [groups]
  int64_t groups, m, n, d, p;
  T* out;  // [groups, m, p]
};

// The eigendecomposition K = U diag(λ) Uᵀ of symmetric matrices. Only the lower triangle is read.
template <typename T>
struct EighArguments {
  const T* k;  // [groups, n, n]
  int64_t groups;
  int n;
  T* values;   // [groups, n], ascending
  T* vectors;  // [groups, n, n], one eigenvector per row
  // [groups] or nullptr. Only CUDA writes it: the number of sweeps, −1 if the input is not finite,
  // or −2 if the iteration did not converge.
  int32_t* info;
};

// out = −U_J Λ_J^{−power} U_Jᵀ H, computed from the samples.
template <typename T>
struct SsgeArguments {
  const T* x;      // [groups, m, d], m >= 2
  const T* given;  // [groups], the bandwidth; nullptr: chosen by the rule in `options`
  int64_t groups, m, d;
  SsgeOptions options;
  T* out;         // [groups, m, d]
  T* values;      // [groups, m], eigenvalues, ascending
  T* bandwidth;   // [groups]
  int64_t* rank;  // [groups]

  // The largest magnitude of an element of `out`. For power 2 it is smaller, so that a sum of m
  // coefficients does not overflow.
  MIGE_HOST_DEVICE T bound() const {
    return options.power == 2 ? kLargestFinite<T> / static_cast<T>(2 * m) : kLargestFinite<T>;
  }
};

// The mean, the whitening matrix W = D⁻¹ (R + τI)^{−1/2} and the ridge τ. D is the diagonal matrix
// of the standard deviations, and R holds the correlations.
template <typename T>
struct RidgeWhiteningArguments {
  const T* x;  // [groups, m, d], m >= 2
  int64_t groups, m, d;
  double factor;  // τ is ridge_fraction(factor) times the ridge with the lowest objective
  T* mean;        // [groups, d]
  T* whitening;   // [groups, d, d]
  T* ridge;       // [groups]
};

// The departure of a Student score: this score minus the Gaussian score.
template <typename T>
struct StudentScoreArguments {
  const T* x;  // [groups, m, d], m >= 2
  int64_t groups, m, d;
  T* departure;   // [groups, m, d]
  T* divergence;  // [groups, m], divergence of the departure
  T* nu;          // [groups], infinite for the Gaussian score
  T* weights;     // [groups, m], weights of the last EM step
};

// The adaptive score, which corrects a base: 0 (zero), 1 (the Gaussian score) or 2 (the Gaussian
// score plus the departure `start`). A departure is a score minus the Gaussian score.
template <typename T>
struct AdaptiveScoreArguments {
  const T* x;                 // [groups, m, d], m >= 2
  const T* start;             // [groups, m, d], or nullptr without base 2
  const T* start_divergence;  // [groups, m], or nullptr without a start
  int64_t groups, m, d;
  T* scores;      // [groups, m, d]
  T* lambda;      // [groups], infinite for a base without a correction
  int64_t* base;  // [groups]: 0, 1 or 2
  T* risk;        // [groups], relative to the Gaussian score, whose risk is 0
  T* error;       // [groups], standard error of the risk
  T* bandwidth;   // [groups], in units of the whitened samples
  T* left_out;    // [groups], fraction of samples that the choice of λ leaves out
  T* departure;   // [groups, m, d], departure of `scores`
  T* divergence;  // [groups, m], divergence of `departure`
};

// The score of the adaptive estimator with the Student score as its start. The members are those of
// StudentScoreArguments and AdaptiveScoreArguments.
template <typename T>
struct AdaptiveStudentScoreArguments {
  const T* x;  // [groups, m, d], m >= 2
  int64_t groups, m, d;
  T* scores;      // [groups, m, d]
  T* lambda;      // [groups]
  int64_t* base;  // [groups]
  T* risk;        // [groups]
  T* error;       // [groups]
  T* bandwidth;   // [groups]
  T* left_out;    // [groups]
  T* departure;   // [groups, m, d]
  T* divergence;  // [groups, m]
  T* nu;          // [groups]
  T* weights;     // [groups, m]

  // The arguments of the second step, which corrects a start.
  AdaptiveScoreArguments<T> adaptive(const T* start,                     // [groups, m, d]
                                     const T* start_divergence) const {  // [groups, m]
    return {x,    start, start_divergence, groups,   m,         d,         scores, lambda, base,
            risk, error, bandwidth,        left_out, departure, divergence};
  }
};

// Expands f(name, arguments) for every operator.
#define MIGE_FOR_EACH_OPERATOR(f)                  \
  f(squared_distances, PairwiseArguments);         \
  f(rbf_gram, PairwiseArguments);                  \
  f(distance_quantile, DistanceQuantileArguments); \
  f(rbf_gradient_sum, RbfGradientSumArguments);    \
  f(rbf_product, RbfProductArguments);             \
  f(eigh, EighArguments);                          \
  f(ssge, SsgeArguments);                          \
  f(ridge_whitening, RidgeWhiteningArguments);     \
  f(student_score, StudentScoreArguments);         \
  f(adaptive_score, AdaptiveScoreArguments);       \
  f(adaptive_student_score, AdaptiveStudentScoreArguments)

}  // namespace mige
