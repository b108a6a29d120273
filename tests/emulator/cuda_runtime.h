// Replaces NVIDIA's <cuda_runtime.h> for g++. It defines the parts of the CUDA language and of the
// runtime that the kernels of csrc/cuda use. README.md lists what is emulated and what is not.
#pragma once

#include <math.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <type_traits>

#include "cuda_types.h"
#include "runtime.h"

// --- qualifiers ---

// __shared__ arrays are static variables, since blocks run one after another. Kernels have internal
// linkage, and so do their arrays, because g++ gives no redzones to variables that the linker may
// merge. `noinit` places the arrays in a section of their own. (In templates, g++ ignores the
// attribute `section`.) `used` tells the compiler that other code accesses the arrays.
#define __global__ static __attribute__((unused))
#define __device__
#define __host__
#define __constant__ static __attribute__((unused))
#define __shared__ static __attribute__((noinit, used))
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))

// --- built-in variables of the running thread ---

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
constexpr int warpSize = 32;

// --- barriers and warp primitives ---

// A default argument is evaluated at the line of the call, so errors name the line of the kernel.
#define MIGE_EMULATOR_SITE mige::emulator::Site site = mige::emulator::Site::here()

inline void __syncthreads(MIGE_EMULATOR_SITE) { mige::emulator::meet_block("__syncthreads", site); }
inline int __syncthreads_count(int predicate, MIGE_EMULATOR_SITE) {
  return mige::emulator::meet_block("__syncthreads_count", site, mige::emulator::Vote::kCount,
                                    predicate);
}
inline int __syncthreads_and(int predicate, MIGE_EMULATOR_SITE) {
  return mige::emulator::meet_block("__syncthreads_and", site, mige::emulator::Vote::kAnd,
                                    predicate);
}
inline int __syncthreads_or(int predicate, MIGE_EMULATOR_SITE) {
  return mige::emulator::meet_block("__syncthreads_or", site, mige::emulator::Vote::kOr, predicate);
}

inline void __syncwarp(unsigned mask = 0xffffffffu, MIGE_EMULATOR_SITE) {
  mige::emulator::meet_warp("__syncwarp", site, mask);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, MIGE_EMULATOR_SITE) {
  return mige::emulator::ballot("__ballot_sync", site, mask, predicate != 0);
}
inline int __any_sync(unsigned mask, int predicate, MIGE_EMULATOR_SITE) {
  return mige::emulator::ballot("__any_sync", site, mask, predicate != 0) != 0;
}
inline int __all_sync(unsigned mask, int predicate, MIGE_EMULATOR_SITE) {
  return mige::emulator::ballot("__all_sync", site, mask, predicate != 0) == mask;
}

namespace mige::emulator {

template <typename T>
T shuffle_value(const char* primitive, Site site, unsigned mask, T value, Shuffle how, int operand,
                int width) {
  static_assert(std::is_arithmetic_v<T> && sizeof(T) <= sizeof(uint64_t));
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(value));
  bits = shuffle(primitive, site, mask, bits, how, operand, width);
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

}  // namespace mige::emulator

template <typename T>
T __shfl_sync(unsigned mask, T value, int lane, int width = warpSize, MIGE_EMULATOR_SITE) {
  return mige::emulator::shuffle_value("__shfl_sync", site, mask, value,
                                       mige::emulator::Shuffle::kIndex, lane, width);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = warpSize, MIGE_EMULATOR_SITE) {
  return mige::emulator::shuffle_value("__shfl_up_sync", site, mask, value,
                                       mige::emulator::Shuffle::kUp, static_cast<int>(delta),
                                       width);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = warpSize,
                   MIGE_EMULATOR_SITE) {
  return mige::emulator::shuffle_value("__shfl_down_sync", site, mask, value,
                                       mige::emulator::Shuffle::kDown, static_cast<int>(delta),
                                       width);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = warpSize, MIGE_EMULATOR_SITE) {
  return mige::emulator::shuffle_value("__shfl_xor_sync", site, mask, value,
                                       mige::emulator::Shuffle::kXor, lanes, width);
}

#undef MIGE_EMULATOR_SITE

// Fibers switch only at barriers and warp primitives, so a fence has nothing to do.
inline void __threadfence() {}
inline void __threadfence_block() {}

// --- atomics ---

namespace mige::emulator {

// Atomics are relaxed, as on the GPU: for ThreadSanitizer they are atomic, but they do not
// synchronize threads.
template <typename T, typename F>
T atomic_update(T* address, F f) {
  T seen, wanted;
  __atomic_load(address, &seen, __ATOMIC_RELAXED);
  do {
    wanted = f(seen);
  } while (!__atomic_compare_exchange(address, &seen, &wanted, true, __ATOMIC_RELAXED,
                                      __ATOMIC_RELAXED));
  return seen;
}

}  // namespace mige::emulator

