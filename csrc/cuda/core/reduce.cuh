// Reductions over the lanes of a warp and over the warps of a thread block. The order of the
// operations is fixed, so all threads and all runs get the same bits.
#pragma once

#include "cuda/core/device.cuh"

namespace mige::cuda {

// The sum over kLanes neighboring lanes; each of these lanes gets the sum. `mask` has a bit for
// every lane that calls.
template <int kLanes = kWarp, typename T>
__device__ __forceinline__ T warp_sum(T value, unsigned mask = kFullMask) {
#pragma unroll
  for (int offset = kLanes / 2; offset > 0; offset /= 2)
    value += __shfl_xor_sync(mask, value, offset);
  return value;
}

template <typename T>
__device__ __forceinline__ T warp_max(T value) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    const T other = __shfl_xor_sync(kFullMask, value, offset);
    value = other > value ? other : value;
  }
  return value;
}

// The largest value and its index. Of equal values, the one with the lowest index is kept.
template <typename T>
struct Largest {
  T value;
  int index;

  // Whether this value is smaller than `other`, or equal to it with a higher index.
  __device__ __forceinline__ bool is_after(T other, int other_index) const {
    return other > value || (other == value && other_index < index);
  }
  __device__ __forceinline__ void take(T other, int other_index) {
    if (!is_after(other, other_index)) return;
    value = other;
    index = other_index;
  }
  // The same as take() if indices come in ascending order. With take() the decomposition of a Gram
  // matrix in float would need more than 64 registers.
  __device__ __forceinline__ void take_next(T other, int other_index) {
    if (other > value) {
      value = other;
      index = other_index;
    }
  }
  // Gives every lane of a warp the largest value of all lanes, with its index.
  __device__ __forceinline__ void take_warp() {
    for (int offset = kWarp / 2; offset > 0; offset /= 2) {
      const T other = __shfl_xor_sync(kFullMask, value, offset);
      take(other, __shfl_xor_sync(kFullMask, index, offset));
    }
  }
};

// Sums over the warps of a thread block: every thread of lane l gets Σ_w value(w, l). `sums` is in
// shared memory. The caller must synchronize before it uses `sums` again.
template <int kWarps>
__device__ __forceinline__ double lane_sum(double value,
                                           double (*sums)[kWarp]) {  // [kWarps, kWarp]
  const int lane = threadIdx.x % kWarp;
  sums[threadIdx.x / kWarp][lane] = value;
  __syncthreads();
  double total = 0;
  for (int w = 0; w < kWarps; ++w) total += sums[w][lane];
  return total;
}

// The sum over the threads of a thread block, which every thread gets.
template <int kWarps>
__device__ __forceinline__ double block_sum(double value, double* sums) {  // [kWarps], shared
  value = warp_sum(value);
  __syncthreads();  // the sums of an earlier call have been read
  if (threadIdx.x % kWarp == 0) sums[threadIdx.x / kWarp] = value;
  __syncthreads();
  double total = 0;
  for (int w = 0; w < kWarps; ++w) total += sums[w];
  return total;
}

// The mean of value(i) over the `count` indices i < m for which counts(i) is true, and its standard
// error. All threads of a thread block of kRowThreads must call mean_and_error.
struct MeanAndError {
  double mean, error;
};
template <typename Value, typename Counts>
__device__ __forceinline__ MeanAndError mean_and_error(int64_t m, int64_t count,
                                                       double* sums,  // [kRowWarps], shared
                                                       const Value& value, const Counts& counts) {
  const auto n = static_cast<double>(count);
  double sum = 0;
  for (int64_t i = threadIdx.x; i < m; i += kRowThreads) sum += counts(i) ? value(i) : 0;
  const double mean = block_sum<kRowWarps>(sum, sums) / n;
  sum = 0;
  for (int64_t i = threadIdx.x; i < m; i += kRowThreads) {
    const double difference = value(i) - mean;
    sum += counts(i) ? difference * difference : 0;
  }
  return {mean, sqrt(block_sum<kRowWarps>(sum, sums) / (n - 1) / n)};
}

}  // namespace mige::cuda
