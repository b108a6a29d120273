// The numbers of the adaptive score's rule, shared by the CPU and the CUDA kernels. No torch
// headers.
#pragma once

#include <cmath>

#include "common/math.h"

namespace mige {

// λ number i is 1e-1, 3e-2, 1e-2, … 1e-5 for i = 0 … 8, whose even numbers are the decades.
constexpr int kLambdas = 9;
constexpr int kDecade = 2;

// λ number i, the double next to it.
MIGE_HOST_DEVICE double lambda_at(int i) {
  double power = 10;
  for (int k = 1; k <= i; k += kDecade) power *= 10;
  return (i % kDecade == 0 ? 1 : 3) / power;
}

// The number of the λ that is tried first, the decade next to 1/m. 10^k lies between the decades'
// borders, so no m is halfway.
inline int first_lambda(int64_t m) {
  const long start = kDecade * (std::lround(std::log10(static_cast<double>(m))) - 1);
  const long last = kLambdas - 1;
  return static_cast<int>(start < 0 ? 0 : (start > last ? last : start));
}

// log₁₀ of the τ that are tried, and the share of the best one that whitens.
constexpr int kRidges = 26;
constexpr double kRidgeLowest = -4, kRidgeHighest = 1;
constexpr double kRidgeStep = (kRidgeHighest - kRidgeLowest) / (kRidges - 1);
constexpr double kWeakRidge = 0.1;

// Eigenvalues of the correlations below this share of the largest are rounding errors of 0, of
// which up to 4 ε have been seen (d = 4 … 256).
template <typename T>
constexpr double kRankFloor = 8 * static_cast<double>(kEpsilon<T>);

// What the samples fill. Where there are enough of them, by a quarter, to show all directions,
// those with variance are a space of their own, outside of which there is no density: the others
// are `excluded`, and do not count. Otherwise as many dimensions count as columns vary.
struct Support {
  int32_t dimensions, excluded;

  static MIGE_HOST_DEVICE Support of(int64_t rank, int64_t r, int64_t varying, int64_t m) {
    const bool full = 4 * (m - 1) < 5 * varying;
    return {static_cast<int32_t>(full ? varying : rank), static_cast<int32_t>(full ? 0 : r - rank)};
  }
  // The first of the r ascending eigenvalues that counts.
  MIGE_HOST_DEVICE int64_t first(int64_t r) const { return r > dimensions ? r - dimensions : 0; }
  // Dimensions beyond them, whose eigenvalues are 0.
  MIGE_HOST_DEVICE int64_t beyond(int64_t r) const { return dimensions > r ? dimensions - r : 0; }
};

}  // namespace mige
