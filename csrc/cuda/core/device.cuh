// Launches of kernels, and the dynamic shared memory of kernels.
//
// Kernels use only a part of CUDA: thread indices, barriers, warp shuffles, votes, atomics and bit
// intrinsics (__clz, __ffs). tests/emulator has a replacement of <cuda_runtime.h> for this part.
// With the replacement g++ can compile the kernels, and they run without a GPU.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <utility>

#include "common/math.h"

namespace mige::cuda {

constexpr int kWarp = 32;
constexpr unsigned kFullMask = 0xffffffffu;
constexpr int64_t kLargestGridX = 2147483647;
constexpr int64_t kLargestGridYZ = 65535;
// The largest dynamic shared memory, in bytes, that a kernel gets without cudaFuncSetAttribute.
constexpr size_t kDefaultSmem = 48 * 1024;

// The dynamic shared memory of the current thread block, as an array of T.
template <typename T>
__device__ __forceinline__ T* dynamic_smem() {
#ifdef __CUDACC__
  extern __shared__ __align__(16) unsigned char mige_dynamic_smem[];
  return reinterpret_cast<T*>(mige_dynamic_smem);
#else
  return static_cast<T*>(emulator::dynamic_smem());
#endif
}

// The largest shared memory of a thread block on the current device, in bytes: dynamic and static
// shared memory together.
size_t largest_smem();

// Allows a kernel `bytes` of dynamic shared memory on the current device. All launches of a kernel
// share one limit, which never falls: a smaller limit could make a launch by another host thread
// fail. The limit is not `largest_smem()`, which CUDA refuses for a kernel that has static shared
// memory too.
cudaError_t allow_smem(const void* kernel, size_t bytes);

// The number of thread blocks along each axis. A kernel that loops over groups has at most
// group_blocks(groups) thread blocks along y or z.
struct Grid {
  int64_t x = 1, y = 1, z = 1;
};

struct LaunchShape {
  Grid grid;
  int threads;
  size_t smem = 0;  // bytes of dynamic shared memory
};

MIGE_HOST_DEVICE int64_t at_most(int64_t value, int64_t limit) {
  return value < limit ? value : limit;
}
inline int64_t group_blocks(int64_t groups) { return at_most(groups, kLargestGridYZ); }

// Enqueues work on a CUDA stream. After the first error nothing more is enqueued. A launcher
// therefore lists its steps and returns status() at its end.
class Stream {
 public:
  explicit Stream(void* stream) : stream_(static_cast<cudaStream_t>(stream)) {}

  // The cudaError_t of the first step that failed, or 0 if none failed.
  int status() const { return static_cast<int>(status_); }

  // Calls another launcher, which takes a stream as its last argument and returns a status.
  template <typename Launcher, typename... Arguments>
  void call(Launcher launcher, Arguments... arguments) {
    if (status_ == cudaSuccess)
      remember(static_cast<cudaError_t>(launcher(arguments..., static_cast<void*>(stream_))));
  }

  // Launches a kernel, unless an earlier step has failed.
  template <typename... Parameters, typename... Arguments>
  void launch(void (*kernel)(Parameters...), const LaunchShape& shape, Arguments... arguments) {
    const Grid& grid = shape.grid;
    if (grid.x > kLargestGridX || grid.y > kLargestGridYZ || grid.z > kLargestGridYZ)
      remember(cudaErrorInvalidConfiguration);
    auto* const address = reinterpret_cast<const void*>(kernel);
    if (shape.smem > kDefaultSmem) remember(allow_smem(address, shape.smem));
    if (status_ != cudaSuccess) return;
    const dim3 blocks(static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y),
                      static_cast<unsigned>(grid.z));
    const dim3 threads(static_cast<unsigned>(shape.threads));
#ifdef __CUDACC__
    kernel<<<blocks, threads, shape.smem, stream_>>>(static_cast<Parameters>(arguments)...);
#else
    emulator::launch(address, blocks, threads, shape.smem,
                     [&] { kernel(static_cast<Parameters>(arguments)...); });
#endif
    remember(cudaGetLastError());
  }

  // Sets all bytes of `count` values to zero.
  template <typename T>
  void zero(T* values, int64_t count) {  // values [count]
    if (status_ == cudaSuccess)
      remember(cudaMemsetAsync(values, 0, static_cast<size_t>(count) * sizeof(T), stream_));
  }

 private:
  void remember(cudaError_t status) {
    if (status == cudaSuccess) return;
    cudaGetLastError();  // clears the error, which the next launch would report again
    if (status_ == cudaSuccess) status_ = status;
  }

  cudaStream_t stream_;
  cudaError_t status_ = cudaSuccess;
};

// Calls f(i) for every i < count, distributed over the threads of the grid along x. Most grids have
// a thread for every i, so by default the loop is not unrolled. (nvcc would unroll it four times.)
template <int kThreads, int kUnroll = 1, typename F>
__device__ __forceinline__ void grid_stride(int64_t count, const F& f) {
#pragma unroll kUnroll
  for (int64_t i = blockIdx.x * int64_t(kThreads) + threadIdx.x; i < count;
       i += int64_t(gridDim.x) * kThreads)
    f(i);
}

constexpr int kElementThreads = 256;

// The launch shape of an elementwise kernel. A thread takes every (256 gridDim.x)-th element of a
// group, and blockIdx.y selects the groups.
inline LaunchShape elementwise(int64_t count, int64_t groups) {
  return {{at_most(divide_up(count, kElementThreads), 4096), group_blocks(groups)},
          kElementThreads};
}

constexpr int kRowThreads = 256;  // threads of kernels in which a warp takes a row
constexpr int kRowWarps = kRowThreads / kWarp;

// The launch shape of a kernel in which a warp takes a row or a column, and blockIdx.y selects the
// groups.
inline LaunchShape row_warps(int64_t rows, int64_t groups) {
  return {{divide_up(rows, kRowWarps), group_blocks(groups)}, kRowThreads};
}

// Calls f(i) for every i < rows. All lanes of a warp get the same i.
template <typename F>
__device__ __forceinline__ void for_each_row(int64_t rows, const F& f) {
  for (int64_t i = blockIdx.x * int64_t(kRowWarps) + threadIdx.x / kWarp; i < rows;
       i += int64_t(gridDim.x) * kRowWarps)
    f(i);
}

// Instantiates the launcher of an operator and the size of its workspace for float and double.
#define MIGE_INSTANTIATE(name)                              \
  template decltype(name<float>) name<float>;               \
  template decltype(name<double>) name<double>;             \
  template decltype(name##_work<float>) name##_work<float>; \
  template decltype(name##_work<double>) name##_work<double>

}  // namespace mige::cuda
