// What a kernel needs from its surroundings: how it is launched, and its dynamic shared memory.
// Kernels use nothing else of the CUDA runtime but thread indices, barriers, warp shuffles and
// atomics, so that g++ can compile them too, against the stand-in for <cuda_runtime.h> in
// tests/emulator, and run them without a GPU.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "common/math.h"

namespace mige::cuda {

constexpr int kWarp = 32;
constexpr unsigned kFullMask = 0xffffffffu;
constexpr int64_t kLargestGridX = 2147483647;
constexpr int64_t kLargestGridYZ = 65535;
constexpr size_t kDefaultSmem = 48 * 1024;  // dynamic shared memory that needs no opting in

// The dynamic shared memory of the running block, as an array of T.
template <typename T>
__device__ __forceinline__ T* dynamic_smem() {
#ifdef __CUDACC__
  extern __shared__ __align__(16) unsigned char mige_dynamic_smem[];
  return reinterpret_cast<T*>(mige_dynamic_smem);
#else
  return static_cast<T*>(emulator::dynamic_smem());
#endif
}

// Dynamic shared memory that one block may have on the current device, after opting in.
inline size_t largest_smem() {
  int device = 0, bytes = 0;
  if (cudaGetDevice(&device) != cudaSuccess ||
      cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) !=
          cudaSuccess)
    return kDefaultSmem;
  return static_cast<size_t>(bytes);
}

// Launches and reports what the launch itself can report; 0 is success.
template <typename... Parameters, typename... Arguments>
int launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t smem,
           [[maybe_unused]] void* stream, Arguments... arguments) {
  if (smem > kDefaultSmem) {
    // Always to the most that the device has: the setting is the kernel's, shared by all threads of
    // the host, and a smaller one could come between another's setting and its launch.
    const size_t limit = largest_smem() > smem ? largest_smem() : smem;
    const cudaError_t status =
        cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                             cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(limit));
    // Also taken off the record, where the next launch would find it.
    if (status != cudaSuccess) return static_cast<int>(cudaGetLastError());
  }
#ifdef __CUDACC__
  kernel<<<grid, block, smem, static_cast<cudaStream_t>(stream)>>>(
      static_cast<Parameters>(arguments)...);
#else
  emulator::launch(grid, block, smem, [&] { kernel(static_cast<Parameters>(arguments)...); });
#endif
  return static_cast<int>(cudaGetLastError());
}

}  // namespace mige::cuda
