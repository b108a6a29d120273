// Functions of the CUDA runtime. They are here and not in a header, because <map> and <mutex> take
// a third of a second to compile in each file.
#include <map>
#include <mutex>
#include <utility>

#include "cuda/core/device.cuh"
#include "cuda/launchers.h"

namespace mige::cuda {

const char* error_text(int status) { return cudaGetErrorString(static_cast<cudaError_t>(status)); }

int use_device(int index) { return static_cast<int>(cudaSetDevice(index)); }

size_t largest_smem() {
  int device = 0, bytes = 0;
  if (cudaGetDevice(&device) != cudaSuccess ||
      cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) !=
          cudaSuccess)
    return kDefaultSmem;
  return static_cast<size_t>(bytes);
}

cudaError_t allow_smem(const void* kernel, size_t bytes) {
  static std::mutex mutex;
  static std::map<std::pair<const void*, int>, size_t> allowed;
  int device = 0;
  if (const cudaError_t status = cudaGetDevice(&device); status != cudaSuccess) return status;
  const std::lock_guard<std::mutex> lock(mutex);
  size_t& limit = allowed[{kernel, device}];
  if (bytes <= limit) return cudaSuccess;
  const cudaError_t status = cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
  if (status == cudaSuccess) limit = bytes;
  return status;
}

}  // namespace mige::cuda
