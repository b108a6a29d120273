// The host functions of the emulated CUDA runtime: errors, attributes, copies.
#include "host.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <utility>
#include <vector>

#include "cuda_runtime.h"

namespace mige::emulator {
namespace {

constexpr size_t kSmemWithoutAsking = 48 * 1024;
constexpr size_t kMostLaunches = 100000;  // launches in the list of take_launches
constexpr unsigned kLargestGridX = 2147483647, kLargestGridYZ = 65535, kLargestBlockZ = 64;

cudaError_t last_error = cudaSuccess;
std::map<const void*, size_t> granted_smem;  // by kernel
std::map<const void*, size_t> used_smem;     // by kernel, the most of all launches
std::vector<Launch> launches;

cudaError_t report(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

}  // namespace

Device& device() {
  static Device instance;
  return instance;
}

std::vector<Launch> take_launches() { return std::exchange(launches, {}); }

void set_device(int shared_memory_per_block, int multiprocessors) {
  granted_smem.clear();
  used_smem.clear();
  device() = {shared_memory_per_block, multiprocessors, device().index + 1};
}

bool accept_launch(Kernel kernel, dim3 grid, dim3 block, size_t smem) {
  const auto granted = granted_smem.find(kernel.address);
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  const bool grid_fits = grid.x <= kLargestGridX && grid.y <= kLargestGridYZ &&
                         grid.z <= kLargestGridYZ && uint64_t{grid.x} * grid.y * grid.z > 0;
  const bool block_fits = threads > 0 && block.x <= kLargestBlock && block.y <= kLargestBlock &&
                          block.z <= kLargestBlockZ && threads <= kLargestBlock;
  if (!grid_fits || !block_fits) return report(cudaErrorInvalidConfiguration) == cudaSuccess;
  if (smem > (granted == granted_smem.end() ? kSmemWithoutAsking : granted->second))
    return report(cudaErrorInvalidValue) == cudaSuccess;
  // A GPU refuses a limit that does not fit beside the kernel's static shared memory, whose size is
  // unknown here. A kernel therefore must not ask for more dynamic shared memory than it uses.
  size_t& used = used_smem[kernel.address];
  used = std::max(used, smem);
  if (granted != granted_smem.end() && granted->second > std::max(used, kSmemWithoutAsking))
    return report(cudaErrorInvalidValue) == cudaSuccess;
  if (launches.size() == kMostLaunches) launches.clear();
  launches.push_back({kernel.types, uint64_t{grid.x} * grid.y * grid.z});
  return true;
}

}  // namespace mige::emulator

using namespace mige::emulator;

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
    case cudaErrorSharedObjectSymbolNotFound:
      return "shared object symbol not found";
    case cudaErrorNotSupported:
      return "operation not supported";
    case cudaErrorUnknown:
      return "unknown error";
  }
  return "unrecognized error code";
}

cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }

cudaError_t cudaGetDevice(int* index) {
  *index = device().index;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int index) {
  return index == device().index ? cudaSuccess : report(cudaErrorInvalidValue);
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int index) {
  if (index != device().index) return report(cudaErrorInvalidValue);
  switch (attribute) {
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = device().shared_memory_per_block;
      return cudaSuccess;
    case cudaDevAttrMultiProcessorCount:
      *value = device().multiprocessors;
      return cudaSuccess;
  }
  return report(cudaErrorInvalidValue);
}

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize || value < 0 ||
      value > device().shared_memory_per_block)
    return report(cudaErrorInvalidValue);
  granted_smem[kernel] = std::max(kSmemWithoutAsking, static_cast<size_t>(value));
  return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void* address, int value, size_t bytes, cudaStream_t) {
  std::memset(address, value, bytes);
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind,
                            cudaStream_t) {
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}
