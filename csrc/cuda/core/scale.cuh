// The size of the samples, and what follows from it: per group, on the device, so that nothing
// waits for the host.
//
// A group with a NaN or an infinity has the magnitude NaN, and every kernel makes NaN of all its
// results: on the CPU such input is an error, which a stream cannot raise.
#pragma once

#include "common/radix_select.h"
#include "cuda/core/device.cuh"

namespace mige::cuda {

template <typename T>
__device__ __forceinline__ T not_a_number() {
  return value_of<T>(KeyOf<T>::kInfinity | 1);
}

// The magnitude behind its key: NaN where it is not finite.
template <typename T>
__device__ __forceinline__ T magnitude_of(Key<T> key) {
  return key < KeyOf<T>::kInfinity ? value_of<T>(key) : not_a_number<T>();
}

constexpr int kScaleThreads = 256;

// largest[g] = max(largest[g], |x_i|) as keys, over the count values of every group. A block takes
// a stretch of one group. Work: reads count values once. Registers: at most 64.
template <typename T>
__global__ void __launch_bounds__(kScaleThreads, 4)
    largest_magnitude_kernel(const T* __restrict__ x,  // [groups, count]
                             int64_t groups, int64_t count,
                             Key<T>* __restrict__ largest) {  // [groups]
  for (int64_t g = blockIdx.y; g < groups; g += gridDim.y) {
    Key<T> key = 0;
    for (int64_t i = blockIdx.x * int64_t(kScaleThreads) + threadIdx.x; i < count;
         i += int64_t(gridDim.x) * kScaleThreads) {
      const Key<T> magnitude = key_of(x[g * count + i]) << 1 >> 1;  // without the sign
      key = magnitude > key ? magnitude : key;
    }
    for (int offset = kWarp / 2; offset > 0; offset /= 2) {
      const Key<T> other = __shfl_xor_sync(kFullMask, key, offset);
      key = other > key ? other : key;
    }
    if (threadIdx.x % kWarp == 0 && key > 0) atomicMax(&largest[g], key);
  }
}

// The offset of column c that `centre` takes out, in units of 1 / scale: the median of five rows.
template <typename T>
__device__ __forceinline__ T column_centre(const T* x,  // [m, d]
                                           int64_t m, int64_t d, int64_t c, T scale) {
  const auto row = [&](int64_t r) { return x[r * (m - 1) / 4 * d + c]; };
  return scale * median_of_five(row(0), row(1), row(2), row(3), row(4));
}

// centred = scale x − scale c, with c the column-wise median of five rows: an offset that all
// samples share goes, and a far outlier, which would carry a mean away, does not matter. The scale
// fits the magnitude alone or, with a bandwidth, the kernel too. A thread takes one column of a
// stretch of rows. Work: reads and writes m d values. Registers: at most 64.
template <typename T>
__global__ void __launch_bounds__(kScaleThreads, 4)
    centre_kernel(const T* __restrict__ x,  // [groups, m, d]
                  int64_t groups, int64_t m, int64_t d,
                  const Key<T>* __restrict__ largest,  // [groups]
                  const T* __restrict__ bandwidth,     // [groups] or nullptr
                  T* __restrict__ centred) {           // [groups, m, d]
  for (int64_t g = blockIdx.z; g < groups; g += gridDim.z) {
    const T magnitude = magnitude_of<T>(largest[g]);
    const T scale =
        bandwidth ? ScaledBandwidth<T>::of(bandwidth[g], magnitude).scale : normal_scale(magnitude);
    const T* const points = x + g * m * d;
    for (int64_t c = blockIdx.x * int64_t(kScaleThreads) + threadIdx.x; c < d;
         c += int64_t(gridDim.x) * kScaleThreads) {
      const T centre = column_centre(points, m, d, c, scale);
      for (int64_t i = blockIdx.y; i < m; i += gridDim.y)
        centred[(g * m + i) * d + c] = scale * points[i * d + c] - centre;
    }
  }
}

// --- launchers ---

inline unsigned grid_z(int64_t groups) {
  return static_cast<unsigned>(groups < kLargestGridYZ ? groups : kLargestGridYZ);
}

// largest becomes the keys of the magnitudes of x, or of x and y together.
template <typename T>
int largest_magnitudes(const T* x, int64_t x_count, const T* y, int64_t y_count, int64_t groups,
                       Key<T>* largest, void* stream) {
  const auto status = cudaMemsetAsync(largest, 0, static_cast<size_t>(groups) * sizeof(Key<T>),
                                      static_cast<cudaStream_t>(stream));
  if (status != cudaSuccess) return static_cast<int>(status);
  const auto run = [&](const T* points, int64_t count) {
    if (points == nullptr || count == 0) return 0;
    const int64_t blocks = divide_up(count, 16 * kScaleThreads);
    const dim3 grid(static_cast<unsigned>(blocks < 256 ? blocks : 256), grid_z(groups));
    return launch(largest_magnitude_kernel<T>, grid, dim3(kScaleThreads), 0, stream, points, groups,
                  count, largest);
  };
  const int failed = run(x, x_count);
  return failed ? failed : run(y, y_count);
}

template <typename T>
int centre(const T* x, int64_t groups, int64_t m, int64_t d, const Key<T>* largest,
           const T* bandwidth, T* centred, void* stream) {
  const int64_t columns = divide_up(d, kScaleThreads), rows = divide_up(m, 8);
  const dim3 grid(static_cast<unsigned>(columns < 1024 ? columns : 1024),
                  static_cast<unsigned>(rows < 256 ? rows : 256), grid_z(groups));
  return launch(centre_kernel<T>, grid, dim3(kScaleThreads), 0, stream, x, groups, m, d, largest,
                bandwidth, centred);
}

// --- work space ---

// Cuts arrays from one allocation. Over nullptr it only counts, so that the function that lays an
// operator's work space out also says how large it is.
class WorkSpace {
 public:
  explicit WorkSpace(void* start) : start_(static_cast<char*>(start)) {}

  template <typename U>
  U* take(int64_t count) {
    constexpr size_t kAlignment = 256;
    char* const at = start_ ? start_ + size_ : nullptr;
    size_ += (static_cast<size_t>(count) * sizeof(U) + kAlignment - 1) / kAlignment * kAlignment;
    return reinterpret_cast<U*>(at);
  }

  int64_t size() const { return static_cast<int64_t>(size_); }

 private:
  char* start_;
  size_t size_ = 0;
};

}  // namespace mige::cuda
