// The options of the Spectral Stein Gradient Estimator and the rule of its rank J, for CPU and
// CUDA.
#pragma once

#include <cstdint>

#include "common/math.h"

namespace mige {

struct SsgeOptions {
  double quantile;    // the quantile of the pairwise distances, in (0, 1]
  double multiplier;  // bandwidth = multiplier × this distance
  double threshold;   // fraction of the trace that the leading eigenvalues must reach
  int64_t rank;       // if positive, J is this number, and the threshold is not used
  int64_t power;      // power of 1/λ: 1 for the score, 2 for the Nyström coefficients
};

// Eigenvalues up to min(m, kSpectralFloor) ε λ_max are rounding errors. The measured errors in
// float32 are at most 11 ε λ_max for m = 64 … 2500, and do not grow with m.
constexpr int64_t kSpectralFloor = 64;

// Counts the leading eigenvalues, which the caller adds one by one in descending order. J is the
// fixed rank, or the smallest number of eigenvalues whose sum reaches threshold × trace(K) (the
// trace is m). Rounding errors, except the first eigenvalue, are dropped.
class SpectralRank {
 public:
  template <typename T>
  MIGE_HOST_DEVICE static SpectralRank of(T largest, int64_t m, double threshold, int64_t fixed) {
    const auto count = static_cast<double>(m);
    SpectralRank rank;
    const auto terms = static_cast<double>(m < kSpectralFloor ? m : kSpectralFloor);
    rank.floor_ = static_cast<double>(largest) * terms * static_cast<double>(kEpsilon<T>);
    rank.target_ = threshold * count;
    rank.fixed_ = fixed;
    return rank;
  }

  // Counts the next eigenvalue if it is kept. Returns whether the caller should add another one.
  MIGE_HOST_DEVICE bool add(double eigenvalue) {
    if (rank_ > 0 && eigenvalue <= floor_) return false;
    sum_ += eigenvalue;
    ++rank_;
    return fixed_ > 0 ? rank_ != fixed_ : !(sum_ >= target_);
  }

  MIGE_HOST_DEVICE int64_t rank() const { return rank_; }

 private:
  double floor_, target_, sum_ = 0;
  int64_t fixed_, rank_ = 0;
};

}  // namespace mige
