// The search over λ of the adaptive score, for CPU and CUDA: which λ is evaluated next, when the
// search stops, and which result is the best.
//
// The grid is 1e-1, 3e-2, 1e-2, … 1e-5. A λ gives a correction of a base score
// (common/operators.h). The bound of a score is its risk plus the standard error of the risk.
// `limit` is the smaller of the bounds of the two scores without a correction, the Gaussian score
// (whose bound is 0) and the start.
//
// The search begins at the power of ten next to 1/M. It goes by factors of 10 to larger λ as long
// as the bound falls. If the first larger λ does not lower the bound, the search goes to smaller λ
// in the same way. If the lowest bound at the end is below the limit, the search also evaluates the
// λ half a decade toward the neighbor with the lower bound.
//
// Invariant: `at` is the λ with the lowest bound tried so far. A result is the best so far if its
// bound is the new lowest and below the limit. Each new best result replaces the previous one, so
// one buffer suffices. If there is no such result, the score without a correction is used.
#pragma once

#include <cmath>

#include "common/math.h"

namespace mige {

constexpr int kLambdas = 9;
constexpr int kDecade = 2;  // grid steps in a decade

// λ number i, correctly rounded.
MIGE_HOST_DEVICE double lambda_at(int i) {
  double power = 10;
  for (int k = 1; k <= i; k += kDecade) power *= 10;
  return (i % kDecade == 0 ? 1 : 3) / power;
}

// The number of the λ that is tried first: the decade next to 1/m. log10 m is never exactly k + 1/2
// for an integer m, so rounding is unambiguous.
inline int first_lambda(int64_t m) {
  const long start = kDecade * (std::lround(std::log10(static_cast<double>(m))) - 1);
  const long last = kLambdas - 1;
  return static_cast<int>(start < 0 ? 0 : (start > last ? last : start));
}

struct LambdaSearch {
  enum class Phase : int32_t { kStart, kLarger, kSmaller, kHalf };

  double bound[kLambdas];  // of each λ tried so far
  double limit;            // the lowest bound of a score without a correction, at most 0
  int32_t at;
  int32_t moved_larger;  // whether a larger λ had a lower bound than the start
  Phase phase;

  MIGE_HOST_DEVICE void start(double limit_of_search = 0) {
    limit = limit_of_search;
    at = moved_larger = 0;
    phase = Phase::kStart;
  }

  // Records the bound of λ number i. Returns whether the result of this λ is the best so far.
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
    // The walk ends only when both neighboring decades of `at` have been tried.
    phase = Phase::kHalf;
    const bool to_smaller = larger < 0 || (smaller < kLambdas && bound[smaller] < bound[larger]);
    return (at + (to_smaller ? smaller : larger)) / 2;
  }

  // The largest number of λ that a search from number `start` tries: the first λ, the λ half a
  // decade away, and the longer of two walks. One walk takes all larger decades. The other walk
  // takes one larger decade, which does not lower the bound, and then all smaller decades.
  static int most_rounds(int start) {
    const int larger = start / kDecade, smaller = (kLambdas - 1 - start) / kDecade;
    const int second = (larger > 0 ? 1 : 0) + smaller;
    return 2 + (larger > second ? larger : second);
  }
};

}  // namespace mige
