// The climb over λ of the adaptive score, as a state machine in device memory: which λ a group
// tries next, and which of those tried it keeps. The host enqueues as many rounds as the longest
// climb can need; a group that is done lets the rest pass.
//
// From the decade next to 1/M the climb goes by decades as long as the bound, risk + standard
// error, falls: to larger λ first, and only if not even one step was gained there to smaller ones.
// If the bound is below that of the Gaussian score, 0, half a decade towards the better neighbour
// is tried.
//
// The climb only moves to a lower bound than that of the place where it stands, and has compared
// every other that it tried with such a one. So it always stands on the first of the lowest bounds
// yet tried, and what has been kept when it stops is the best of all: no result has to be tried
// again, or be stored for later.
#pragma once

#include "common/adaptive_rule.h"
#include "cuda/core/device.cuh"

namespace mige::cuda {

enum class Phase : int32_t { kStart, kLarger, kSmaller, kHalf };

struct Climb {
  double bound[kLambdas];  // of the λ tried
  double mu;               // λ M of the round
  double kept_mu;          // and of the round that has just been
  int32_t at;              // where it stands
  int32_t moved;           // whether it has gone to larger λ
  int32_t kept;            // the base of the round's result if it is kept, or −1
  Phase phase;
};

// How many λ the longest climb from there tries: the start, all to one side, after one step to the
// other side that gains nothing, and half a decade.
inline int climb_rounds(int start) {
  const int larger = start / kDecade, smaller = (kLambdas - 1 - start) / kDecade;
  const int second = (larger > 0 ? 1 : 0) + smaller;
  return 2 + (larger > second ? larger : second);
}

// What to try after number i, whose bound is `bound`: −1 for nothing. `climb.kept` is the base if
// this is the best yet.
__device__ __forceinline__ int advance(Climb& climb, int i, double bound, int base) {
  climb.bound[i] = bound;
  // Not the other way round: a NaN is no gain.
  const bool gained = climb.phase == Phase::kStart || bound < climb.bound[climb.at];
  climb.kept = gained && bound < 0 ? base : -1;
  if (gained) climb.at = i;
  const int at = climb.at, larger = at - kDecade, smaller = at + kDecade;
  if (climb.phase == Phase::kHalf) return -1;
  if (climb.phase == Phase::kLarger && gained) climb.moved = 1;
  if ((climb.phase == Phase::kStart || (climb.phase == Phase::kLarger && gained)) && larger >= 0) {
    climb.phase = Phase::kLarger;
    return larger;
  }
  if (!climb.moved && (climb.phase != Phase::kSmaller || gained) && smaller < kLambdas) {
    climb.phase = Phase::kSmaller;
    return smaller;
  }
  if (!(climb.bound[at] < 0)) return -1;
  // Both neighbours have been tried, or the climb would not have stopped here.
  climb.phase = Phase::kHalf;
  const bool to_smaller =
      larger < 0 || (smaller < kLambdas && climb.bound[smaller] < climb.bound[larger]);
  return (at + (to_smaller ? smaller : larger)) / 2;
}

}  // namespace mige::cuda
