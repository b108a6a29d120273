// Which samples the adaptive score leaves out of the choice of λ, base and bandwidth, for CPU and
// CUDA.
//
// The risk takes samples as independent. Two samples that (nearly) coincide make a narrow kernel
// look perfect. One of them is therefore left out of the choice. The score is then computed at all
// samples with the λ, the base and the bandwidth that were chosen.
//
// 1. Of samples that coincide up to rounding, only the first is *distinct*.
// 2. Near-coincident pairs are left out only if there are more of them than among independent
//    samples. Let s_1, s_6, s_10, s_20 be the squared distances of a distinct sample to its
//    neighbors of these ranks among the distinct samples. If the density is constant near the
//    sample and has dimension δ, then v = (s_1 / s_6)^{δ/2} has P(v < c) = 1 − (1 − c)⁵. δ follows
//    from the mean of log(s_20 / s_10). For several p, the samples with 1 − (1 − v)⁵ < p are
//    counted. More than p n + 3 √(2 p n) + 2 of n samples are too many.
// 3. In this case the pairs are separated that are closer than the median of independent samples,
//    s_ij < (1 − ½^{1/5})^{2/δ} min(s_6 of i, s_6 of j). A sample is left out if such a pair
//    connects it to a sample with larger s_6, or with the same s_6 and a smaller index.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/math.h"

namespace mige {

constexpr int kScaleNeighbor = 6;    // the rank of the neighbor that gives the local scale
constexpr int kMostNeighbors = 20;   // the largest rank of a neighbor
constexpr int kFewestDistinct = 24;  // with fewer distinct samples, step 2 is left out
constexpr int kFewestKept = 8;       // with fewer samples, the Gaussian score is used
constexpr int kThinningLevels = 5;

// The levels p.
MIGE_HOST_DEVICE double thinning_level(int i) {
  constexpr double kLevels[kThinningLevels] = {0.5, 0.2, 0.05, 0.01, 0.001};
  return kLevels[i];
}

// The largest squared distance of samples in r dimensions that coincide up to rounding. In whitened
// coordinates the samples have variance 1.
template <typename T>
MIGE_HOST_DEVICE T coincidence(int64_t r) {
  return static_cast<T>(1e-12 * static_cast<double>(r));
}

// The ranks of the two neighbors that give the dimension, for n distinct samples.
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

// Whether `count` of n samples below the level p are too many for independent samples.
MIGE_HOST_DEVICE bool too_many(int64_t count, int64_t n, double p) {
  const double expected = p * static_cast<double>(n);
  return static_cast<double>(count) > expected + 3 * sqrt(2 * expected) + 2;
}

}  // namespace mige
