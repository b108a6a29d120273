// The search over λ of the adaptive score, for CPU and CUDA: which λ is evaluated next, when the
// search stops, and which score is the best.
//
// The grid is 1e-1, 3e-2, 1e-2, … 1e-5. Each λ gives a score, whose *bound* is its risk plus the
// standard error of the risk (mige_ext.ops.adaptive_score). Two scores need no λ: the Gaussian
// score (bound 0) and the start. `limit` is the smaller of their bounds. If no other score is below
// the limit, one of these two is used.
//
// The search begins at the power of ten next to 1/M. It goes to larger λ by factors of 10 until the
// bound no longer falls. If the first step does not lower the bound, it goes to smaller λ in the
// same way. At the end it tries the λ between the best power of ten and the better neighboring
// power of ten, if the lowest bound is below the limit.
//
// Invariant: `at` is the λ with the lowest bound tried so far.
#pragma once

#include <cmath>

#include "common/math.h"

namespace mige {

constexpr int kLambdas = 9;
constexpr int kDecade = 2;  // steps of the grid in a factor of 10

// λ number i, correctly rounded.
MIGE_HOST_DEVICE double lambda_at(int i) {
  double power = 10;
  for (int k = 1; k <= i; k += kDecade) power *= 10;
  return (i % kDecade == 0 ? 1 : 3) / power;
}

// The number of the λ that is tried first, the power of ten next to 1/m. log10 m is never exactly
// k + 1/2 for an integer m, so rounding is unambiguous.
inline int first_lambda(int64_t m) {
  const long start = kDecade * (std::lround(std::log10(static_cast<double>(m))) - 1);
  const long last = kLambdas - 1;
  return static_cast<int>(start < 0 ? 0 : (start > last ? last : start));
}

struct LambdaSearch {
  enum class Phase : int32_t { kStart, kLarger, kSmaller, kHalf };

  double bound[kLambdas];  // the bound of each λ tried so far
  double limit;            // the bound that a score must be below, at most 0
  int32_t at;              // the number of the λ with the lowest bound so far
  int32_t moved_larger;    // whether a larger λ has lowered the bound
  Phase phase;

  MIGE_HOST_DEVICE void start(double limit_of_search = 0) {
    limit = limit_of_search;
    at = moved_larger = 0;
    phase = Phase::kStart;
  }

  // Records the bound of λ number i. Returns whether its score is the best so far: its bound is
  // lower than all earlier bounds and below the limit.
  MIGE_HOST_DEVICE bool record(int i, double bound_of_i) {
    bound[i] = bound_of_i;
    // A NaN does not lower the bound, because the comparison is false.
    const bool gained = phase == Phase::kStart || bound_of_i < bound[at];
    if (gained) at = i;
    if (gained && phase == Phase::kLarger) moved_larger = 1;
    return gained && bound_of_i < limit;
  }

  // The number of the λ to evaluate after number i, or −1 if the search stops. Number i must have
  // been recorded.
  MIGE_HOST_DEVICE int after(int i) {
    const bool gained = at == i;
    const int larger = at - kDecade, smaller = at + kDecade;
    if (phase == Phase::kHalf) return -1;
    if (gained && phase != Phase::kSmaller && larger >= 0) {
      phase = Phase::kLarger;
      return larger;
    }
    if (!moved_larger && (gained || phase != Phase::kSmaller) && smaller < kLambdas) {
      phase = Phase::kSmaller;
      return smaller;
    }
    if (!(bound[at] < limit)) return -1;
    // Both neighboring powers of ten of `at` have been tried at this point.
    phase = Phase::kHalf;
    const bool to_smaller = larger < 0 || (smaller < kLambdas && bound[smaller] < bound[larger]);
    return (at + (to_smaller ? smaller : larger)) / 2;
  }

  // The largest number of λ that a search from number `start` tries: the first λ, the last λ
  // between powers of ten, and the longer of two sequences. One sequence is all larger powers of
  // ten. The other is the next larger power of ten, and then all smaller ones.
  static int most_rounds(int start) {
    const int larger = start / kDecade, smaller = (kLambdas - 1 - start) / kDecade;
    const int second = (larger > 0 ? 1 : 0) + smaller;
    return 2 + (larger > second ? larger : second);
  }
};

}  // namespace mige
