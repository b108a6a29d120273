// The rules of ridge whitening, for CPU and CUDA: the grid of the ridge τ, the interpolation
// between the points of the grid, and the number of dimensions that count.
//
// Let V [M, d] be the standardized samples and R = VᵀV/M [d, d] their correlations. Only
// r = min(M, d) eigenvalues are computed, from R or from VVᵀ/M [M, M]. The other d − r eigenvalues
// of R are 0. "The objective" is the leave-one-out objective of mige_ext.ops.ridge_whitening.
#pragma once

#include <cstdint>

#include "common/math.h"

namespace mige {

// τ is chosen among 10^kRidgeLowest … 10^kRidgeHighest, equidistant in log₁₀ τ.
constexpr int kRidges = 26;
constexpr double kRidgeLowest = -4, kRidgeHighest = 1;
constexpr double kRidgeStep = (kRidgeHighest - kRidgeLowest) / (kRidges - 1);
// A `factor` of τ that stands for weak_ridge, with which the adaptive score and the Student score
// whiten.
constexpr double kWeakRidge = 0;

// The weak ridge as a fraction of the best τ, for `dimensions` that count in m samples. It grows
// from a tenth to a fifth, which it reaches at m = 4 × dimensions. A smaller fraction shortens
// gradients of information less, and a larger fraction lowers the error of a score from few
// samples.
MIGE_HOST_DEVICE double weak_ridge(int64_t dimensions, int64_t m) {
  const double share = 4 * static_cast<double>(dimensions) / static_cast<double>(m);
  return 0.1 + 0.1 * (share < 1 ? share * share : 1);
}

// The fraction that `factor` stands for.
MIGE_HOST_DEVICE double ridge_fraction(double factor, int64_t dimensions, int64_t m) {
  return factor == kWeakRidge ? weak_ridge(dimensions, m) : factor;
}

// The log₁₀ τ with the lowest objective: the minimum of the parabola through the lowest value and
// its two neighbors on the grid, or an end of the grid if the lowest value is at this end.
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
// (The measured rounding errors are at most half of this for d = 4 … 256.)
template <typename T>
constexpr double kRankFloor = 8 * static_cast<double>(kEpsilon<T>);

// Eigenvalues of the dual VVᵀ/M up to this value are rounding errors, for samples V of type T in d
// dimensions. The dual is decomposed in double. In float, the rounding errors of V change an
// eigenvalue by about ε² d, because tr(VVᵀ/M) = d.
template <typename T>
MIGE_HOST_DEVICE double dual_floor(double largest, int64_t d) {
  constexpr double kEpsilonOfV = static_cast<double>(kEpsilon<T>);
  const double of_v = 64 * kEpsilonOfV * kEpsilonOfV * static_cast<double>(d);
  const double of_eigh = kRankFloor<double> * largest;
  return of_eigh > of_v ? of_eigh : of_v;
}

// Whether M − 1 < 1.25 × (varying columns). The result is the same for Support::dimensions, which
// is the number of varying columns or a rank that is large enough.
MIGE_HOST_DEVICE bool few_samples(int64_t m, int64_t varying) { return 4 * (m - 1) < 5 * varying; }

// `dimensions` is the number of dimensions that count in the risk. With M − 1 ≥ 1.25 × (varying
// columns) it is the numerical rank of R, and directions without variance are excluded: whitened
// samples and scores are 0 in the directions of the `excluded` smallest eigenvalues. With fewer
// samples the rank only reflects M, so `dimensions` is the number of varying columns, and no
// direction is excluded.
struct Support {
  int32_t dimensions, excluded;

  static MIGE_HOST_DEVICE Support of(int64_t rank, int64_t r, int64_t varying, int64_t m) {
    const bool few = few_samples(m, varying);
    return {static_cast<int32_t>(few ? varying : rank), static_cast<int32_t>(few ? 0 : r - rank)};
  }
  // The index of the first of the r ascending eigenvalues that belongs to `dimensions`.
  MIGE_HOST_DEVICE int64_t first(int64_t r) const { return r > dimensions ? r - dimensions : 0; }
  // The number of dimensions that count without a computed eigenvalue; their eigenvalue is 0.
  MIGE_HOST_DEVICE int64_t beyond(int64_t r) const { return dimensions > r ? dimensions - r : 0; }
};

}  // namespace mige