// T is not deduced from `v`, so that atomicAdd(unsigned*, 1) works as in CUDA.
template <typename T>
T atomicAdd(T* address, std::common_type_t<T> v) {
  return mige::emulator::atomic_update(address, [v](T old) { return static_cast<T>(old + v); });
}
template <typename T>
T atomicSub(T* address, std::common_type_t<T> v) {
  return mige::emulator::atomic_update(address, [v](T old) { return static_cast<T>(old - v); });
}
template <typename T>
T atomicExch(T* address, std::common_type_t<T> v) {
  return mige::emulator::atomic_update(address, [v](T) { return v; });
}
template <typename T>
T atomicCAS(T* address, std::common_type_t<T> expected, std::common_type_t<T> v) {
  return mige::emulator::atomic_update(address, [=](T old) { return old == expected ? v : old; });
}

// CUDA has the other atomics for integers only.
template <typename T>
std::enable_if_t<std::is_integral_v<T>, T> atomicMax(T* address, std::common_type_t<T> v) {
  return mige::emulator::atomic_update(address, [v](T old) { return old < v ? v : old; });
}
template <typename T>
std::enable_if_t<std::is_integral_v<T>, T> atomicMin(T* address, std::common_type_t<T> v) {
  return mige::emulator::atomic_update(address, [v](T old) { return v < old ? v : old; });
}
template <typename T>
std::enable_if_t<std::is_integral_v<T>, T> atomicOr(T* address, std::common_type_t<T> v) {
  return mige::emulator::atomic_update(address, [v](T old) { return static_cast<T>(old | v); });
}
template <typename T>
std::enable_if_t<std::is_integral_v<T>, T> atomicAnd(T* address, std::common_type_t<T> v) {
  return mige::emulator::atomic_update(address, [v](T old) { return static_cast<T>(old & v); });
}

// --- arithmetic ---

inline int __popc(unsigned v) { return __builtin_popcount(v); }
inline int __popcll(unsigned long long v) { return __builtin_popcountll(v); }
inline int __ffs(int v) { return __builtin_ffs(v); }
inline int __ffsll(long long v) { return __builtin_ffsll(v); }
inline int __clz(int v) { return v == 0 ? 32 : __builtin_clz(static_cast<unsigned>(v)); }
inline int __clzll(long long v) {
  return v == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(v));
}

inline float rsqrtf(float v) { return 1.0f / std::sqrt(v); }
inline double rsqrt(double v) { return 1.0 / std::sqrt(v); }
inline float rsqrt(float v) { return rsqrtf(v); }

template <typename T>
T __ldg(const T* address) {
  return *address;
}

// min and max as in CUDA. The result has the wider of the two types, and is unsigned if one of the
// types is. If one argument is NaN, the result is the other argument.
template <typename A, typename B>
std::enable_if_t<std::is_arithmetic_v<A> && std::is_arithmetic_v<B>, std::common_type_t<A, B>> min(
    A a, B b) {
  using T = std::common_type_t<A, B>;
  if constexpr (std::is_floating_point_v<T>) return std::fmin(static_cast<T>(a), static_cast<T>(b));
  return static_cast<T>(b) < static_cast<T>(a) ? static_cast<T>(b) : static_cast<T>(a);
}
template <typename A, typename B>
std::enable_if_t<std::is_arithmetic_v<A> && std::is_arithmetic_v<B>, std::common_type_t<A, B>> max(
    A a, B b) {
  using T = std::common_type_t<A, B>;
  if constexpr (std::is_floating_point_v<T>) return std::fmax(static_cast<T>(a), static_cast<T>(b));
  return static_cast<T>(a) < static_cast<T>(b) ? static_cast<T>(b) : static_cast<T>(a);
}

// --- host functions ---

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorSharedObjectSymbolNotFound = 302,
  cudaErrorNotSupported = 801,
  cudaErrorUnknown = 999,
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97,
};
enum cudaMemcpyKind {
  cudaMemcpyHostToHost,
  cudaMemcpyHostToDevice,
  cudaMemcpyDeviceToHost,
  cudaMemcpyDeviceToDevice,
  cudaMemcpyDefault,
};
using cudaStream_t = struct CUstream_st*;

const char* cudaGetErrorString(cudaError_t error);
cudaError_t cudaGetLastError();
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value);
cudaError_t cudaMemsetAsync(void* address, int value, size_t bytes, cudaStream_t stream = nullptr);
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream = nullptr);
