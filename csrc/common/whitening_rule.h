// The rules of ridge whitening, for CPU and CUDA: the grid of the ridge τ, the interpolation
// between the points of the grid, and the number of dimensions in which the risk is measured.
//
// Let V [M, d] be the standardized samples and R = VᵀV/M [d, d] their correlations. With r = min(M,
// d), only r eigenvalues are computed. They are those of R for d <= M, and otherwise those of VVᵀ/M
// [M, M]. The other d − r eigenvalues of R are 0. "The objective" is the leave-one-out objective of
// mige_ext.ops.ridge_whitening, and its minimizer is the best τ.
#pragma once

#include <cstdint>

#include "common/math.h"

namespace mige {

// τ is chosen among 10^kRidgeLowest … 10^kRidgeHighest, equidistant in log₁₀ τ.
constexpr int kRidges = 26;
constexpr double kRidgeLowest = -4, kRidgeHighest = 1;
constexpr double kRidgeStep = (kRidgeHighest - kRidgeLowest) / (kRidges - 1);
// The adaptive score and the Student score whiten their samples with this fraction of the
// minimizer.
constexpr double kWeakRidge = 0.1;

// Returns the log₁₀ τ with the lowest objective. A parabola through the lowest value and its two
// neighbors on the grid gives a τ between the points of the grid. If the lowest value is at an end
// of the grid, this end is returned.
MIGE_HOST_DEVICE double lowest_ridge(const double* objective) {  // [kRidges]
  int least = 0;
  for (int t = 1; t < kRidges; ++t) least = objective[t] < objective[least] ? t : least;
  double at = least;
  if (least > 0 && least < kRidges - 1) {
    const double left = objective[least - 1], right = objective[least + 1];
    const double curvature = left - 2 * objective[least] + right;
    if (curvature > 0) at += (left - right) / (2 * curvature);
  }
  return kRidgeLowest + kRidgeStep * at;
}

// Eigenvalues of the correlations below this multiple of the largest eigenvalue are treated as 0.
// The measured rounding errors are at most 4 ε times the largest eigenvalue (d = 4 … 256).
template <typename T>
constexpr double kRankFloor = 8 * static_cast<double>(kEpsilon<T>);

// `dimensions` is the number of dimensions in which the risk is measured, also called the
// dimensions that count. In the directions of the `excluded` smallest computed eigenvalues, the
// whitened samples and the scores are 0. With M − 1 ≥ 1.25 × (varying columns) the numerical rank
// is trusted, and directions without variance are excluded. With fewer samples the rank only
// reflects M, so `dimensions` is the number of varying columns, and no direction is excluded.
struct Support {
  int32_t dimensions, excluded;

  static MIGE_HOST_DEVICE Support of(int64_t rank, int64_t r, int64_t varying, int64_t m) {
    const bool few_samples = 4 * (m - 1) < 5 * varying;
    return {static_cast<int32_t>(few_samples ? varying : rank),
            static_cast<int32_t>(few_samples ? 0 : r - rank)};
  }
  // The index of the first of the r ascending eigenvalues that belongs to `dimensions`.
  MIGE_HOST_DEVICE int64_t first(int64_t r) const { return r > dimensions ? r - dimensions : 0; }
  // The number of dimensions that count but have no computed eigenvalue. Their eigenvalue is 0.
  MIGE_HOST_DEVICE int64_t beyond(int64_t r) const { return dimensions > r ? dimensions - r : 0; }
};

}  // namespace mige
