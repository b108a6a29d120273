// The two things a kernel needs from its surroundings: how it is launched, and its dynamic shared
// memory. Kernels use nothing else of the CUDA runtime, so that other back ends can stand in for
// it.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace mige::cuda {

constexpr int64_t kLargestGridX = 2147483647;
constexpr int64_t kLargestGridYZ = 65535;

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The dynamic shared memory of the running block, as an array of T.
template <typename T>
__device__ __forceinline__ T* dynamic_smem() {
  extern __shared__ __align__(16) unsigned char mige_dynamic_smem[];
  return reinterpret_cast<T*>(mige_dynamic_smem);
}

// Launches and reports what the launch itself can report; 0 is success.
template <typename... Parameters, typename... Arguments>
int launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t smem, void* stream,
           Arguments... arguments) {
  kernel<<<grid, block, smem, static_cast<cudaStream_t>(stream)>>>(
      static_cast<Parameters>(arguments)...);
  return static_cast<int>(cudaGetLastError());
}

}  // namespace mige::cuda
