// Reductions over the lanes of a warp and over the warps of a block, in a fixed order: all threads
// get the same bits, and so does every run.
#pragma once

#include "cuda/core/device.cuh"

namespace mige::cuda {

// The sum over kLanes neighboring lanes, in each of them. `mask` names the lanes that call.
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

// A largest value and its index; of equal values the lowest index.
template <typename T>
struct Largest {
  T value;
  int index;

  __device__ __forceinline__ void take(T other, int other_index) {
    if (other > value || (other == value && other_index < index)) {
      value = other;
      index = other_index;
    }
  }
  // For indices that come in ascending order: a tie never replaces the index.
  __device__ __forceinline__ void take_next(T other, int other_index) {
    if (other > value) {
      value = other;
      index = other_index;
    }
  }
  // The largest over the lanes of a warp, in every lane.
  __device__ __forceinline__ void take_warp() {
    for (int offset = kWarp / 2; offset > 0; offset /= 2) {
      const T other = __shfl_xor_sync(kFullMask, value, offset);
      take(other, __shfl_xor_sync(kFullMask, index, offset));
    }
  }
};

// The sum over the warps of a block of the values of one lane each: thread (w, l) gets
// Σ_w value(w, l). The caller puts a barrier before a second use of `sums`.
template <int kWarps>
__device__ __forceinline__ double lane_sum(double value, double (*sums)[kWarp]) {  // [kWarps]
  const int lane = threadIdx.x % kWarp;
  sums[threadIdx.x / kWarp][lane] = value;
  __syncthreads();
  double total = 0;
  for (int w = 0; w < kWarps; ++w) total += sums[w][lane];
  return total;
}

// The sum over the threads of a block, in every thread.
template <int kWarps>
__device__ __forceinline__ double block_sum(double value, double* sums) {  // [kWarps]
  value = warp_sum(value);
  __syncthreads();  // the sums of an earlier call have been read
  if (threadIdx.x % kWarp == 0) sums[threadIdx.x / kWarp] = value;
  __syncthreads();
  double total = 0;
  for (int w = 0; w < kWarps; ++w) total += sums[w];
  return total;
}

}  // namespace mige::cuda
