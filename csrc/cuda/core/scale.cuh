// The magnitude of the samples of each group, max |x_i|, and the power of two that scales the
// samples. Both stay on the device, so that the host does not wait for the device.
//
// A group with a NaN or an infinity has the magnitude NaN, and every kernel writes NaN to all
// results of this group. (On the CPU such input raises an error. CUDA kernels run asynchronously
// and cannot raise one.)
#pragma once

#include "common/radix_select.h"
#include "cuda/core/reduce.cuh"
#include "cuda/core/workspace.cuh"

namespace mige::cuda {

template <typename T>
__device__ __forceinline__ T not_a_number() {
  return value_of<T>(KeyOf<T>::kInfinity | 1);
}

// The magnitude with this key, or NaN if the magnitude is not finite.
template <typename T>
__device__ __forceinline__ T magnitude_of(Key<T> key) {
  return key < KeyOf<T>::kInfinity ? value_of<T>(key) : not_a_number<T>();
}

// The key of |v|.
template <typename T>
__device__ __forceinline__ Key<T> magnitude_key(T v) {
  return key_of(v) << 1 >> 1;
}

// Sets *largest to the maximum of *largest and the keys of all lanes of a warp.
template <typename K>
__device__ __forceinline__ void take_largest_key(K key, K* largest) {
  key = warp_max(key);
  if (threadIdx.x % kWarp == 0 && key > 0) atomicMax(largest, key);
}

constexpr int kScaleThreads = 256;

// Computes largest[g] = max(largest[g], |x_i|) as keys, over the `count` values of every group. If
// `columns` is not 0, the values of a group are a square matrix, and only its lower triangle
// counts. A thread takes every (256 gridDim.x)-th value of a group, and blockIdx.y selects the
// groups. Work: reads `count` values once. Registers: at most 64.
template <typename T>
__global__ void __launch_bounds__(kScaleThreads, 4)
    largest_magnitude_kernel(const T* __restrict__ x,  // [groups, count]
                             int64_t groups, int64_t count, int64_t columns,
                             Key<T>* __restrict__ largest) {  // [groups]
  for (int64_t g = blockIdx.y; g < groups; g += gridDim.y) {
    Key<T> key = 0;
    grid_stride<kScaleThreads>(count, [&](int64_t i) {
      if (columns != 0 && i % columns > i / columns) return;
      const Key<T> magnitude = magnitude_key(x[g * count + i]);
      key = magnitude > key ? magnitude : key;
    });
    take_largest_key(key, &largest[g]);
  }
}

// The offset that `center` subtracts from the scaled column c: scale times the median of five rows.
template <typename T>
__device__ __forceinline__ T column_center(const T* x,  // [m, d]
                                           int64_t m, int64_t d, int64_t c, T scale) {
  const auto row = [&](int64_t r) { return x[r * (m - 1) / 4 * d + c]; };
  return scale * median_of_five(row(0), row(1), row(2), row(3), row(4));
}

// Whether σ is positive and finite and the group is finite.
template <typename T>
__device__ __forceinline__ bool is_bandwidth(T sigma, T magnitude) {
  return is_positive_and_finite(sigma) && magnitude == magnitude;
}

// Computes centered_ic = scale x_ic − scale o_c, with o_c the median of five values of column c.
// The subtraction removes an offset common to all samples. A far outlier moves a mean, but not a
// median. The scale is ScaledBandwidth::scale with a bandwidth, and normal_scale without a
// bandwidth. A thread takes every (256 gridDim.x)-th column of every gridDim.y-th row, and
// blockIdx.z selects the groups. Work: reads and writes m d values. Registers: at most 64.
template <typename T>
__global__ void __launch_bounds__(kScaleThreads, 4)
    center_kernel(const T* __restrict__ x,  // [groups, m, d]
                  int64_t groups, int64_t m, int64_t d,
                  const Key<T>* __restrict__ largest,  // [groups]
                  const T* __restrict__ bandwidth,     // [groups] or nullptr
                  T* __restrict__ centered) {          // [groups, m, d]
  for (int64_t g = blockIdx.z; g < groups; g += gridDim.z) {
    const T magnitude = magnitude_of<T>(largest[g]);
    const T scale =
        bandwidth ? ScaledBandwidth<T>::of(bandwidth[g], magnitude).scale : normal_scale(magnitude);
    const T* const points = x + g * m * d;
    grid_stride<kScaleThreads>(d, [&](int64_t c) {
      const T center = column_center(points, m, d, c, scale);
      for (int64_t i = blockIdx.y; i < m; i += gridDim.y)
        centered[(g * m + i) * d + c] = scale * points[i * d + c] - center;
    });
  }
}

// --- launchers ---

// Raises largest[g] to the largest key of a magnitude in group g of x. largest_magnitude_kernel
// explains `columns`.
template <typename T>
void add_magnitudes(const T* x,  // [groups, count] or nullptr
                    int64_t groups, int64_t count, int64_t columns,
                    Key<T>* largest,  // [groups]
                    Stream& stream) {
  if (x == nullptr || count == 0) return;
  const int64_t blocks = at_most(divide_up(count, 16 * kScaleThreads), 256);
  stream.launch(largest_magnitude_kernel<T>, {{blocks, group_blocks(groups)}, kScaleThreads}, x,
                groups, count, columns, largest);
}

// Writes the key of the largest magnitude in x and y, for every group.
template <typename T>
void largest_magnitudes(const T* x,  // [groups, x_count] or nullptr
                        int64_t x_count,
                        const T* y,  // [groups, y_count] or nullptr
                        int64_t y_count, int64_t groups,
                        Key<T>* largest,  // [groups]
                        Stream& stream) {
  stream.zero(largest, groups);
  add_magnitudes(x, groups, x_count, 0, largest, stream);
  add_magnitudes(y, groups, y_count, 0, largest, stream);
}

template <typename T>
void center(const T* x,  // [groups, m, d]
            int64_t groups, int64_t m, int64_t d,
            const Key<T>* largest,  // [groups]
            const T* bandwidth,     // [groups] or nullptr
            T* centered,            // [groups, m, d]
            Stream& stream) {
  const int64_t columns = at_most(divide_up(d, kScaleThreads), 1024);
  const int64_t rows = at_most(divide_up(m, 8), 256);
  stream.launch(center_kernel<T>, {{columns, rows, group_blocks(groups)}, kScaleThreads}, x, groups,
                m, d, largest, bandwidth, centered);
}

// The bytes of workspace of an operator that needs only the magnitudes.
inline int64_t magnitudes_work(int64_t groups) {
  Workspace space(nullptr);
  space.take<Key<double>>(groups);
  return space.size();
}

}  // namespace mige::cuda
