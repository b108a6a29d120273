// The climb over λ of the adaptive score, as a state machine in device memory: which λ a group
// tries next, and which of those tried it keeps. The host enqueues as many rounds as the longest
// climb can need; a group that is done lets the rest pass.
//
// λ number i is 1e-1, 3e-2, 1e-2, … 1e-5 for i = 0 … 8, whose even numbers are the decades. From
// the decade next to 1/M the climb goes by decades as long as the bound, risk + standard error,
// falls: to larger λ first, and only if not even one step was gained there to smaller ones. If the
// bound is below that of the Gaussian score, 0, half a decade towards the better neighbour is
// tried.
//
// The climb only moves to a lower bound than that of the place where it stands, and has compared
// every other that it tried with such a one. So it always stands on the first of the lowest bounds
// yet tried, and what has been kept when it stops is the best of all: no result has to be tried
// again, or be stored for later.
#pragma once

#include <cmath>

#include "device.cuh"

namespace mige::cuda {

constexpr int kLambdas = 9;
constexpr int kDecade = 2;  // steps of a decade in the numbers of λ

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

// The number of the λ that is tried first. 10^k lies between the decades' borders, so no m is
// halfway.
inline int climb_start(int64_t m) {
  const auto start = kDecade * std::lround(std::log10(static_cast<double>(m))) - kDecade;
  const long last = kLambdas - 1;
  return static_cast<int>(start < 0 ? 0 : (start > last ? last : start));
}

// How many λ the longest climb from there tries: the start, all to one side, after one step to the
// other side that gains nothing, and half a decade.
inline int climb_rounds(int start) {
  const int larger = start / kDecade, smaller = (kLambdas - 1 - start) / kDecade;
  const int second = (larger > 0 ? 1 : 0) + smaller;
  return 2 + (larger > second ? larger : second);
}

// λ number i, the double next to it.
__device__ __forceinline__ double lambda_at(int i) {
  double power = 10;
  for (int k = 1; k <= i; k += kDecade) power *= 10;
  return (i % kDecade == 0 ? 1 : 3) / power;
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
