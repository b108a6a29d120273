// The rules of ridge whitening, for CPU and CUDA: the grid of the ridge τ and the interpolation
// between its values, and the number of dimensions that count.
#pragma once

#include <cstdint>

#include "common/math.h"

namespace mige {

// τ is chosen among 10^kRidgeLowest … 10^kRidgeHighest, equidistant in log₁₀ τ.
constexpr int kRidges = 26;
constexpr double kRidgeLowest = -4, kRidgeHighest = 1;
constexpr double kRidgeStep = (kRidgeHighest - kRidgeLowest) / (kRidges - 1);
// The fraction of the chosen τ that whitens the samples of the adaptive score.
constexpr double kWeakRidge = 0.1;

// The exponent log₁₀ τ of the minimum, from the objective of every τ of the grid: the minimum of
// the parabola through the lowest value and its two neighbors.
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

// Eigenvalues of the correlations below this multiple of the largest are rounding errors of 0.
// Errors up to 4 ε have been measured (d = 4 … 256).
template <typename T>
constexpr double kRankFloor = 8 * static_cast<double>(kEpsilon<T>);

// Number of dimensions that count. With M − 1 ≥ 1.25 × (varying columns) the numerical rank is
// trusted, and directions without variance are excluded. With fewer samples the rank only reflects
// M, so every varying column counts.
struct Support {
  int32_t dimensions, excluded;

  static MIGE_HOST_DEVICE Support of(int64_t rank, int64_t r, int64_t varying, int64_t m) {
    const bool few_samples = 4 * (m - 1) < 5 * varying;
    return {static_cast<int32_t>(few_samples ? varying : rank),
            static_cast<int32_t>(few_samples ? 0 : r - rank)};
  }
  // The first of the r ascending eigenvalues that counts.
  MIGE_HOST_DEVICE int64_t first(int64_t r) const { return r > dimensions ? r - dimensions : 0; }
  // How many dimensions count beyond the r eigenvalues; their eigenvalues are 0.
  MIGE_HOST_DEVICE int64_t beyond(int64_t r) const { return dimensions > r ? dimensions - r : 0; }
};

}  // namespace mige
