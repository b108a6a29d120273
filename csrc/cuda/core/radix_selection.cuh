// Quantiles of the pairwise distances by radix selection (common/radix_select.h). The result is an
// exact order statistic, and the work is linear in the number of pairs. The host does not wait for
// the device.
//
// Each round counts how often every value of one digit occurs among the pairs that match the digits
// found so far. The wanted rank then determines the digit. A digit has 11 bits, so float takes
// three rounds and double takes six. The first round also counts the pairs at distance zero. Zero
// is not a bandwidth. If the quantile is zero, it is therefore taken among the pairs at a positive
// distance.
#pragma once

#include "cuda/core/scale.cuh"

namespace mige::cuda {

constexpr int kSelectThreads = 256;

using Count = unsigned long long;

// The state of the selection in one group.
template <typename T>
struct Selection {
  Key<T> prefix;  // the digits found so far
  Count rank;     // index of the wanted pair among the pairs that match the prefix
  Count zeros;    // pairs at distance zero
};

// Whether the higher digits of a key equal the prefix. A round counts only such keys.
template <typename T>
__device__ __forceinline__ bool matches(Key<T> key, Key<T> prefix, int round) {
  return round == 0 || (key ^ prefix) >> digit_shift<T>(round - 1) == 0;
}

// One round of the selection in one group: finds the digit of the wanted rank. All threads of a
// thread block must call pick_digit. The first round initializes `selection` except its `zeros`.
// The caller must synchronize before and after the call.
template <typename T, typename Counter>
__device__ void pick_digit(const Counter* counts,    // [kDigits], complete; shared or global memory
                           Selection<T>* selection,  // [1]
                           Count* sums,              // [kSelectThreads] of shared memory
                           int round, int64_t m, double quantile) {
  constexpr int kPerThread = kDigits / kSelectThreads;
  const int t = static_cast<int>(threadIdx.x);
  if (t < kSelectThreads) {
    Count sum = 0;
    for (int i = 0; i < kPerThread; ++i) sum += counts[kPerThread * t + i];
    sums[t] = sum;
  }
  if (round == 0 && t == 0) {
    const Count pairs = static_cast<Count>(m) * static_cast<Count>(m - 1) / 2;
    Count rank = quantile_rank(quantile, pairs);
    if (rank < selection->zeros && selection->zeros < pairs)
      rank = selection->zeros + quantile_rank(quantile, pairs - selection->zeros);
    selection->prefix = 0;
    selection->rank = rank;
  }
  __syncthreads();
  // Each lane of the first warp takes eight sums. The lane whose sums contain the rank then
  // searches its counts.
  if (t < kWarp) {
    constexpr int kSums = kSelectThreads / kWarp;
    Count mine = 0;
    for (int i = 0; i < kSums; ++i) mine += sums[kSums * t + i];
    Count up_to = mine;  // becomes the sum over the lanes up to this one
    for (int offset = 1; offset < kWarp; offset *= 2) {
      const Count before = __shfl_up_sync(kFullMask, up_to, offset);
      if (t >= offset) up_to += before;
    }
    Count rank = selection->rank;
    const unsigned reached = __ballot_sync(kFullMask, up_to > rank);
    __syncwarp();  // all lanes have read the rank
    if (t == __ffs(static_cast<int>(reached)) - 1) {
      rank -= up_to - mine;
      int i = kSums * t;
      while (rank >= sums[i]) rank -= sums[i++];
      int digit = kPerThread * i;
      while (rank >= counts[digit]) rank -= counts[digit++];
      selection->rank = rank;
      selection->prefix |= static_cast<Key<T>>(digit) << digit_shift<T>(round);
    }
  }
}

// Computes σ of every group from the squared distances of coordinates that were multiplied by
// normal_scale. With `counted`, only pairs of counted[g] samples count, and the distances of all
// other pairs must be infinite.
template <typename T>
void select_bandwidth(const T* s,  // [groups, m, m]
                      int64_t groups, int64_t m, double quantile, double multiplier, T smallest,
                      const Key<T>* largest,     // [groups]
                      Selection<T>* selections,  // [groups]
                      Count* counts,             // [groups, kDigits]
                      T* bandwidth,              // [groups]
                      Stream& stream,
                      const int32_t* counted = nullptr);  // [groups]

}  // namespace mige::cuda
