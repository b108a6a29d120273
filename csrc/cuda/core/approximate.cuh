// 1 / √v and 1 / v by the approximation of the hardware in float, and by IEEE arithmetic in double.
//
// An approximation takes one instruction. An IEEE square root or division takes eight or more
// instructions. The error of an approximation is at most 2 units in the last place. Denormal
// numbers count as zero.
#pragma once

#include "cuda/core/device.cuh"

namespace mige::cuda {

#ifdef __CUDACC__
__device__ __forceinline__ float approximate_rsqrt(float v) {
  float result;
  asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(v));
  return result;
}
__device__ __forceinline__ float approximate_reciprocal(float v) {
  float result;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(v));
  return result;
}
#else
using emulator::approximate_reciprocal;
using emulator::approximate_rsqrt;
#endif

__device__ __forceinline__ double approximate_rsqrt(double v) { return 1 / sqrt(v); }
__device__ __forceinline__ double approximate_reciprocal(double v) { return 1 / v; }

}  // namespace mige::cuda
