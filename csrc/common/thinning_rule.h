// The rule that decides which samples the adaptive score leaves out when it chooses λ, the base and
// the bandwidth, for CPU and CUDA.
//
// The estimate of the risk assumes independent samples. If two samples coincide or nearly coincide,
// the estimated risk of a small λ is far too low. One of the two samples is therefore left out of
// the choice. The score is computed at all samples with the chosen λ, base and bandwidth.
//
// 1. Of samples that coincide up to rounding, only the first is kept. The n kept samples are called
//    distinct.
// 2. A test decides whether near-coincident pairs are more frequent than among independent samples.
//    Let s_k be the squared distance of a distinct sample to its k-th nearest distinct neighbor. If
//    the density is constant near the sample and has dimension δ, then v = (s_1 / s_6)^{δ/2} has
//    P(v < c) = 1 − (1 − c)⁵. δ is estimated from the mean of log(s_20 / s_10), or of closer
//    neighbors for n < 80. For each level p, about p n samples should have 1 − (1 − v)⁵ < p. If at
//    some level there are more than p n + 3 √(2 p n) + 2 such samples, step 3 follows.
// 3. One sample of each near-coincident pair is left out: the sample with the smaller s_6 or, if
//    these are equal, with the larger index. A pair is near-coincident if
//    s_ij < (1 − .05^{1/5})^{2/δ} min(s_6 of i, s_6 of j), where the factor is the 95 % quantile of
//    s_1 / s_6 of independent samples. With the median, some copies are kept if there are three to
//    five copies of each sample.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/math.h"

namespace mige {

constexpr int kScaleNeighbor = 6;    // the rank of the neighbor that gives the local scale
constexpr int kMostNeighbors = 20;   // the largest rank of a neighbor
constexpr int kFewestDistinct = 24;  // with fewer distinct samples, steps 2 and 3 do not run
constexpr int kFewestKept = 8;       // if samples are left out and fewer remain, no λ is tried
constexpr int kThinningLevels = 5;

// The levels p of the test.
MIGE_HOST_DEVICE double thinning_level(int i) {
  constexpr double kLevels[kThinningLevels] = {0.5, 0.2, 0.05, 0.01, 0.001};
  return kLevels[i];
}

// The level p of the largest s_1 / s_6 of near-coincident pairs.
constexpr double kSeparationLevel = 0.95;

// The largest squared distance at which samples in r dimensions coincide up to rounding. The
// samples are whitened, so their variance is 1.
template <typename T>
MIGE_HOST_DEVICE T coincidence(int64_t r) {
  return static_cast<T>(1e-12 * static_cast<double>(r));
}

// The ranks of the two neighbors that determine the dimension δ, for n distinct samples.
MIGE_HOST_DEVICE int outer_neighbor(int64_t n) {
  return n / 4 < kMostNeighbors ? static_cast<int>(n / 4) : kMostNeighbors;
}
MIGE_HOST_DEVICE int inner_neighbor(int64_t n) { return outer_neighbor(n) / 2; }

// δ / 2 from the mean of log(s_outer / s_inner) of n distinct samples.
MIGE_HOST_DEVICE double half_dimension(int64_t n, double mean_log_ratio) {
  double expected = 0;
  for (int j = inner_neighbor(n); j < outer_neighbor(n); ++j) expected += 1.0 / j;
  return expected / (mean_log_ratio > 2e-3 ? mean_log_ratio : 2e-3);
}

// The largest s_1 / s_6 at the level p.
MIGE_HOST_DEVICE double thinning_ratio(double p, double half_dimension_of_samples) {
  return pow(1 - pow(1 - p, 1.0 / (kScaleNeighbor - 1)), 1 / half_dimension_of_samples);
}

// Whether a count at the level p is too large for n independent samples.
MIGE_HOST_DEVICE bool too_many(int64_t count, int64_t n, double p) {
  const double expected = p * static_cast<double>(n);
  return static_cast<double>(count) > expected + 3 * sqrt(2 * expected) + 2;
}

}  // namespace mige
